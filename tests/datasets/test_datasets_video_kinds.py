"""Videos as phones, recorders and exporters make them: each is read as it is meant to be shown."""

import itertools
import struct
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image

from datasets.errors import InputError
from datasets.media import video

RED, GREEN, BLUE, YELLOW = (220, 40, 40), (40, 200, 40), (40, 40, 220), (230, 230, 60)


def clip(frames=17, height=64, width=96):
    """Corners in red, green, blue and yellow; a bar in the middle with the frame's number in five bits."""
    made = np.zeros((frames, height, width, 3), np.uint8)
    rows, columns = height // 3, width // 3
    made[:, :rows, :columns], made[:, :rows, -columns:] = RED, GREEN
    made[:, -rows:, :columns], made[:, -rows:, -columns:] = BLUE, YELLOW
    middle = slice(rows + 2, height - rows - 2)
    for number, bit in itertools.product(range(frames), range(5)):
        if number >> bit & 1:
            made[number, middle, bit * width // 5 : (bit + 1) * width // 5] = 255
    return made


def corners(frames):
    """The names of the nearest colours in the corners of every frame, if they agree."""
    colours = {"R": RED, "G": GREEN, "B": BLUE, "Y": YELLOW, "white": (255, 255, 255), "black": (0, 0, 0)}
    height, width = frames.shape[1:3]
    names = set()
    for frame in frames:
        spots = [
            frame[y, x].astype(int) for y in (height // 8, -height // 8) for x in (width // 8, -width // 8)
        ]
        names.add(" ".join(min(colours, key=lambda c: abs(colours[c] - spot).sum()) for spot in spots))
    return names.pop() if len(names) == 1 else names


def numbers(frames):
    height, width = frames.shape[1:3]
    bits = frames[:, height // 2, [(2 * bit + 1) * width // 10 for bit in range(5)]].mean(-1) > 127
    return (bits * 2 ** np.arange(5)).sum(1).tolist()


def encode(path, frames, codec="libx264", pixels="yuv420p", rate=24, times=None, options=None, **settings):
    """A video of these frames. ``settings``: attributes of the encoder, or ``matrix`` and ``before``."""
    matrix, before = settings.pop("matrix", None), settings.pop("before", lambda container: None)
    with av.open(str(path), "w") as container:
        before(container)
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixels
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for name, value in settings.items():
            setattr(stream.codec_context, name, value)
        if matrix is not None:
            stream.set_display_matrix(matrix)
        for index, image in enumerate(frames):
            form_in = "rgba" if image.shape[-1] == 4 else "rgb24"
            frame = av.VideoFrame.from_ndarray(image, format=form_in).reformat(format=pixels)
            if times is not None:
                frame.pts, frame.time_base = round(times[index] * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


ONE = 1 << 16
UPRIGHT = struct.pack(">9i", ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30)
ORIENTATIONS = [(a, 0, 0, d) for a in (1, -1) for d in (1, -1)] + [
    (0, b, c, 0) for b in (1, -1) for c in (1, -1)
]


def shown_by(matrix, frames):
    """Each pixel where the matrix (a, b, c, d) puts it: from (x, y) to (a x + c y, b x + d y)."""
    a, b, c, d = matrix
    y, x = np.indices(frames.shape[1:3])
    across, down = a * x + c * y, b * x + d * y
    across, down = across - across.min(), down - down.min()
    shown = np.zeros((len(frames), down.max() + 1, across.max() + 1, 3), np.uint8)
    shown[:, down, across] = frames[:, y, x]
    return shown


def turned(path, matrix):
    """A copy of a mp4 whose track header has another display matrix."""
    a, b, c, d = (value * ONE for value in matrix)
    data = path.read_bytes()
    at = data.index(UPRIGHT, data.index(b"tkhd"))
    other = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.with_suffix(".mov").write_bytes(data[:at] + other + data[at + len(other) :])
    return path.with_suffix(".mov")


@pytest.mark.parametrize("matrix", ORIENTATIONS)
def test_all_eight_orientations_of_a_display_matrix_are_applied(tmp_path, matrix):
    encode(tmp_path / "a.mp4", clip(3))
    plain, _ = video.read_video(tmp_path / "a.mp4")
    frames, _ = video.read_video(turned(tmp_path / "a.mp4", matrix))
    assert np.array_equal(frames, shown_by(matrix, plain))


@pytest.mark.parametrize(
    "size,aspect,shown",
    [
        ((48, 64), Fraction(2), (96, 64)),
        ((96, 64), Fraction(1, 2), (96, 128)),
        ((72, 57), Fraction(16, 15), (77, 57)),
        ((96, 64), Fraction(400, 401), (96, 64)),
        ((96, 64), Fraction(1), (96, 64)),
    ],
)
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_pixels_that_are_not_square_are_stretched_in_their_longer_direction(
    tmp_path, size, aspect, shown, suffix
):
    width, height = size
    path = tmp_path / f"a.{suffix}"
    codec, pixels = ("libx264", "yuv444p") if suffix == "mkv" else ("mpeg4", "yuv420p")
    encode(path, clip(4, height, width), codec, pixels, sample_aspect_ratio=aspect)
    frames, _ = video.read_video(path)
    assert frames.shape[1:3] == shown[::-1]
    assert corners(frames) == "R G B Y"
    assert numbers(frames) == [0, 1, 2, 3]
    said = [f"stretched from {width}x{height} to {shown[0]}x{shown[1]}"] if shown != size else []
    assert len(video.remarks(path)) == len(said)
    assert all(text in line for text, line in zip(said, video.remarks(path), strict=True))


def test_a_turned_video_is_stretched_in_its_own_direction_first(tmp_path):
    path = encode(tmp_path / "a.mp4", clip(2, 64, 48), sample_aspect_ratio=Fraction(2))
    plain, _ = video.read_video(path)
    frames, _ = video.read_video(turned(path, (0, 1, -1, 0)))
    assert np.array_equal(frames, shown_by((0, 1, -1, 0), plain))


@pytest.mark.parametrize(
    "name,codec,pixels",
    [
        ("a.webm", "libvpx-vp9", "yuva420p"),
        ("b.webm", "libvpx", "yuva420p"),
        ("c.mkv", "ffv1", "bgra"),
        ("d.mov", "prores_ks", "yuva444p10le"),
        ("e.mov", "qtrle", "argb"),
        ("f.mov", "png", "rgba"),
        ("g.apng", "apng", "rgba"),
    ],
)
def test_what_is_transparent_is_white(tmp_path, name, codec, pixels):
    opaque = clip(5)
    alpha = np.full((*opaque.shape[:3], 1), 255, np.uint8)
    alpha[:, :, 64:] = 0
    options = {"auto-alt-ref": "0"} if codec == "libvpx" else {}
    path = encode(tmp_path / name, np.concatenate([opaque, alpha], -1), codec, pixels, options=options)
    frames, _ = video.read_video(path)
    assert corners(frames) == "R white B white"
    assert video.count_frames(path) == len(frames) == 5
    assert [number & 7 for number in numbers(frames)] == [0, 1, 2, 3, 4]
    _, times, rate = video.read_timed(path)
    assert np.allclose(times, np.arange(5) / 24, atol=1e-3) and rate == pytest.approx(24)


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
@pytest.mark.parametrize("default", [0, 1])
def test_the_default_stream_is_read(tmp_path, suffix, default):
    lengths = [3, 7]
    path = tmp_path / f"a.{suffix}"
    with av.open(str(path), "w") as container:
        streams = []
        for index in range(2):
            stream = container.add_stream("libx264", rate=24)
            stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
            stream.disposition = Disposition.default if index == default else Disposition(0)
            streams.append(stream)
        for stream, length in zip(streams, lengths, strict=True):
            for image in clip(length):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        for stream in streams:
            container.mux(stream.encode())
    frames, _ = video.read_video(path)
    assert numbers(frames) == list(range(lengths[default]))
    assert video.count_frames(path) == lengths[default]


def covered(path, frames, sound=False):
    """A video with a cover picture as its first stream; or a cover and sound alone."""
    with av.open(str(path), "w") as container:
        cover = container.add_stream("mjpeg", rate=1)
        cover.height, cover.width, cover.pix_fmt = 32, 32, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        streams = [cover]
        if frames is not None:
            stream = container.add_stream("libx264", rate=24)
            stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
            streams.append(stream)
        if sound:
            audio = container.add_stream("aac", rate=48000)
            audio.layout = "mono"
            streams.append(audio)
        picture = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 90, np.uint8), format="rgb24")
        container.mux(cover.encode(picture.reformat(format="yuvj420p")))
        if frames is not None:
            for image in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        if sound:
            for index in range(4):
                tone = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
                tone.sample_rate, tone.pts = 48000, index * 1024
                container.mux(audio.encode(tone))
        for stream in streams:
            container.mux(stream.encode())


def test_a_cover_picture_is_no_video(tmp_path):
    covered(tmp_path / "a.mp4", clip(6))
    assert numbers(video.read_video(tmp_path / "a.mp4")[0]) == list(range(6))
    covered(tmp_path / "b.mp4", None, sound=True)
    for read in (video.read_video, video.count_frames, video.remarks):
        with pytest.raises(InputError, match=r"b\.mp4: holds no video, only a cover picture"):
            read(tmp_path / "b.mp4")


def test_a_cover_attached_to_a_matroska_file_is_no_video(tmp_path):
    Image.new("RGB", (32, 32), "gray").save(tmp_path / "cover.png")
    picture = (tmp_path / "cover.png").read_bytes()

    def cover(container):
        container.add_attachment("cover.png", "image/png", picture)

    encode(tmp_path / "a.mkv", clip(6), before=cover)
    assert numbers(video.read_video(tmp_path / "a.mkv")[0]) == list(range(6))


def test_sound_alone_is_no_video(tmp_path):
    with av.open(str(tmp_path / "a.m4v"), "w", "mp4") as container:
        audio = container.add_stream("aac", rate=48000)
        audio.layout = "mono"
        for index in range(4):
            tone = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            tone.sample_rate, tone.pts = 48000, index * 1024
            container.mux(audio.encode(tone))
        container.mux(audio.encode())
    with pytest.raises(InputError, match=r"a\.m4v: holds no video, only sound"):
        video.read_video(tmp_path / "a.m4v")


VARIABLE = [*np.arange(8) / 24, *(8 / 24 + np.arange(9) / 4)]


def at_rate(times, lasts, fps):
    """Number of the last frame whose time is not after each of 0, 1 / fps, ..., before the end."""
    due = [k / fps for k in range(10_000) if k / fps < times[-1] + lasts - 2e-3]
    return [max(i for i, time in enumerate(times) if time <= at + 1e-3) for at in due]


@pytest.mark.parametrize("fps", [24, 12, 4, 10, 48, 24000 / 1001, 7.5])
@pytest.mark.parametrize(
    "name,codec,times,lasts",
    [
        ("steady.mkv", "ffv1", np.arange(17) / 24, 1 / 24),
        ("steady.mp4", "libx264", np.arange(17) / 24, 1 / 24),
        ("variable.mp4", "libx264", VARIABLE, 1 / 4),
        ("variable.mkv", "libx264", VARIABLE, 1 / 24),
    ],
)
def test_fps_takes_the_frame_shown_at_each_time(tmp_path, fps, name, codec, times, lasts):
    variable = times is VARIABLE
    path = encode(tmp_path / name, clip(17), codec, "yuv420p", times=times if variable else None)
    expected = at_rate(times, lasts, fps)
    frames, rate = video.read_video(path, fps=fps)
    assert rate == fps
    assert numbers(frames)[: len(expected)] == expected[: len(frames)]
    assert abs(len(frames) - len(expected)) <= (fps * 0.3 if variable else 0)
    assert video.count_frames(path, fps) == len(frames)
    later, own_times, own_rate = video.read_timed(path, start=2, count=3, stride=2, fps=fps)
    assert numbers(later) == expected[2:7:2]
    assert np.allclose(own_times, np.arange(len(later)) * 2 / fps) and own_rate == fps / 2


def test_a_gif_of_rounded_delays_has_its_own_frames_at_its_own_rate(tmp_path):
    pictures = [Image.fromarray(frame) for frame in clip(17)]
    ends = np.round(np.arange(18) / 24 * 100) * 10
    pictures[0].save(
        tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=np.diff(ends).tolist()
    )
    frames, _ = video.read_video(tmp_path / "a.gif", fps=24)
    assert numbers(frames) == list(range(17))
    assert video.count_frames(tmp_path / "a.gif", 24) == 17
    assert video.remarks(tmp_path / "a.gif") == ()


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_variable_rate_is_remarked_with_its_range(tmp_path, suffix):
    path = encode(tmp_path / f"a.{suffix}", clip(17), times=VARIABLE)
    assert video.remarks(path) == ("variable frame rate (4 to 24 a second)",)
    assert video.read_timed(path)[1] == pytest.approx(VARIABLE, abs=2e-3)
    assert video.frame_times(path)[0] == pytest.approx(video.read_timed(path)[1])


@pytest.mark.parametrize("rate", [24, 30, Fraction(30000, 1001), 60, Fraction(24000, 1001)])
@pytest.mark.parametrize(
    "name,codec",
    [
        ("a.mp4", "libx264"),
        ("a.mkv", "libx264"),
        ("a.ts", "mpeg2video"),
        ("a.flv", "flv"),
        ("a.wmv", "wmv2"),
        ("a.avi", "mpeg4"),
    ],
)
def test_a_plain_video_has_no_remark(tmp_path, name, codec, rate):
    path = encode(tmp_path / name, clip(31), codec, rate=rate, options={"strict": "unofficial"})
    assert video.remarks(path) == ()
    frames, times, fps = video.read_timed(path)
    assert numbers(frames) == list(range(31))
    assert np.allclose(times, np.arange(31) / float(rate), atol=6e-3)
    assert np.allclose(times, video.frame_times(path)[0]) and fps == pytest.approx(float(rate), rel=2e-2)
    assert video.count_frames(path) == video.count_frames(path, float(rate)) == 31
    assert numbers(video.read_video(path, fps=float(rate))[0]) == list(range(31))


SAMPLES = {
    "a.mp4": ("libx264", "yuv420p", {}),
    "front.mp4": ("libx264", "yuv420p", {"movflags": "+faststart"}),
    "pieces.mp4": ("libx264", "yuv420p", {"movflags": "+frag_keyframe+empty_moov", "g": "2"}),
    "a.mov": ("prores_ks", "yuv422p10le", {}),
    "a.mkv": ("libx264", "yuv420p", {}),
    "a.webm": ("libvpx-vp9", "yuv420p", {}),
    "a.avi": ("mpeg4", "yuv420p", {}),
    "a.wmv": ("wmv2", "yuv420p", {}),
    "a.flv": ("flv", "yuv420p", {}),
    "a.ogv": ("libvpx", "yuv420p", {}),
    "a.3gp": ("mpeg4", "yuv420p", {}),
    "a.gif": ("gif", "rgb8", {}),
    "a.apng": ("apng", "rgb24", {}),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_an_incomplete_file_is_named_wherever_it_is_cut(tmp_path, name):
    codec, pixels, options = SAMPLES[name]
    path = tmp_path / name
    with av.open(str(path), "w", "ogg" if name == "a.ogv" else None, options=options) as container:
        stream = container.add_stream(codec, rate=24, options={"g": options.get("g", "12")})
        stream.height, stream.width, stream.pix_fmt = 64, 96, pixels
        for image in clip(24):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pixels)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert len(video.read_video(path)[0]) == video.count_frames(path) == 24
    data = path.read_bytes()
    (tmp_path / "cut").mkdir()
    cut = tmp_path / "cut" / name
    for share in (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99):
        cut.write_bytes(data[: int(len(data) * share)])
        for read in (video.read_video, video.count_frames, video.remarks):
            with pytest.raises(InputError, match=f"{name}: incomplete file.*again"):
                read(cut)


@pytest.mark.parametrize(
    "content,said",
    [
        (b"", "empty file"),
        (bytes(5000), "nothing but zeros"),
        (b"<!DOCTYPE html>\n<html><head><title>Sign in</title>", "a web page"),
        (b"\xef\xbb\xbf\n  <HTML lang=en>", "a web page"),
        (b'{"error": {"code": 403}}', "a JSON text"),
        (b"PK\x03\x04" + bytes(range(256)), "a ZIP archive"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "an XML text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "git lfs pull"),
    ],
)
def test_what_is_no_video_at_all_is_called_by_its_name(tmp_path, content, said):
    (tmp_path / "a.mp4").write_bytes(content)
    for read in (video.read_video, video.count_frames, video.remarks):
        with pytest.raises(InputError, match=rf"a\.mp4: .*{said}") as told:
            read(tmp_path / "a.mp4")
        assert "\n" not in str(told.value)


def test_frames_that_are_not_there_in_a_file_of_full_length_are_told(tmp_path):
    path = encode(tmp_path / "a.mp4", np.random.default_rng(0).integers(0, 256, (24, 64, 96, 3), np.uint8))
    data = path.read_bytes()
    half = data.index(b"mdat") + 4 + (len(data) - data.index(b"mdat")) // 2
    moov = data.index(b"moov") - 4
    path.write_bytes(data[:half] + bytes(moov - half) + data[moov:])
    with pytest.raises(InputError, match=r"a\.mp4: .*beyond \d+ frames.*damaged or incomplete"):
        video.read_video(path)


def test_a_recording_that_states_no_length_is_read_as_far_as_it_goes(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w", options={"live": "1"}) as container:
        stream = container.add_stream("libx264", rate=24, options={"g": "4", "tune": "zerolatency"})
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        for image in clip(24):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    assert numbers(video.read_video(tmp_path / "a.mkv")[0]) == list(range(24))


MATRICES = {"bt601": (5, 0.299, 0.114), "bt709": (1, 0.2126, 0.0722), "bt2020": (9, 0.2627, 0.0593)}


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("pixels", ["yuv420p", "yuv444p", "yuv422p10le", "yuv420p10le"])
def test_colours_follow_the_matrix_and_range_that_the_file_states(tmp_path, matrix, full, pixels):
    number, red, blue = MATRICES[matrix]
    wanted = np.array([200, 120, 60]) / 255
    luma = wanted @ [red, 1 - red - blue, blue]
    differences = (wanted[2] - luma) / (2 * (1 - blue)), (wanted[0] - luma) / (2 * (1 - red))
    depth = 10 if "10" in pixels else 8
    scale = 2 ** (depth - 8)
    whole = 2**depth - 1
    levels = [luma * whole if full else (16 + 219 * luma) * scale]
    levels += [128 * scale + part * (whole if full else 224 * scale) for part in differences]
    frame = av.VideoFrame(96, 64, pixels)
    for plane, level in zip(frame.planes, levels, strict=True):
        kind = np.uint8 if depth == 8 else np.dtype("<u2")
        plane.update(np.full(plane.buffer_size // np.dtype(kind).itemsize, round(level), kind).tobytes())
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=24)
        stream.height, stream.width, stream.pix_fmt = 64, 96, pixels
        stream.codec_context.colorspace = frame.colorspace = number
        stream.codec_context.color_range = frame.color_range = 2 if full else 1
        frame.pts = 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    frames, _ = video.read_video(tmp_path / "a.mkv")
    assert np.abs(frames[0, 32, 48] - wanted * 255).max() < 4


def test_a_recording_that_starts_amid_a_scene_counts_what_can_be_decoded(tmp_path):
    options = {"x264-params": "open-gop=1:bframes=3:keyint=8:scenecut=0"}
    data = encode(tmp_path / "a.ts", clip(31), options=options).read_bytes()
    (tmp_path / "b.ts").write_bytes(data[188 * 6 :])
    frames, times, _ = video.read_timed(tmp_path / "b.ts")
    assert 0 < len(frames) < 31 and numbers(frames) == list(range(31))[-len(frames) :]
    assert video.count_frames(tmp_path / "b.ts") == len(frames)
    assert np.allclose(video.frame_times(tmp_path / "b.ts")[0], times)


@pytest.mark.parametrize("first,shown", [(-6, {"mp4": 6, "mkv": 12}), (120, {"mp4": 12, "mkv": 12})])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_times_count_from_the_first_frame_shown(tmp_path, first, shown, suffix):
    times = [(first + index) / 24 for index in range(12)]
    path = encode(tmp_path / f"a.{suffix}", clip(12), times=times)
    expected = list(range(12))[-shown[suffix] :]
    frames, own, _ = video.read_timed(path)
    assert numbers(frames) == numbers(video.read_video(path, fps=24)[0]) == expected
    assert np.allclose(own, np.arange(len(expected)) / 24, atol=2e-3)
    assert video.count_frames(path) == video.count_frames(path, 24) == len(expected)


def test_joined_recordings_whose_clock_starts_again_lose_no_frame(tmp_path):
    parts = [encode(tmp_path / f"{n}.ts", clip(n), "mpeg2video").read_bytes() for n in (5, 7)]
    (tmp_path / "a.ts").write_bytes(parts[0] + parts[1])
    expected = [*range(5), *range(7)]
    assert numbers(video.read_video(tmp_path / "a.ts")[0]) == expected
    assert numbers(video.read_video(tmp_path / "a.ts", fps=24)[0]) == expected


def weave(first, second):
    """Fields of two moments in one frame, the upper rows of the first."""
    both = first.copy()
    both[1::2] = second[1::2]
    return both


def square_at(left, height=64, width=96):
    frame = np.full((height, width, 3), 60, np.uint8)
    frame[16:48, left : left + 24] = 200
    return frame


def combing(frames):
    """Mean difference of each row from the mean of its neighbours, along the square's edges."""
    rows = frames[:, 18:46].astype(int).mean(-1)
    return np.abs(rows[:, 1:-1] - (rows[:, :-2] + rows[:, 2:]) / 2).mean()


@pytest.mark.parametrize("name,codec", [("a.mp4", "libx264"), ("a.mpg", "mpeg2video")])
def test_interlaced_video_is_deinterlaced_and_remarked(tmp_path, name, codec):
    frames = np.stack([weave(square_at(4 + 8 * t), square_at(8 + 8 * t)) for t in range(8)])
    options = {"flags": "+ildct+ilme", "crf": "10", "b": "4M"}
    path = encode(tmp_path / name, frames, codec, rate=25, options=options)
    shown, times, _ = video.read_timed(path)
    assert video.remarks(path) == ("interlaced: deinterlaced by bwdif",)
    assert len(shown) == video.count_frames(path) == 8
    assert np.allclose(times, np.arange(8) / 25, atol=1e-4)
    assert combing(shown) < combing(frames) / 3
    # Each frame shows the moment of its lower field, which these encoders mark as the first.
    lefts = [int(np.argmax(frame[32].mean(-1) > 130)) for frame in shown]
    assert np.abs(np.array(lefts) - [8 + 8 * t for t in range(8)]).max() <= 2
    again, _ = video.read_video(path, start=3, count=2, stride=2)
    assert np.array_equal(again, shown[3:7:2])


def nits(light):
    """SMPTE ST 2084's inverse EOTF: the signal for so many candelas a square metre."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    powered = (np.asarray(light, float) / 10_000) ** m1
    return ((c1 + c2 * powered) / (1 + c3 * powered)) ** m2


def test_hdr_is_tone_mapped_and_remarked(tmp_path):
    ramp = [1, 10, 50, 100, 203, 400, 1000, 4000]
    frame = av.VideoFrame(128, 64, "yuv420p10le")
    luma = np.repeat(64 + 876 * nits(ramp), 16).round().astype("<u2")
    for plane, row in zip(
        frame.planes, (luma, np.full(64, 512, "<u2"), np.full(64, 512, "<u2")), strict=True
    ):
        lines = np.zeros((plane.height, plane.line_size // 2), "<u2")
        lines[:, : len(row)] = row
        plane.update(lines.tobytes())
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=24)
        stream.height, stream.width, stream.pix_fmt = 64, 128, "yuv420p10le"
        for thing in (stream.codec_context, frame):
            thing.colorspace, thing.color_trc, thing.color_primaries, thing.color_range = 9, 16, 9, 1
        frame.pts = 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    frames, _ = video.read_video(tmp_path / "a.mkv")
    shown = frames[0, 32, 8::16].astype(int)
    assert video.remarks(tmp_path / "a.mkv") == ("HDR (PQ): tone-mapped to BT.709",)
    # Grey stays grey, brighter stays brighter up to the lights; black and white are where SDR has them.
    assert np.ptp(shown, axis=1).max() <= 6
    assert (np.diff(shown.mean(1)) > 5).all()
    assert shown[0].max() < 40 and 90 < shown[3].mean() < 200 and shown[-1].mean() > 200


def test_many_frames_take_little_more_memory_than_they_have(tmp_path):
    script = """
import re, sys
from pathlib import Path
from datasets.media import video

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

video.read_video(sys.argv[2])
before = peak()
frames, _ = video.read_video(sys.argv[1])
print((peak() - before) / frames.nbytes)
"""
    encode(tmp_path / "a.mkv", np.repeat(clip(6, 720, 1280), 12, axis=0), options={"preset": "ultrafast"})
    encode(tmp_path / "b.mkv", clip(3, 720, 1280), options={"preset": "ultrafast"})
    run = [sys.executable, "-c", script, str(tmp_path / "a.mkv"), str(tmp_path / "b.mkv")]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert 0.8 < float(done.stdout) < 1.2
