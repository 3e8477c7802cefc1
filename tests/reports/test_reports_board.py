"""Submissions: packed whole and the same each time, and refused by the board where they were touched."""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from pathlib import Path

import pytest
from board_world import LATER, make, paths
from protocol_world import NAME
from reports_world import HOSTILE

from harness.records.record import Record
from reports.__main__ import main
from reports.sharing import submission

SPRITES = f"{NAME}-sprites"
HERE = ("method=none", "limit=2", "seed=[0,1]")


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    """Two submissions, ``one.zip`` and ``two.zip``, of other seeds."""
    folder = tmp_path_factory.mktemp("packed")
    for name, seed in (("one", "[0,1]"), ("two", "[2]")):
        make(folder / name, "method=none", "limit=2", f"seed={seed}")
        assert main(["submit", str(folder / name), "--out", str(folder / f"{name}.zip")]) == 0
    return folder


@pytest.fixture
def board(tmp_path, capsys):
    def command(*files: Path) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["board", *map(str, files), "--out", str(tmp_path / "page")])
        page = tmp_path / "page" / "index.html"
        return code, page.read_text() if page.exists() else "", capsys.readouterr().err

    return command


def entries(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def signed(path: Path, files: dict[str, bytes], **changes: object) -> Path:
    """The files with a manifest that fits them, as one who knows the format would write it."""
    files = {name: data for name, data in files.items() if name != "manifest.json"}
    manifest = {
        "format": "vmtbench submission",
        "schema": 1,
        "name": path.stem,
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    } | changes
    return write(path, {"manifest.json": json.dumps(manifest).encode(), **files})


def a_record(files: dict[str, bytes]) -> str:
    return next(name for name in files if name.endswith("record.json"))


def test_the_same_results_are_the_same_bytes(packed, tmp_path) -> None:
    again = tmp_path / "one.zip"
    assert main(["submit", str(packed / "one"), "--out", str(again)]) == 0
    assert again.read_bytes() == (packed / "one.zip").read_bytes()


def test_a_submission_holds_what_its_manifest_says(packed) -> None:
    files = entries(packed / "one.zip")
    manifest = json.loads(files.pop("manifest.json"))
    assert manifest["files"] == {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    assert len([name for name in files if name.startswith("cells/")]) == 4
    assert {"tables.md", "tables.csv"} < files.keys()
    assert b"Motion fid." in files["tables.md"]


def test_no_folder_of_this_machine_is_told(tmp_path) -> None:
    plan = make(tmp_path / "r", *HERE)
    path = paths(tmp_path / "r", plan)[0]
    record = Record.model_validate_json(path.read_text())
    record.notes = [f"read from {tmp_path}/secret/clip.mp4"]
    record.config = {"checkpoint": "/home/somebody/weights.pt"}
    path.write_text(record.model_dump_json(by_alias=True))
    assert main(["submit", str(tmp_path / "r"), "--out", str(tmp_path / "mine.zip")]) == 0
    text = b"".join(entries(tmp_path / "mine.zip").values()).decode()
    assert str(tmp_path) not in text and "/home/somebody" not in text and "weights.pt" in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (None, "is not run"),
        ({"status": "unscored"}, "is unscored"),
        ({"status": "cancelled"}, "is cancelled"),
        ({"frames_sha256": None}, "has no hash of its frames"),
        ("{", "has a record that cannot be read"),
    ],
)
def test_what_is_incomplete_is_not_packed(tmp_path, capsys, change, said) -> None:
    plan = make(tmp_path / "r", *HERE)
    path = paths(tmp_path / "r", plan)[0]
    if change is None:
        path.unlink()
    else:
        path.write_text(
            change if isinstance(change, str) else json.dumps(json.loads(path.read_text()) | change)
        )
    code = main(["submit", str(tmp_path / "r"), "--out", str(tmp_path / "mine.zip")])
    err = capsys.readouterr().err
    cell = plan.variants[0].cells[0]
    assert code == 2 and f"none {cell.clip} seed {cell.seed}: {said}" in err and err.count("\n") == 1
    assert not (tmp_path / "mine.zip").exists()


def test_cells_that_failed_are_results(tmp_path, board) -> None:
    plan = make(tmp_path / "r", *HERE)
    path = paths(tmp_path / "r", plan)[0]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"status": "oom", "frames_sha256": None}))
    assert main(["submit", str(tmp_path / "r"), "--out", str(tmp_path / "mine.zip")]) == 0
    code, page, _ = board(tmp_path / "mine.zip")
    assert code == 0 and "OOM 1" in page


def test_the_board_has_the_rows_of_all_and_says_in_what_they_depart(packed, board) -> None:
    code, page, _ = board(packed / "one.zip", packed / "two.zip")
    assert code == 0
    rows = re.findall(r'<th scope="row">(\w+)<small>(\w+)</small>', page)
    assert sorted(rows) == [("none", "one"), ("none", "two")]
    for point in ("clips 2 of 32", "seeds 0, 1 (0, 1, 2)", "seeds 2 (0, 1, 2)"):
        assert f"<li>{point}</li>" in page
    for name in ("one", "two"):
        assert hashlib.sha256((packed / f"{name}.zip").read_bytes()).hexdigest() in page
    assert not re.findall(r'(?:src|href)="(?!#|data:)', page), "a page without anything from elsewhere"


def test_a_row_that_follows_the_protocol_comes_first_and_says_so(packed, tmp_path, board) -> None:
    make(tmp_path / "r", "method=none", "dataset.clips=32", "dataset.prompts=3", "seed=[0,1,2]")
    assert main(["submit", str(tmp_path / "r"), "--out", str(tmp_path / "whole.zip")]) == 0
    _, page, _ = board(packed / "one.zip", tmp_path / "whole.zip")
    rows = re.findall(r'<tr( class="departs")?>\s*<th scope="row">none<small>(\w+)</small>', page)
    assert rows == [("", "whole"), (' class="departs"', "one")]


def test_what_a_table_prints_is_what_the_board_shows(packed, board) -> None:
    _, page, _ = board(packed / "one.zip")
    table = entries(packed / "one.zip")["tables.csv"].decode().splitlines()
    told = dict(zip(table[0].split(","), table[1].split(","), strict=True))
    headings = re.findall(r'<th scope="col"[^>]*><button type="button">([^<]+)', page)
    numbers = re.findall(r'<td data-number="([^"]*)"', page)
    shown = dict(zip(headings[1:], numbers, strict=True))
    assert float(shown["Motion fid. ↑"]) == pytest.approx(float(told["motion_fidelity"]))
    assert float(shown["Position err. (px) ↓"]) == pytest.approx(float(told["position_error"]))


def test_what_the_protocol_leaves_open_is_named_where_it_differs(packed, tmp_path, board) -> None:
    make(tmp_path / "r", "method=none", "limit=2", "seed=5", device="NVIDIA H200")
    assert main(["submit", str(tmp_path / "r"), "--out", str(tmp_path / "fast.zip")]) == 0
    _, page, _ = board(packed / "one.zip", tmp_path / "fast.zip")
    assert "<li>Not the same device: one Some CPU; fast NVIDIA H200.</li>" in page


def test_other_frames_of_a_reference_are_named(packed, tmp_path, board) -> None:
    plan = make(tmp_path / "r", "method=none", "limit=2", "seed=5")
    clip = plan.variants[0].cells[0].clip
    for cell in plan.variants[0].cells:
        cell.content = "f" * 64 if cell.clip == clip else cell.content
    (tmp_path / "r" / "plans" / f"{plan.name}.json").write_text(plan.model_dump_json(by_alias=True))
    assert main(["submit", str(tmp_path / "r"), "--out", str(tmp_path / "odd.zip")]) == 0
    _, page, _ = board(packed / "one.zip", tmp_path / "odd.zip")
    assert f"The reference {clip} has other frames in odd than in one." in page or (
        f"The reference {clip} has other frames in one than in odd." in page
    )


def refused(board, *files: Path) -> str:
    """The one line by which the board refuses; nothing is written."""
    code, page, err = board(*files)
    assert code == 2 and page == "" and err.count("\n") == 1, err
    assert err.startswith(f"error: {files[-1]}: "), err
    return err


def test_a_changed_value_is_known_by_its_hash(packed, tmp_path, board) -> None:
    files = entries(packed / "one.zip")
    name = a_record(files)
    record = json.loads(files[name])
    record["metrics"]["motion_fidelity"]["value"] = 1.0
    files[name] = json.dumps(record).encode()
    assert f"{name} is not what the manifest says" in refused(board, write(tmp_path / "x.zip", files))


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        (("identity", "backbone", "config", "shift"), 9.0, "has an id that is not of its settings"),
        (("identity", "seed"), 7, "is of another clip, prompt or seed"),
        (("prompt",), "a cat", "is of another clip, prompt or seed"),
        (("method", "version"), "99", "says another version of its method"),
        (("id",), "0" * 16, "holds the record of another cell"),
        (("status",), "unscored", "is unscored"),
        (("schema",), 99, "it is of schema 99"),
        (("surprise",), 1, "surprise"),
    ],
)
def test_a_record_that_is_not_its_ids_is_refused_though_all_hashes_fit(
    packed, tmp_path, board, where, value, said
) -> None:
    files = entries(packed / "one.zip")
    name = a_record(files)
    node = record = json.loads(files[name])
    for key in where[:-1]:
        node = node[key]
    node[where[-1]] = value
    files[name] = json.dumps(record).encode()
    assert said in refused(board, signed(tmp_path / "x.zip", files))


def test_a_row_of_other_settings_is_refused(packed, tmp_path, board) -> None:
    files = entries(packed / "one.zip")
    (name,) = [name for name in files if name.startswith("plans/")]
    files[name] = re.sub(rb'"config_id": "\w+"', b'"config_id": "0123456789abcdef"', files[name])
    assert "stands in a row of other settings" in refused(board, signed(tmp_path / "x.zip", files))


def test_a_record_with_a_hidden_value_is_told_not_refused(packed, tmp_path, board) -> None:
    files = entries(packed / "one.zip")
    for name in [name for name in files if name.endswith("record.json")]:
        record = json.loads(files[name])
        record["identity"]["method"]["config"]["token"] = "***"
        files[name] = json.dumps(record).encode()
    code, page, _ = board(signed(tmp_path / "x.zip", files))
    assert code == 0 and "4 records hide a value" in page


@pytest.mark.parametrize(
    "name", ["../escaped.json", "/tmp/escaped.json", "cells/../../escaped", "..\\escaped", "C:/escaped"]
)
def test_a_path_that_leaves_the_archive_is_refused(packed, tmp_path, board, name) -> None:
    bad = signed(tmp_path / "x.zip", {**entries(packed / "one.zip"), name: b"{}"})
    before = set(tmp_path.rglob("*"))
    assert "a place outside of the archive" in refused(board, bad)
    assert set(tmp_path.rglob("*")) == before and not Path("/tmp/escaped.json").exists()


def test_a_plan_cannot_name_a_record_outside(packed, tmp_path, board) -> None:
    files = entries(packed / "one.zip")
    (name,) = [name for name in files if name.startswith("plans/")]
    files[name] = re.sub(rb'"path": "[^"]+"', b'"path": "../../../etc"', files[name])
    assert "no cell of a submission" in refused(board, signed(tmp_path / "x.zip", files))


@pytest.mark.parametrize("name", ["notes.txt", "cells/0123456789abcdef/video.mp4", "plans/"])
def test_what_is_no_part_of_a_submission_is_refused(packed, tmp_path, board, name) -> None:
    bad = signed(tmp_path / "x.zip", {**entries(packed / "one.zip"), name: b""})
    assert "no part of a submission" in refused(board, bad)


def test_a_record_that_no_plan_names_is_refused(packed, tmp_path, board) -> None:
    files = entries(packed / "one.zip")
    bad = signed(tmp_path / "x.zip", {**files, "cells/0123456789abcdef/record.json": files[a_record(files)]})
    assert "no plan names cells/0123456789abcdef" in refused(board, bad)


def test_a_record_that_is_missing_is_refused(packed, tmp_path, board) -> None:
    files = entries(packed / "one.zip")
    del files[a_record(files)]
    assert "is incomplete" in refused(board, signed(tmp_path / "x.zip", files))


def test_a_file_that_unpacks_to_too_much_is_refused_before_it_is_unpacked(
    packed, tmp_path, board, monkeypatch
) -> None:
    bomb = tmp_path / "x.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries(packed / "one.zip").items():
            archive.writestr(name, data)
        archive.writestr("cells/0123456789abcdef/record.json", bytes(20_000_000))
    monkeypatch.setattr(submission, "MOST_BYTES", 10_000_000)
    assert bomb.stat().st_size < 100_000
    assert "unpacks to 20" in refused(board, bomb)


def test_a_size_that_is_a_lie_is_damage(packed, tmp_path, board) -> None:
    """The directory says that a record has 10 bytes; it has more."""
    files = entries(packed / "one.zip")
    path = write(tmp_path / "x.zip", files)
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02", data.index(a_record(files).encode()))
    at = next(
        found.start()
        for found in re.finditer(rb"PK\x01\x02", data)
        if b"record.json" in data[found.start() + 46 :][:60]
    )
    data[at + 24 : at + 28] = (10).to_bytes(4, "little")
    path.write_bytes(data)
    assert "is damaged" in refused(board, path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no archive at all", "is no submission (no ZIP file)"),
        (b"", "is no submission (no ZIP file)"),
    ],
)
def test_a_file_that_is_no_archive_is_refused(tmp_path, board, content, said) -> None:
    (tmp_path / "x.zip").write_bytes(content)
    assert said in refused(board, tmp_path / "x.zip")


def test_other_archives_are_refused(packed, tmp_path, board) -> None:
    assert "it holds no manifest.json" in refused(board, write(tmp_path / "x.zip", {"a.txt": b"a"}))
    files = entries(packed / "one.zip")
    assert "is no submission (format" in refused(board, signed(tmp_path / "y.zip", files, format="other"))
    assert "is of schema 2" in refused(board, signed(tmp_path / "z.zip", files, schema=2))
    assert "is no submission (name" in refused(board, signed(tmp_path / "w.zip", files, name="../../x"))
    half = tmp_path / "half.zip"
    half.write_bytes((packed / "one.zip").read_bytes()[:-4000])
    assert "no ZIP file" in refused(board, half)
    assert "no such file" in refused(board, tmp_path / "nowhere.zip")


def test_two_submissions_of_one_name_are_told_and_every_fault_has_its_line(packed, tmp_path, board) -> None:
    other = tmp_path / "one.zip"
    other.write_bytes((packed / "one.zip").read_bytes())
    assert "is named 'one'" in refused(board, packed / "one.zip", other)
    (tmp_path / "bad.zip").write_bytes(b"")
    code, page, err = board(packed / "one.zip", tmp_path / "bad.zip", other)
    assert code == 2 and page == "" and err.count("\n") == 2
    assert [line.split(": ")[0] for line in err.splitlines()] == ["error", "error"]


def test_a_board_that_was_there_stays_when_a_file_is_refused(packed, tmp_path, board) -> None:
    _, before, _ = board(packed / "one.zip")
    (tmp_path / "bad.zip").write_bytes(b"")
    code, after, _ = board(packed / "two.zip", tmp_path / "bad.zip")
    assert code == 2 and before == after
    code, after, _ = board(packed / "two.zip")
    assert code == 0 and before != after


def test_a_folder_of_somebodys_files_is_not_written_into(packed, tmp_path, board) -> None:
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "thesis.tex").write_text("years of work")
    code, page, err = board(packed / "one.zip")
    assert code == 2 and page == "" and "holds other files" in err


def test_names_are_data_on_the_page(tmp_path, board) -> None:
    plan = make(tmp_path / "r", *HERE)
    plan.variants[0].label = HOSTILE
    (tmp_path / "r" / "plans" / f"{plan.name}.json").write_text(plan.model_dump_json(by_alias=True))
    assert main(["submit", str(tmp_path / "r"), "--out", str(tmp_path / "x.zip")]) == 0
    code, page, _ = board(tmp_path / "x.zip")
    assert code == 0 and "<img" not in page and page.count("</script>") == 1


@pytest.mark.parametrize("name", ["results", "r.tar", ".zip", "a<b.zip"])
def test_a_name_that_is_none_is_refused(tmp_path, capsys, name) -> None:
    make(tmp_path / "r", *HERE, ran=LATER)
    assert main(["submit", str(tmp_path / "r"), "--out", str(tmp_path / name)]) == 2
    assert "name a file NAME.zip" in capsys.readouterr().err
