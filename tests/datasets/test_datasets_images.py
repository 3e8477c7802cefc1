"""Pictures of every kind: their values as 8-bit RGB, alike in a folder; masks; what is refused by name."""

import sys

import numpy as np
import pytest
from PIL import Image, features

from datasets.errors import InputError
from datasets.media import images
from datasets.media.frame_files import frame_files

HEIGHT, WIDTH = 12, 16
GREY = np.linspace(0, 255, HEIGHT * WIDTH).round().astype(np.uint8).reshape(HEIGHT, WIDTH)
COLOURS = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], axis=-1)
OBJECT = np.zeros((HEIGHT, WIDTH), bool)
OBJECT[3:9, 4:12] = True


def as_grey(frames):
    assert (frames == frames[..., :1]).all()
    return frames[..., 0]


def pfm(values, path):
    """Portable float map: rows from the bottom, little-endian."""
    header = f"Pf\n{values.shape[1]} {values.shape[0]}\n-1.0\n".encode()
    path.write_bytes(header + values[::-1].astype("<f4").tobytes())


def pgm16(values, path, largest=65535):
    path.write_bytes(f"P5 {WIDTH} {HEIGHT} {largest}\n".encode() + values.astype(">u2").tobytes())


def white_is(value, dtype):
    """Greys from black to white, where white is ``value``."""
    return (GREY / 255.0 * value).astype(dtype)


DEEP = {
    "16.png": lambda path: Image.fromarray(GREY.astype(np.uint16) * 257).save(path),
    "16.tif": lambda path: Image.fromarray(GREY.astype(np.uint16) * 257).save(path),
    "16.pgm": lambda path: pgm16(GREY.astype(np.uint16) * 257, path),
    "10.pgm": lambda path: pgm16(white_is(1023, np.float64).round(), path, 1023),
    "16.jp2": lambda path: Image.fromarray(GREY.astype(np.uint16) * 257).save(path),
    "int8.tif": lambda path: Image.fromarray(GREY.astype(np.int32)).save(path),
    "int12.tif": lambda path: Image.fromarray(white_is(4095, np.int32)).save(path),
    "int16.tif": lambda path: Image.fromarray(GREY.astype(np.int32) * 257).save(path),
    "int31.tif": lambda path: Image.fromarray(white_is(2**31 - 1, np.int32)).save(path),
    "unit.tif": lambda path: Image.fromarray(white_is(1, np.float32)).save(path),
    "byte.tif": lambda path: Image.fromarray(GREY.astype(np.float32)).save(path),
    "word.tif": lambda path: Image.fromarray(white_is(65535, np.float32)).save(path),
    "light.tif": lambda path: Image.fromarray(white_is(3.5, np.float32)).save(path),
    "huge.tif": lambda path: Image.fromarray(white_is(1e6, np.float32)).save(path),
    "unit.pfm": lambda path: pfm(white_is(1, np.float32), path),
}


@pytest.mark.parametrize("name", DEEP)
def test_deep_grey_is_scaled_not_clipped(tmp_path, name):
    DEEP[name](tmp_path / name)
    found = as_grey(images.read_image(tmp_path / name)).astype(int)
    # Rounding, and a lossless JPEG 2000 of our own values.
    assert np.abs(found - GREY).max() <= 1
    assert (found.min(), found.max()) == (0, 255)


@pytest.mark.parametrize("kind", ["16", "int", "float", "light"])
def test_deep_pictures_of_a_folder_are_scaled_alike(tmp_path, kind):
    """A picture half as bright stays half as bright beside its fellows, whichever comes first."""
    scale, dtype = {"16": (257, np.uint16), "int": (257, np.int32), "float": (1 / 255, np.float32)}.get(
        kind, (3 / 255, np.float32)
    )
    suffix = "png" if kind == "16" else "tif"
    paths = []
    for place, part in enumerate((0.5, 1.0, 0.25)):
        paths.append(tmp_path / f"{place}.{suffix}")
        Image.fromarray((GREY * part * scale).astype(dtype)).save(paths[-1])
    found = as_grey(images.read_images(paths)).astype(float)
    for frame, part in zip(found, (0.5, 1.0, 0.25), strict=True):
        assert np.abs(frame - GREY * part).max() <= 1


def test_every_value_of_16_bits_is_rounded_to_the_nearest_of_8(tmp_path):
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(values).save(tmp_path / "0.png")
    assert np.array_equal(as_grey(images.read_image(tmp_path / "0.png")), np.rint(values / 257))


PLAIN = {
    "rgb.png": ("RGB", {}),
    "rgb.bmp": ("RGB", {}),
    "rgb.tif": ("RGB", {}),
    "rgb.tga": ("RGB", {}),
    "rgb.ppm": ("RGB", {}),
    "rgb.webp": ("RGB", {"lossless": True}),
    "rgb.jp2": ("RGB", {"irreversible": False}),
    "rgb.qoi": ("RGB", {}),
    "rgb.pcx": ("RGB", {}),
    "rgb.sgi": ("RGB", {}),
    "rgb.TIFF": ("RGB", {"format": "TIFF"}),
    "cmyk.tif": ("CMYK", {}),
    "grey.png": ("L", {}),
    "grey.gif": ("L", {}),
    "two.png": ("LA", {}),
    "bits.png": ("1", {}),
    "bits.pbm": ("1", {}),
    "palette.png": ("P", {}),
    "palette.gif": ("P", {}),
    "alpha.png": ("RGBA", {}),
}


@pytest.mark.parametrize("name", PLAIN)
def test_pictures_of_8_bits_come_as_pillow_converts_them(tmp_path, name):
    mode, options = PLAIN[name]
    picture = Image.fromarray(COLOURS).convert(mode)
    picture.save(tmp_path / name, **options)
    assert np.array_equal(images.read_image(tmp_path / name), np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("name", ["rgb.jpg", "rgb.avif"])
def test_lossy_pictures_are_near(tmp_path, name):
    if name.endswith("avif") and not features.check("avif"):
        pytest.skip("Pillow without AVIF")
    smooth = np.full((HEIGHT, WIDTH, 3), (200, 60, 30), np.uint8)
    Image.fromarray(smooth).save(tmp_path / name, quality=95)
    assert np.abs(images.read_image(tmp_path / name).astype(int) - smooth).max() <= 6


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_lies_over_white(tmp_path, mode):
    if mode == "P":
        picture = Image.fromarray(OBJECT.astype(np.uint8), "P")
        picture.putpalette([9, 9, 9, 200, 0, 0])
        picture.save(tmp_path / "a.png", transparency=0)
        shown = (200, 0, 0)
    else:
        picture = Image.new(mode, (WIDTH, HEIGHT), (200, 0, 0, 255) if mode == "RGBA" else (200, 255))
        picture.putalpha(Image.fromarray(OBJECT.astype(np.uint8) * 255))
        picture.save(tmp_path / "a.png")
        shown = (200, 0, 0) if mode == "RGBA" else (200,) * 3
    expected = np.where(OBJECT[..., None], np.uint8(shown), np.uint8(255))
    assert np.array_equal(images.read_image(tmp_path / "a.png"), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_exif_says(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    turns = {
        1: COLOURS,
        2: COLOURS[:, ::-1],
        3: COLOURS[::-1, ::-1],
        4: COLOURS[::-1],
        5: COLOURS.transpose(1, 0, 2),
        6: COLOURS.transpose(1, 0, 2)[:, ::-1],
        7: COLOURS.transpose(1, 0, 2)[::-1, ::-1],
        8: COLOURS.transpose(1, 0, 2)[::-1],
    }
    Image.fromarray(COLOURS).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(images.read_image(tmp_path / "a.png"), turns[orientation])


def test_a_phone_picture_of_several_parts_is_its_first(tmp_path):
    pictures = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    pictures[0].save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=pictures[1:])
    assert images.pages(tmp_path / "a.jpg") == 1
    assert (images.read_image(tmp_path / "a.jpg")[8, 8] > (240, -1, -1)).all()


def broken(kind, path):
    Image.fromarray(COLOURS).save(path)
    data = path.read_bytes()
    contents = {
        "cut": data[: len(data) // 2],
        "empty": b"",
        "text": b"version https://git-lfs.github.com/spec/v1\n",
        "noise": data[:20] + bytes(200),
    }
    path.write_bytes(contents[kind])


@pytest.mark.parametrize("kind", ["cut", "empty", "text", "noise"])
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp", "bmp", "gif"])
def test_a_broken_picture_among_others_is_named(tmp_path, kind, suffix):
    paths = [tmp_path / f"{number}.{suffix}" for number in range(3)]
    for path in paths:
        Image.fromarray(COLOURS).save(path)
    broken(kind, paths[1])
    with pytest.raises(InputError, match=rf"/1\.{suffix}: cannot be read") as error:
        images.read_images(paths)
    assert "\n" not in str(error.value)


def test_sizes_that_differ_are_both_named(tmp_path):
    Image.new("RGB", (8, 6)).save(tmp_path / "0.png")
    Image.new("RGB", (8, 7)).save(tmp_path / "1.png")
    with pytest.raises(InputError, match=r"1\.png: differs in size from 0\.png \(8x7, 8x6\)"):
        images.read_images([tmp_path / "0.png", tmp_path / "1.png"])


@pytest.mark.parametrize("value", [-0.5, np.nan, np.inf])
def test_values_that_have_no_grey_are_refused(tmp_path, value):
    values = white_is(1, np.float32)
    values[3, 3] = value
    Image.fromarray(values).save(tmp_path / "0.tif")
    with pytest.raises(InputError, match=r"0\.tif: holds values below 0 or not finite"):
        images.read_image(tmp_path / "0.tif")


PLUG_IN = """
from PIL import Image

def opened(file, name):
    return Image.new("L", (4, 4), file.read(1)[0])

Image.register_open("JXL", opened, lambda prefix: len(prefix) == 1)
Image.register_extension("JXL", ".jxl")
"""


def test_jpeg_xl_is_read_where_pillows_plug_in_is(tmp_path, monkeypatch):
    """Here a module of its name registers a format that holds one grey value."""
    if ".jxl" in images.picture_suffixes():
        pytest.skip("the plug-in is installed")
    (tmp_path / "pillow_jxl.py").write_text(PLUG_IN)
    (tmp_path / "0.jxl").write_bytes(b"\x63")
    monkeypatch.syspath_prepend(tmp_path)
    images.picture_suffixes.cache_clear()
    try:
        assert ".jxl" in images.picture_suffixes()
        assert (images.read_image(tmp_path / "0.jxl") == 0x63).all()
        assert frame_files(tmp_path).frames == (tmp_path / "0.jxl",)
    finally:
        del sys.modules["pillow_jxl"], Image.OPEN["JXL"], Image.EXTENSION[".jxl"]
        Image.ID.remove("JXL")
        images.picture_suffixes.cache_clear()


MASKS = {
    "ids.png": lambda: Image.fromarray(OBJECT.astype(np.uint8) * 3),
    "bits.png": lambda: Image.fromarray(OBJECT),
    "deep.png": lambda: Image.fromarray(OBJECT.astype(np.uint16) * 2),
    "white.bmp": lambda: Image.fromarray(OBJECT.astype(np.uint8) * 255),
    "white.tif": lambda: Image.fromarray(OBJECT.astype(np.uint8) * 255),
    "colour.png": lambda: Image.fromarray(OBJECT[..., None] * np.uint8((0, 0, 128))),
    "lossless.webp": lambda: Image.fromarray(OBJECT[..., None] * np.uint8((255, 255, 255))),
}


@pytest.mark.parametrize("name", MASKS)
def test_masks_are_what_is_above_0(tmp_path, name):
    MASKS[name]().save(tmp_path / name, **({"lossless": True} if name.endswith("webp") else {}))
    assert np.array_equal(images.read_mask(tmp_path / name), OBJECT)


@pytest.mark.parametrize("colour", [(255, 255, 255), (128, 0, 0), (64, 128, 0)])
@pytest.mark.parametrize("quality", [50, 75, 95])
def test_masks_of_lossy_kinds_keep_their_edges(tmp_path, colour, quality):
    big = np.zeros((96, 128), bool)
    big[29:71, 35:91] = True
    pixels = big[..., None] * np.uint8(colour)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=quality, subsampling=0)
    stored = np.asarray(Image.open(tmp_path / "a.jpg"))
    assert (stored.any(axis=2) != big).sum() > 100, "non-zero pixels would not do"
    assert (images.read_mask(tmp_path / "a.jpg") != big).sum() <= 10


def test_a_lossy_mask_of_nothing_is_empty(tmp_path):
    Image.new("L", (32, 32), 3).save(tmp_path / "a.jpg")
    assert not images.read_mask(tmp_path / "a.jpg").any()


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ((480, 854), (1080, 1920), True),
        ((1080, 1920), (480, 854), True),
        ((48, 64), (48, 64), True),
        ((48, 64), (96, 128), True),
        ((48, 64), (64, 48), False),
        ((48, 64), (48, 62), False),
        ((480, 854), (1080, 1400), False),
    ],
)
def test_sizes_of_one_picture_are_in_proportion(one, other, same):
    assert images.proportional(one, other) == same
