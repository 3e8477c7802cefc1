"""Folders of frames as people have them: which pictures are the clip, in what order, and what is said."""

from pathlib import Path

import pytest
from PIL import Image

from datasets.errors import InputError
from datasets.media import images
from datasets.media.frame_files import FrameFiles, frame_files, junk

MANY = range(17)


def put(folder: Path, *names: str) -> Path:
    """Grey pictures of these names; only their names matter."""
    folder.mkdir(parents=True, exist_ok=True)
    picture = Image.new("L", (8, 6))
    for name in names:
        kind = "PNG" if Path(name).suffix.lower() == ".jxl" else None
        picture.save(folder / name, kind)
    return folder


def numbered(form: str, numbers=MANY) -> list[str]:
    return [form.format(number) for number in numbers]


# Names in the right order, then what lies beside them, then what the remarks are about.
READ = {
    "padded": (numbered("{:05d}.jpg"), [], []),
    "unpadded": (numbered("frame_{}.png"), [], []),
    "windows": (numbered("frame ({}).png", range(1, 18)), [], []),
    "outgrown": (numbered("{:04d}.png", range(9995, 10004)), [], []),
    "long numbers": (numbered("{}.png", range(10**20 - 3, 10**20 + 3)), [], []),
    "number before": (numbered("{}_of_bear.png"), [], []),
    "constant numbers": (numbered("v2_480p_{}_30fps.png"), [], []),
    "decimals": (["1.175304.png", "1.211214.png", "2.003.png", "10.1.png"], [], ["from 1.175304.png"]),
    "time stamps": (
        [f"{12 + i // 3}.{i % 3 * 333:03d}.jpg" for i in MANY],
        [],
        ["several numbers", "from 12.000.jpg to 17.333.jpg"],
    ),
    "number and time": ([f"{i}_t{i * 33 / 1000:.3f}.png" for i in MANY], [], ["several numbers"]),
    "case of suffix": (["0.JPG", "1.jpg", "2.Jpeg", "3.JPG"], [], []),
    "mixed kinds": (["0.jpg", "1.png", "2.webp", "3.jpg"], [], []),
    "masks after": (numbered("{:05d}.jpg"), numbered("{:05d}_mask.png"), ["00000_mask.png and 16 like it"]),
    "masks before": (numbered("{:05d}.png"), numbered("mask_{:05d}.png"), ["mask_00000.png and 16"]),
    "camel masks": (numbered("frame{}.png"), numbered("frameMask{}.png"), ["frameMask0.png"]),
    "more masks": (numbered("{}.png", range(5)), numbered("{}_MASK.png"), ["0_MASK.png and 16"]),
    "depth": (numbered("{}.png"), numbered("{}_depth.png") + numbered("{}_flow.png"), ["0_depth.png"]),
    "word within": (numbered("bear_{}.jpg"), numbered("bear_seg_{}.png"), ["bear_seg_0.png and 16"]),
    "object masks": (
        numbered("{:05d}.jpg"),
        [f"{i:05d}_{part}.png" for i in MANY for part in (1, 2)],
        ["00000_1.png and 33 like it"],
    ),
    "one still mask": (numbered("{:05d}.jpg"), ["00000.png"], ["not read: 00000.png"]),
    "cover": (
        numbered("{}.jpg"),
        ["thumbnail.jpg", "cover.png", "first_frame.png", "contact_sheet.png"],
        ["contact_sheet.png, cover.png, first_frame.png and 1 more"],
    ),
    "copies": (numbered("{}.png"), ["3 copy.png", "3 (1).png"], ["3 (1).png, 3 copy.png"]),
    "smaller family": (numbered("a_{}.png"), numbered("b_{}.png", range(9)), ["b_0.png and 8 like it"]),
    "smaller shot": (
        numbered("shot1_{:03d}.png"),
        numbered("shot2_{:03d}.png", range(9)),
        ["shot2_000.png and 8"],
    ),
    "gap": (numbered("{}.png", [0, 1, 2, 5, 6, 9]), [], ["4 frames are missing", "the first after 2"]),
    "steps": (numbered("{}.png", range(0, 50, 5)), [], ["steps of 5"]),
    "milliseconds": (numbered("{}.png", [0, 33, 67, 100, 133, 167]), [], []),
    "letters": (["a.png", "b.png", "c10.png", "d.png"], [], ["not numbered", "from a.png"]),
    "no sequence": (["a2.png", "b1.png", "c0.png", "d.png"], [], ["not numbered"]),
    "one": (["0.png"], [], []),
    "one with mask": (["bear.jpg"], ["bear_mask.png"], ["bear_mask.png"]),
    "junk": (numbered("{}.jpg"), [], []),
}


@pytest.mark.parametrize("case", READ)
def test_frames_are_read_in_order_and_what_is_unlike_plain_frames_is_said(tmp_path, case):
    names, beside, said = READ[case]
    folder = put(tmp_path / "clip", *sorted(names, reverse=True), *beside)
    for name in ("._0.jpg", ".DS_Store", "Thumbs.db", "desktop.ini", "notes.txt", ".hidden.png"):
        (folder / name).write_bytes(b"no picture")
    (folder / "__MACOSX").mkdir()
    found = frame_files(folder)
    assert [path.name for path in found.frames] == names
    assert found.reason is None
    text = "; ".join(found.remarks)
    assert all(words in text for words in said), text
    assert bool(found.remarks) == bool(said), text
    # Each picture left aside is one that the remark counts.
    counted = sum(remark.startswith("pictures beside") for remark in found.remarks)
    assert counted == bool(beside)


REFUSED = {
    "two families": (
        numbered("a_{}.png") + numbered("b_{}.png"),
        "2 sequences of 17 pictures (a_0.png and b_0",
    ),
    "two eyes": (numbered("{}_L.png") + numbered("{}_R.png"), "0_L.png and 0_R.png"),
    "two cameras": (numbered("cam0_{}.png") + numbered("cam1_{}.png"), "2 sequences of 17"),
    "two sizes": (numbered("480_{}.png") + numbered("720_{}.png"), "2 sequences of 17"),
    "camera last": ([f"{i:04d}_{cam}.png" for i in MANY for cam in (0, 1)], "2 sequences of 17"),
    "two kinds": (numbered("{:05d}.jpg") + numbered("{:05d}.png"), "00000.jpg and 00000.png"),
    "same number": ([*numbered("{}.png"), "003.png"], "003.png and 3.png, the same number"),
    "two orders": ([f"{50 - i}_{i}.png" for i in MANY], "two orders in its names (34_16.png, 35_15.png)"),
    "decimals": ([f"{i / 4}.png" for i in MANY], "two orders in its names (0.0.png, 0.5.png)"),
    "masks": (numbered("{}_mask.png"), "only masks or thumbnails (0_mask.png and 16 like it)"),
    "jxl": (numbered("{}.jxl"), "its 17 .jxl pictures cannot be read; install pillow-jxl-plugin"),
    "jxl with cover": ([*numbered("{}.jxl"), "cover.png"], "its 17 .jxl pictures"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_folder_that_could_be_read_in_two_ways_or_none_says_so(tmp_path, case):
    names, reason = REFUSED[case]
    found = frame_files(put(tmp_path / "clip", *names))
    assert found.frames == () and reason in (found.reason or ""), found
    assert "\n" not in (found.reason or "")


def test_a_folder_without_pictures_says_what_it_holds(tmp_path):
    assert frame_files(put(tmp_path / "empty")).reason == "holds no pictures (it is empty)"
    texts = put(tmp_path / "texts")
    for name in ("a.txt", "b.TXT", "c.json", "README", "drawing.pdf", "point.pcd", "clip.mpg", "._a.jpg"):
        (texts / name).write_text("x")
    reason = frame_files(texts).reason
    assert reason is not None and "2 .txt" in reason and "jpg" not in reason
    put(tmp_path / "takes/first", "0.png", "1.png")
    put(tmp_path / "takes/second", "0.png", "1.png")
    put(tmp_path / "takes/.cache", "0.png")
    assert frame_files(tmp_path / "takes").reason == "has its pictures in sub-folders: first, second"
    assert (frame_files(tmp_path / "none").reason or "").startswith("cannot be listed")


@pytest.mark.parametrize("name", ["masks", "Annotations", "bear_masks", "bear-mask"])
def test_a_folder_of_masks_beside_its_clip_is_no_clip(tmp_path, name):
    put(tmp_path / "bear", "0.png", "1.png")
    folder = put(tmp_path / name, "0.png", "1.png")
    assert "folder of masks" in (frame_files(folder).reason or "")


def test_a_folder_whose_name_only_speaks_of_masks_is_a_clip(tmp_path):
    for name in ("with_masks", "mask_dance", "damask"):
        assert len(frame_files(put(tmp_path / name, "0.png", "1.png")).frames) == 2


def test_a_sequence_in_one_file_is_told_apart_from_a_picture(tmp_path):
    pictures = [Image.new("RGB", (8, 6), (40 * i, 0, 0)) for i in range(4)]
    for name in ("stack.tif", "move.webp", "move.png", "move.gif"):
        folder = tmp_path / name
        folder.mkdir()
        pictures[0].save(folder / name, save_all=True, append_images=pictures[1:])
        assert f"one file of 4 pictures ({name})" in (frame_files(folder).reason or ""), name
        # Among others it is found when it is read.
        pictures[0].save(folder / f"a{name}")
        with pytest.raises(InputError, match=rf"/{name}: holds several pictures"):
            images.read_images(sorted(folder.iterdir()))


def test_a_link_to_nowhere_is_a_frame_that_cannot_be_read(tmp_path):
    folder = put(tmp_path / "clip", *numbered("{}.png", (0, 1, 3)))
    (folder / "2.png").symlink_to(tmp_path / "gone.png")
    found = frame_files(folder)
    assert [path.name for path in found.frames] == numbered("{}.png", range(4))
    with pytest.raises(InputError, match=r"2\.png"):
        images.read_images(found.frames)


def test_every_picture_format_that_pillow_reads_counts():
    suffixes = images.picture_suffixes()
    assert {".jpg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".tga"} <= suffixes
    assert not suffixes & {".pdf", ".eps", ".mpg", ".ico", ".h5", ".pcd", ".mp4", ".txt"}


@pytest.mark.parametrize(
    ("name", "is_junk"),
    [("._a.mp4", True), ("Thumbs.db", True), ("DESKTOP.INI", True), (".git", True), ("a.png", False)],
)
def test_junk_is_what_systems_leave_behind(name, is_junk):
    assert junk(Path("folder", name)) == is_junk


def test_ten_thousand_frames_are_in_order(tmp_path):
    for number in range(10_000):
        (tmp_path / f"{number}.jpg").touch()
    found = frame_files(tmp_path)
    assert found == FrameFiles(tuple(tmp_path / f"{number}.jpg" for number in range(10_000)))
