"""Video reading and writing: what goes in comes out, whole or not at all."""

import av
import numpy as np
import pytest
from PIL import Image

from datasets.errors import InputError
from datasets.files import whole
from datasets.media import images, video


def noise(frames=5, height=33, width=47, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def smooth(frames=9, height=64, width=64):
    t, y, x = np.mgrid[:frames, :height, :width]
    return np.stack([x * 3, y * 3, t * 20 + 20], axis=-1).astype(np.uint8)


def test_ffv1_gives_back_the_same_bytes(tmp_path):
    frames = noise()
    video.write_ffv1(tmp_path / "a.mkv", frames, 23.976)
    again, fps = video.read_video(tmp_path / "a.mkv")
    assert np.array_equal(again, frames)
    assert fps == pytest.approx(23.976, abs=1e-3)
    assert video.frames_sha256(again) == video.frames_sha256(frames)


def write_at(path, frames, times, unit=1000):
    """A lossless video whose frames are shown at these times, in seconds rounded to 1 / ``unit``."""
    from fractions import Fraction

    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "bgr0"
        stream.codec_context.time_base = Fraction(1, unit)
        for image, time in zip(frames, times, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="bgr0")
            frame.pts, frame.time_base = round(time * unit), Fraction(1, unit)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.mark.parametrize("rate", [24, 24000 / 1001, 16, 60])
def test_a_steady_rate_has_its_own_times_however_the_container_rounds(tmp_path, rate):
    frames = noise(30)
    video.write_ffv1(tmp_path / "a.mkv", frames, rate)
    again, times, fps = video.read_timed(tmp_path / "a.mkv", start=2, stride=3)
    assert np.array_equal(again, frames[2::3])
    assert np.allclose(times, np.arange(10) * 3 / rate, atol=1e-4)
    assert fps == pytest.approx(rate / 3, rel=1e-4)


def test_frames_of_a_variable_rate_have_the_times_of_the_file(tmp_path):
    stated = [*np.arange(8) / 24, *(8 / 24 + np.arange(9) / 4)]
    write_at(tmp_path / "a.mkv", noise(17), stated)
    _, times, fps = video.read_timed(tmp_path / "a.mkv")
    assert np.allclose(times, stated, atol=1e-3)
    assert fps == pytest.approx(16 / stated[-1], rel=1e-2)
    _, later, _ = video.read_timed(tmp_path / "a.mkv", start=6, count=4)
    assert np.allclose(later, np.array(stated[6:10]) - stated[6], atol=2e-3)


def test_start_count_and_stride_pick_frames(tmp_path):
    frames = noise(12)
    video.write_ffv1(tmp_path / "a.mkv", frames, 24)
    picked, _ = video.read_video(tmp_path / "a.mkv", start=1, count=3, stride=4)
    assert np.array_equal(picked, frames[[1, 5, 9]])
    short, _ = video.read_video(tmp_path / "a.mkv", start=10, count=5)
    assert np.array_equal(short, frames[10:])
    with pytest.raises(InputError, match=r"a\.mkv.*frame 12"):
        video.read_video(tmp_path / "a.mkv", start=12)


@pytest.mark.parametrize("shape", [(33, 47), (64, 64), (300, 401)])
def test_h264_has_even_sides_and_is_large_enough_to_watch(tmp_path, shape):
    video.write_h264(tmp_path / "a.mp4", smooth(3, *shape), 24)
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert stream.width % 2 == stream.height % 2 == 0
        assert min(stream.width, stream.height) >= 256
    assert video.count_frames(tmp_path / "a.mp4") == 3


def test_h264_shows_the_frames_enlarged(tmp_path):
    frames = smooth()
    video.write_h264(tmp_path / "a.mp4", frames, 12)
    shown, fps = video.read_video(tmp_path / "a.mp4")
    assert fps == 12
    assert shown.shape == (9, 256, 256, 3)
    assert np.abs(shown[:, 2::4, 2::4].astype(int) - frames).mean() < 6


def test_gif_with_transparency_is_read_over_white(tmp_path):
    colours = [(200, 30, 30), (30, 200, 30), (30, 30, 200)]
    pictures = []
    for colour in colours:
        picture = Image.new("RGBA", (40, 32), (*colour, 255))
        picture.paste((0, 0, 0, 0), (0, 0, 20, 32))
        pictures.append(picture)
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=100, disposal=2)
    frames, fps = video.read_video(tmp_path / "a.gif")
    assert frames.shape == (3, 32, 40, 3)
    assert fps == 10
    assert (frames[:, :, :20] == 255).all()
    for frame, colour in zip(frames, colours, strict=True):
        assert (frame[:, 20:] == colour).all()
    assert video.count_frames(tmp_path / "a.gif") == 3


def test_a_rotation_stored_in_the_file_is_applied(tmp_path):
    frames = smooth(2, 64, 96)
    video.write_h264(tmp_path / "a.mp4", frames, 24, min_side=1)
    data = (tmp_path / "a.mp4").read_bytes()

    def matrix(*values):
        return b"".join(int(value).to_bytes(4, "big", signed=True) for value in values)

    one = 1 << 16
    upright = matrix(one, 0, 0, 0, one, 0, 0, 0, 1 << 30)
    # The display matrix of a clip filmed upright with a phone: a quarter turn clockwise.
    turned = matrix(0, one, 0, -one, 0, 0, 64 * one, 0, 1 << 30)
    at = data.index(upright, data.index(b"tkhd"))
    (tmp_path / "b.mp4").write_bytes(data[:at] + turned + data[at + len(turned) :])
    plain, _ = video.read_video(tmp_path / "a.mp4")
    rotated, _ = video.read_video(tmp_path / "b.mp4")
    assert np.array_equal(rotated, np.rot90(plain, -1, axes=(1, 2)))


@pytest.mark.parametrize("content", [b"", b"this is no video" * 50])
@pytest.mark.parametrize("read", [video.read_video, video.count_frames])
def test_an_unreadable_video_is_named(tmp_path, content, read):
    (tmp_path / "bad.mp4").write_bytes(content)
    with pytest.raises(InputError, match=r"bad\.mp4"):
        read(tmp_path / "bad.mp4")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "a.mkv"
    video.write_ffv1(target, noise(), 24)
    before = target.read_bytes()
    with pytest.raises(RuntimeError), whole(target) as temporary:
        temporary.write_bytes(b"half of it")
        raise RuntimeError
    assert target.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.mkv"]


def test_the_digest_tells_shape_and_bytes_apart():
    frames = noise(4, 8, 6)
    digests = {
        video.frames_sha256(frames),
        video.frames_sha256(frames.reshape(4, 6, 8, 3)),
        video.frames_sha256(frames[::-1]),
    }
    assert len(digests) == 3
    assert video.frames_sha256(np.asfortranarray(frames)) == video.frames_sha256(frames)


@pytest.mark.parametrize(
    "source,target", [((120, 200), (48, 48)), ((60, 90), (96, 64)), ((51, 77), (40, 64))]
)
def test_resize_crop_puts_each_pixel_where_the_rule_says(source, target):
    (rows, columns), (height, width) = source, target
    y, x = np.mgrid[:rows, :columns]
    frames = np.stack([x, y, 0 * x], axis=-1)[None].astype(np.uint8)
    scale = max(height / rows, width / columns)
    expected_x = (np.arange(width) + 0.5 - width / 2) / scale + columns / 2 - 0.5
    expected_y = (np.arange(height) + 0.5 - height / 2) / scale + rows / 2 - 0.5
    fitted = images.resize_crop(frames, height, width)[0].astype(float)
    inner = slice(4, -4)
    assert np.abs(fitted[:, inner, 0] - expected_x[inner]).max() <= 0.51
    assert np.abs(fitted[inner, :, 1] - expected_y[inner, None]).max() <= 0.51


def test_resize_crop_averages_what_it_shrinks():
    checks = np.indices((64, 64)).sum(axis=0) % 2 * 255
    frames = np.repeat(checks[None, :, :, None], 3, axis=3).astype(np.uint8)
    assert np.abs(images.resize_crop(frames, 16, 16).astype(int) - 127).max() <= 12


def test_mask_and_frames_are_cropped_alike():
    mask = np.zeros((90, 150), bool)
    mask[30:70, 50:110] = True
    frames = np.repeat(mask[None, :, :, None] * np.uint8(255), 3, axis=3)
    fitted = images.resize_crop(mask, 48, 64)
    assert fitted.dtype == bool
    assert (fitted != (images.resize_crop(frames, 48, 64)[0, :, :, 0] > 127)).mean() < 0.03


def test_the_right_size_comes_back_unchanged():
    frames = noise(2)
    assert np.array_equal(images.resize_crop(frames, 33, 47), frames)


def test_sheet_puts_the_reference_over_the_generated_video(tmp_path):
    reference, generated = noise(17, 64, 64), noise(17, 64, 64, seed=1)
    picture = images.sheet(reference, generated, tmp_path / "sheet.png", columns=5)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "sheet.png")), picture)
    side, gap = 128, 4
    assert picture.shape == (2 * side + gap, 5 * (side + gap) - gap, 3)
    for column, frame in enumerate((0, 4, 8, 12, 16)):
        left = column * (side + gap)
        assert np.array_equal(picture[:side:2, left : left + side : 2], reference[frame])
        assert np.array_equal(picture[side + gap :: 2, left : left + side : 2], generated[frame])


def test_labels_stand_above_the_strips_and_are_cut_where_they_are_too_long():
    bare = images.sheet(noise(9, 64, 64), noise(9, 64, 64, seed=1))
    short, long = (
        images.sheet(noise(9, 64, 64), noise(9, 64, 64, seed=1), labels=("reference", text))
        for text in ("none: a red star", "none: " + "a red star " * 50)
    )
    high = (len(short) - len(bare)) // 2
    assert short.shape == long.shape == (len(bare) + 2 * high, *bare.shape[1:])
    assert np.array_equal(np.delete(short, [*range(high), *range(high + 132, 2 * high + 132)], 0), bare)
    above = short[:high], short[high + 132 : 2 * high + 132], long[high + 132 : 2 * high + 132]
    assert all((part < 128).any() for part in above)
    assert (above[1][:, 400:] == 255).all() and (above[2][:, 800:1000] < 128).any()


def test_sheet_takes_videos_of_different_size_and_length():
    assert images.sheet(noise(9, 480, 832), noise(3, 64, 64)).shape == (2 * 185 + 4, 8 * 324 - 4, 3)


def test_a_truncated_picture_is_named(tmp_path):
    Image.fromarray(noise(1, 64, 64)[0]).save(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:700])
    with pytest.raises(InputError, match=r"b\.jpg"):
        images.read_image(tmp_path / "b.jpg")


def test_masks_of_every_kind_are_read(tmp_path):
    expected = np.zeros((8, 9), bool)
    expected[2:5, 3:7] = True
    grey = Image.fromarray(expected.astype(np.uint8))
    palette = grey.copy()
    palette.putpalette([0, 0, 0, 128, 0, 0])
    alpha = np.dstack([expected * np.uint8(9)] * 3 + [np.full((8, 9), 255, np.uint8)])
    pictures = {"grey": grey, "palette": palette, "bits": Image.fromarray(expected)}
    pictures["alpha"] = Image.fromarray(alpha)
    for name, picture in pictures.items():
        picture.save(tmp_path / f"{name}.png")
        assert np.array_equal(images.read_mask(tmp_path / f"{name}.png"), expected), name
