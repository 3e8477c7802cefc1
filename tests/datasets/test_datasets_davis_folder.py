"""DAVIS as it lies on disks: read with a remark, or refused with what was found and what to set."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.davis import Davis
from datasets.errors import InputError
from datasets.hashing import files_sha256

HEIGHT, WIDTH, FRAMES = 24, 32, 6
OBJECT = np.zeros((HEIGHT, WIDTH), bool)
OBJECT[6:12, 8:20] = True


def frame(number: int) -> np.ndarray:
    """Corners red, green, blue, yellow; the middle tells the number."""
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    picture[:12, :16], picture[:12, 16:] = (200, 0, 0), (0, 200, 0)
    picture[12:, :16], picture[12:, 16:] = (0, 0, 200), (200, 200, 0)
    picture[10:14, 12:20] = 30 * number
    return picture


def add_frames(folder: Path, form: str = "{:05d}.png", numbers=range(FRAMES)) -> Path:
    folder.mkdir(parents=True)
    for number in numbers:
        kind = {".jpg": "JPEG", ".webp": "WEBP"}.get(Path(form).suffix.lower(), "PNG")
        options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95, "subsampling": 0}, "PNG": {}}[kind]
        Image.fromarray(frame(number)).save(folder / form.format(number), kind, **options)
    return folder


def add_masks(folder: Path, numbers=range(FRAMES), form: str = "{:05d}.png", mask=OBJECT) -> Path:
    folder.mkdir(parents=True)
    for number in numbers:
        picture = Image.fromarray(mask.astype(np.uint8) * (1 if form.endswith("png") else 255))
        picture.save(folder / form.format(number), **({} if form.endswith("png") else {"quality": 95}))
    return folder


def add(base: Path, resolution: str = "480p", names=("bear", "lucia")) -> Path:
    for name in names:
        add_frames(base / "JPEGImages" / resolution / name)
        add_masks(base / "Annotations" / resolution / name)
    return base


def davis(root: Path, **keys) -> Davis:
    size = {"frames": FRAMES, "height": HEIGHT, "width": WIDTH, "subset": None}
    return Davis(**{"root": str(root), **size} | keys)


def read(root: Path, **keys):
    """The clips of a listing, decoded."""
    dataset = davis(root, **keys)
    return [dataset.load(info.name) for info in dataset.listing().clips]


def shows_the_frames(clip, tolerance=0) -> bool:
    expected = np.stack([frame(number) for number in range(len(clip.frames))]).astype(int)
    return np.abs(clip.frames - expected).max() <= tolerance


# How a root is made (from an empty folder), what it is, and what the remarks say.
LAYOUTS = {
    "plain": (lambda disk: add(disk), ""),
    "full resolution": (lambda disk: add(disk, "Full-Resolution"), "read at Full-Resolution"),
    "1080p": (lambda disk: add(disk, "1080p"), "read at 1080p, as there is no 480p"),
    "several": (lambda disk: add(add(disk, "Full-Resolution"), "480p"), ""),
    "upper case": (lambda disk: add(disk, "480P"), ""),
    "lower case": (
        lambda disk: {p.rename(disk / p.name.lower()).parent for p in list(add(disk).iterdir())}.pop(),
        "",
    ),
    "no level of resolution": (lambda disk: add(disk, "."), "read from JPEGImages itself"),
    "nested": (lambda disk: add(disk / "DAVIS/DAVIS").parent, "read from DAVIS in dataset.root"),
    "trainval": (lambda disk: add(disk / "trainval/DAVIS").parents[1], "read from trainval/DAVIS"),
    "trainval and test-dev": (
        lambda disk: add(add(disk / "test-dev", names=["orchid"]).parent / "trainval").parent,
        "read from trainval",
    ),
    "JPEGImages": (lambda disk: add(disk) / "JPEGImages", ""),
    "480p": (lambda disk: add(disk) / "JPEGImages/480p", ""),
    "one of several": (
        lambda disk: add(add(disk, "1080p", ["camel"]), "Full-Resolution") / "JPEGImages/Full-Resolution",
        "",
    ),
}


@pytest.mark.parametrize("case", LAYOUTS)
def test_layouts_are_found_with_their_masks(tmp_path, case):
    make, said = LAYOUTS[case]
    clips = read(make(tmp_path / "disk"))
    assert [clip.info.name for clip in clips] == ["bear", "lucia"]
    for clip in clips:
        assert shows_the_frames(clip)
        assert (clip.masks == OBJECT).all()
        text = "; ".join(clip.info.remarks)
        assert said in text and bool(said) == bool(text), text


def test_the_working_directory_may_be_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(add(tmp_path) / "JPEGImages")
    assert (read(Path())[0].masks == OBJECT).all()
    monkeypatch.chdir("480p")
    assert (read(Path())[0].masks == OBJECT).all()


def test_sequences_alone_are_read_without_masks(tmp_path):
    add_frames(tmp_path / "frames/bear")
    (clip,) = read(tmp_path / "frames")
    assert shows_the_frames(clip) and clip.masks is None
    assert "without JPEGImages" in clip.info.remarks[0]


def test_test_dev_is_chosen_among_several_folders_by_the_split(tmp_path):
    add(add(tmp_path / "test-dev", names=["orchid"]).parent / "trainval")
    with pytest.raises(InputError, match="orchid has no prompts of ours"):
        davis(tmp_path, split="test-dev").listing()


# How a root is made, settings, and what the error says.
REFUSED = {
    "two of 2017": (
        lambda disk: add(add(disk / "2016").parent / "2017/trainval").parents[1],
        {},
        r"several DAVIS folders \(2016, 2017/trainval\)",
    ),
    "no 480p of two": (
        lambda disk: add(add(disk, "1080p"), "Full-Resolution"),
        {},
        "JPEGImages: holds 1080p, Full-Resolution and no 480p; set dataset.root",
    ),
    "only test-dev": (
        lambda disk: add(disk, names=["orchid", "salsa", "aerobatics", "subway"]),
        {"subset": "davis2016"},
        r"test-dev's or others \(aerobatics, orchid, salsa, \.\.\.\); set dataset\.split=test-dev "
        r"dataset\.subset=null",
    ),
    "another subset": (
        lambda disk: add(disk, names=["snowboard"]),
        {"subset": "davis2016"},
        r"but snowboard; set dataset\.split=trainval dataset\.subset=null",
    ),
    "nothing": (lambda disk: disk, {}, "nothing is there; set dataset.root or DAVIS_ROOT"),
    "annotations": (
        lambda disk: add(disk) / "Annotations/480p",
        {},
        r"annotations; set dataset\.root=.*disk;",
    ),
    "a sequence": (
        lambda disk: add(disk) / "JPEGImages/480p/bear",
        {},
        r"set dataset\.root=.*JPEGImages/480p dataset\.names=bear",
    ),
    "own frames": (lambda disk: add_frames(disk / "walk"), {}, r"set dataset=folder dataset\.root=.*=walk"),
    "an archive": (
        lambda disk: (disk.mkdir(), (disk / "DAVIS-2017.zip").touch(), disk)[-1],
        {},
        r"it holds DAVIS-2017\.zip; set dataset\.root or DAVIS_ROOT",
    ),
    "a file": (lambda disk: (disk.touch(), disk)[-1], {}, "it is a file; unpack"),
    "a wrong name": (lambda disk: add(disk), {"names": "baer"}, "did you mean bear"),
    "broken frame": (
        lambda disk: ((add(disk) / "JPEGImages/480p/bear/00003.png").write_bytes(b"x"), disk)[-1],
        {"names": "bear"},
        r"bear/00003\.png: cannot be read",
    ),
    "frames of two kinds": (
        lambda disk: (
            add(disk),
            [
                Image.fromarray(frame(i)).save(disk / f"JPEGImages/480p/bear/{i:05d}.jpg")
                for i in range(FRAMES)
            ],
            disk,
        )[-1],
        {"names": "bear"},
        r"bear holds 2 sequences of 6 pictures",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_says_what_was_found_and_what_to_set(tmp_path, case):
    make, keys, said = REFUSED[case]
    root = make(tmp_path / "disk")
    with pytest.raises(InputError, match=said) as error:
        davis(root, **keys).listing()
    assert "\n" not in str(error.value)


def test_an_empty_folder_of_frames_says_so(tmp_path):
    (tmp_path / "JPEGImages/480p").mkdir(parents=True)
    with pytest.raises(InputError, match=r"holds no sequence of dataset\.split=trainval.*nor any other"):
        davis(tmp_path).listing()


@pytest.mark.parametrize("form", ["{:05d}.PNG", "{:05d}.webp", "{:05d}.JPG", "{:05d}.jpg", "frame_{}.png"])
def test_frames_of_any_kind_are_read_in_order_whatever_lies_beside_them(tmp_path, form):
    folder = add_frames(tmp_path / "JPEGImages/480p/bear", form)
    for name in ("._00000.jpg", ".DS_Store", "Thumbs.db", "desktop.ini"):
        (folder / name).write_bytes(b"no picture")
        (folder.parent / name).write_bytes(b"no picture")
    (clip,) = read(tmp_path)
    assert shows_the_frames(clip, tolerance=30 if form.lower().endswith("jpg") else 0)
    assert clip.info.remarks == ()


def test_more_than_ten_frames_without_padding_are_in_order(tmp_path):
    folder = add_frames(tmp_path / "JPEGImages/480p/bear", "{}.png", range(8))
    for number in range(8, 12):
        Image.fromarray(frame(7)).save(folder / f"{number}.png")
    (clip,) = read(tmp_path, frames=8)
    assert shows_the_frames(clip)


LISTS = {
    "plain": b"bear\nlucia\n",
    "crlf": b"bear\r\nlucia\r\n",
    "bom": b"\xef\xbb\xbfbear\nlucia\n",
    "utf-16": "bear\r\nlucia\r\n".encode("utf-16"),
    "utf-16 big": b"\xfe\xff" + "bear\nlucia".encode("utf-16-be"),
    "utf-16 without mark": "bear\nlucia\n".encode("utf-16-le"),
    "comments": b"# train\n\nbear  # an animal\n\n   \nlucia\n#camel\n",
    "one line": b"bear lucia",
    "commas": b"bear,\nlucia,\n",
    "junk": b"bear\nlucia\n.DS_Store\nThumbs.db\n._bear\n",
    "2016": b"".join(
        f"/JPEGImages/480p/{name}/{i:05d}.jpg /Annotations/480p/{name}/{i:05d}.png\n".encode()
        for name in ("bear", "lucia")
        for i in range(FRAMES)
    ),
    "backslashes": b"JPEGImages\\480p\\bear\\00000.jpg\nJPEGImages\\480p\\lucia\\00000.jpg\n",
    "folders": b"JPEGImages/480p/bear/\nJPEGImages/480p/lucia\n",
}


@pytest.mark.parametrize("case", LISTS)
def test_lists_are_read_as_editors_and_davis_2016_write_them(tmp_path, case):
    root = add(tmp_path, names=("bear", "camel", "lucia"))
    lists = root / "ImageSets/2017"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_bytes(LISTS[case])
    (lists / "._train.txt").write_bytes(b"\0\5\x16\7")
    listing = davis(root).listing()
    assert [clip.name for clip in listing.clips] == ["bear", "lucia"] and not listing.left_out


@pytest.mark.parametrize(
    "where",
    ["2017/train.txt", "2016/train.txt", "480p/train.txt", "train.txt", "2016/trainval.txt", "2019/val.txt"],
)
def test_lists_of_any_year_are_found(tmp_path, where):
    path = add(tmp_path) / "ImageSets" / where
    path.parent.mkdir(parents=True)
    path.write_text("bear\n")
    assert [clip.name for clip in davis(tmp_path).listing().clips] == ["bear"]


def test_lists_of_2017_come_before_those_of_2016(tmp_path):
    add(tmp_path)
    for year, names in (("2016", "bear\n"), ("2017", "bear\nlucia\n")):
        (tmp_path / "ImageSets" / year).mkdir(parents=True)
        (tmp_path / "ImageSets" / year / "train.txt").write_text(names)
    assert len(davis(tmp_path).listing().clips) == 2


def test_a_list_that_is_no_text_is_named(tmp_path):
    path = add(tmp_path) / "ImageSets/2017/train.txt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"b\xe9ar\n")
    with pytest.raises(InputError, match=r"train\.txt: cannot be read .*UTF-8"):
        davis(tmp_path).listing()


def test_without_lists_the_known_sequences_on_disk_run(tmp_path):
    listing = davis(add(tmp_path)).listing()
    assert [clip.name for clip in listing.clips] == ["bear", "lucia"]
    assert len(listing.left_out) == 88


def test_test_dev_without_a_list_is_what_is_in_neither_train_nor_val(tmp_path):
    root = add(tmp_path, names=("bear", "orchid"))
    prompts = tmp_path / "mine.csv"
    prompts.write_text("sequence,caption,subject,scene\norchid,a,b,c\n")
    listing = davis(root, split="test-dev", prompts=str(prompts)).listing()
    assert [clip.name for clip in listing.clips] == ["orchid"] and not listing.left_out


# Where masks are put, which frames have one, and what the remark says.
MASKS = {
    "all": (lambda base: add_masks(base / "Annotations/480p/bear"), range(FRAMES), ""),
    "the first": (
        lambda base: add_masks(base / "Annotations/480p/bear", [0]),
        [0],
        "masks for 1 of its 6 frames used, from 00000.png on",
    ),
    "later": (
        lambda base: add_masks(base / "Annotations/480p/bear", [2, 3, 4, 5]),
        [2, 3, 4, 5],
        "masks for 4 of its 6 frames used, from 00002.png on",
    ),
    "beyond": (
        lambda base: add_masks(base / "Annotations/480p/bear", [8, 9]),
        [],
        "none of its masks (00008.png, ...) is of a frame used",
    ),
    "none": (lambda base: None, [], ""),
    "unsupervised": (
        lambda base: add_masks(base / "Annotations_unsupervised/480p/bear"),
        range(FRAMES),
        "its masks are those of Annotations_unsupervised/480p",
    ),
    "both": (
        lambda base: (
            add_masks(base / "Annotations/480p/bear"),
            add_masks(base / "Annotations_unsupervised/480p/bear", mask=~OBJECT),
        ),
        range(FRAMES),
        "",
    ),
    "larger": (
        lambda base: add_masks(
            base / "Annotations/Full-Resolution/bear", mask=OBJECT.repeat(2, axis=0).repeat(2, axis=1)
        ),
        range(FRAMES),
        "its masks are those of Annotations/Full-Resolution",
    ),
    "without resolution": (
        lambda base: add_masks(base / "Annotations/bear"),
        range(FRAMES),
        "its masks are those of Annotations",
    ),
    "jpg": (lambda base: add_masks(base / "Annotations/480p/bear", form="{:05d}.jpg"), range(FRAMES), ""),
    "upper case": (
        lambda base: add_masks(base / "Annotations/480p/bear", form="{:05d}.PNG"),
        range(FRAMES),
        "",
    ),
    "padding": (lambda base: add_masks(base / "Annotations/480p/bear", form="{}.png"), range(FRAMES), ""),
    "marked": (
        lambda base: add_masks(base / "Annotations/480p/bear", form="bear_{:05d}_mask.png"),
        range(FRAMES),
        "",
    ),
    "objects": (
        lambda base: add_masks(base / "Annotations/480p/bear", form="00001_{}.png"),
        [],
        "none of its masks (00001_0.png, ...) is of a frame used",
    ),
    "boxes beside": (
        lambda base: add_masks(
            add_masks(base / "Annotations/480p/bear") / "boxes", form="../{:05d}_boxes.png", mask=~OBJECT
        ),
        range(FRAMES),
        "",
    ),
    "junk beside": (
        lambda base: (add_masks(base / "Annotations/480p/bear") / "._00000.png").write_bytes(b"x"),
        range(FRAMES),
        "",
    ),
}


@pytest.mark.parametrize("case", MASKS)
def test_masks_are_those_of_their_frames(tmp_path, case):
    make, places, said = MASKS[case]
    add_frames(tmp_path / "JPEGImages/480p/bear")
    make(tmp_path)
    (clip,) = read(tmp_path)
    if places:
        expected = np.array([OBJECT * (place in places) for place in range(FRAMES)])
        assert np.array_equal(clip.masks, expected)
    else:
        assert clip.masks is None
    assert (clip.info.masks != "") == bool(places)
    assert clip.info.remarks == ((said,) if said else ())


def test_small_masks_of_large_frames_are_enlarged_and_others_name_both_sizes(tmp_path):
    add_frames(tmp_path / "JPEGImages/Full-Resolution/bear")
    add_masks(tmp_path / "Annotations/480p/bear", mask=OBJECT[::2, ::2])
    (clip,) = read(tmp_path)
    assert (clip.masks == OBJECT).all()
    assert "its masks are those of Annotations/480p" in clip.info.remarks
    Image.fromarray(np.ones((24, 24), np.uint8)).save(tmp_path / "Annotations/480p/bear/00002.png")
    with pytest.raises(InputError, match=r"00002\.png: is 24x24, its clip 32x24"):
        davis(tmp_path).load("bear")


def test_what_lies_beside_frames_is_a_remark(tmp_path):
    folder = add_frames(tmp_path / "JPEGImages/480p/bear")
    Image.fromarray(frame(0)).save(folder / "00000_mask.png")
    (clip,) = read(tmp_path)
    assert shows_the_frames(clip)
    assert clip.info.remarks == ("pictures beside its frames are not read: 00000_mask.png",)


def test_content_is_the_bytes_of_the_frames_used_wherever_they_lie(tmp_path):
    plain = davis(add(tmp_path / "a")).listing().clips[0]
    paths = [tmp_path / f"a/JPEGImages/480p/bear/{number:05d}.png" for number in range(FRAMES)]
    assert plain.content == files_sha256(paths)
    nested = davis(add(tmp_path / "b/DAVIS", "Full-Resolution").parent).listing().clips[0]
    assert (nested.content, nested.masks) == (plain.content, plain.masks)
