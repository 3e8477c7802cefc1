"""CSV tables as spreadsheets, systems and people write them: read alike as prompts and as manifest."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest

from datasets.errors import InputError
from datasets.folder import Folder
from datasets.media import video
from datasets.tables import clip_name, find_file, read_table, same_text
from methods.precomputed import Precomputed

COMPOSED = "café"
DECOMPOSED = unicodedata.normalize("NFD", COMPOSED)
# The same two rows, as they may come; {0} is the third column: prompt or file.
WRITTEN = {
    "plain": b"clip,%s\na.mp4,one\nb,two\n",
    "semicolons": b"clip;%s\na.mp4;one\nb;two\n",
    "tabs": b"clip\t%s\na.mp4\tone\nb\ttwo\n",
    "byte order mark": b"\xef\xbb\xbfclip,%s\na.mp4,one\nb,two\n",
    "windows lines": b"clip,%s\r\na.mp4,one\r\nb,two\r\n",
    "old mac lines": b"clip,%s\ra.mp4,one\rb,two\r",
    "header case": b"Clip,%s \na.mp4,one\nb,two\n",
    "spaces": b" clip , %s \n a.mp4 , one \n b , two \n",
    "no-break spaces": "clip,%s\n\u00a0a.mp4,one\u00a0\nb,two\n".encode(),
    "trailing commas": b"clip,%s,,\na.mp4,one,,\nb,two,,\n,,,\n",
    "blank rows": b"clip,%s\n\na.mp4,one\n,\n\nb,two\n,\n",
    "quotes": b'"clip","%s"\n"a.mp4","one"\n"b","two"\n',
    "other columns": b'id,clip,%s,note\n1,a.mp4,one,"good, I think"\n2,b,two,\n',
    "windows paths": b"clip,%s\nvideos\\a.mp4,one\nC:\\clips\\b.MOV,two\n",
    "unix paths": b"clip,%s\n./videos/a.mp4,one\n/clips/b.m4v,two\n",
}


@pytest.mark.parametrize("column", ["prompt", "file"])
@pytest.mark.parametrize("written", WRITTEN.values(), ids=WRITTEN)
def test_tables_are_read_as_they_come(tmp_path, written, column):
    path = tmp_path / "table.csv"
    path.write_bytes(written % column.encode())
    rows = read_table(path, ("clip", column), ("seed",))
    assert [(clip_name(row["clip"]), row[column], row["seed"]) for row in rows] == [
        ("a", "one", ""),
        ("b", "two", ""),
    ]


@pytest.mark.parametrize("order", ["little", "big"])
def test_utf_16_of_a_spreadsheet_is_read(tmp_path, order):
    path = tmp_path / "table.csv"
    mark = b"\xff\xfe" if order == "little" else b"\xfe\xff"
    path.write_bytes(mark + "clip,prompt\né,one\n".encode(f"utf-16-{order[0]}e"))
    assert [row["clip"] for row in read_table(path, ("clip", "prompt"), ())] == ["é"]


@pytest.mark.parametrize(
    "data, message",
    [
        ("clip,prompt\né,one\n".encode("cp1252"), "write it as UTF-8 CSV"),
        ("clip,prompt\na,one\n".encode("utf-16-le"), "zero bytes"),
        (b"clip,prompt\na,one,two\n", r"line 2: more cells than columns, in 'a,one,two'.*quotes"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(tmp_path, data, message):
    path = tmp_path / "table.csv"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        read_table(path, ("clip", "prompt"), (), key="method.manifest")
    assert str(caught.value).startswith("method.manifest: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text, name",
    [
        ("a.mp4", "a"),
        ("a.MKV", "a"),
        ("a.m4v", "a"),
        ("walk.v2.mp4", "walk.v2"),
        ("walk.v2", "walk.v2"),
        (".mp4", ".mp4"),
        ("stills/", "stills"),
        (r"videos\a.mp4", "a"),
        (DECOMPOSED + ".mp4", COMPOSED),
    ],
)
def test_a_clips_name_is_its_files_without_folder_and_suffix(text, name):
    assert clip_name(text) == name


def test_prompts_that_differ_in_spaces_or_unicode_form_are_the_same():
    assert same_text(f" a  {DECOMPOSED}\u00a0at night\n") == f"a {COMPOSED} at night"
    assert same_text("A fox") != same_text("a fox")


def test_files_are_found_as_their_names_may_be_written(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "videos").mkdir()
    for name in (DECOMPOSED + ".mp4", "~draft.mp4", "a.mp4"):
        (tmp_path / "videos" / name).write_bytes(b"")
    here = tmp_path / "videos"
    assert find_file(tmp_path, rf"videos\{COMPOSED}.mp4") == here / (DECOMPOSED + ".mp4")
    assert find_file(Path("/nowhere"), "~/videos/a.mp4") == here / "a.mp4"
    assert find_file(here, "~draft.mp4") == here / "~draft.mp4"
    assert find_file(here, "none.mp4") == here / "none.mp4"


@pytest.fixture
def root(tmp_path):
    for seed, name in enumerate((DECOMPOSED + ".mkv", "Walk.v1.mkv")):
        frames = np.random.default_rng(seed).integers(0, 256, (5, 32, 48, 3), dtype=np.uint8)
        video.write_ffv1(tmp_path / name, frames, 12)
    return tmp_path


def test_a_clip_is_the_same_in_another_unicode_form_or_case(root):
    (root / "prompts.csv").write_text(f"clip,prompt\n{COMPOSED}.mkv,a dog\nwalk.V1,a cat\n")
    dataset = Folder(root=str(root), frames=5, height=32, width=48)
    assert [(clip.name, clip.prompts[0].text) for clip in dataset.listing().clips] == [
        ("Walk.v1", "a cat"),
        (COMPOSED, "a dog"),
    ]
    assert not dataset.listing().left_out
    assert len(dataset.load(COMPOSED).frames) == 5
    asked = Folder(root=str(root), frames=5, height=32, width=48, names=[DECOMPOSED + ".mkv"])
    assert [clip.name for clip in asked.listing().clips] == [COMPOSED]


MANIFEST = "clip,prompt,seed,file\n{}.mkv,a  dog,0.0,out\\{}.mkv\nwalk.V1.mkv,,,gone.mkv\n"


def test_a_manifest_matches_the_plan_whatever_form_its_names_have(root):
    (root / "out").mkdir()
    (root / "out" / f"{DECOMPOSED}.mkv").write_bytes(b"x")
    (root / "m.csv").write_text(MANIFEST.format(DECOMPOSED, COMPOSED))
    method = Precomputed(name="precomputed", manifest=str(root / "m.csv"))
    assert method.missing(COMPOSED, "a dog", 0) is None
    assert method.content(COMPOSED, "a dog", 0)
    assert "gone.mkv" in (method.missing("walk.v1", "whatever its prompt", 0) or "")
    near = method.missing(COMPOSED, "a dog", 1) or ""
    assert "no row" in near and f"the nearest is line 2: {COMPOSED}.mkv,a  dog,0.0" in near
