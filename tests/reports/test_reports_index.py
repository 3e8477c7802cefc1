"""The index of a results folder: what it holds is what the records hold, whatever became of either."""

from __future__ import annotations

import json
import math
import os
import time
import zlib
from pathlib import Path

import pytest
from reports_world import metric, write_plan, write_record

from harness.records import store
from harness.records.index import FEWEST, Index
from reports.__main__ import main


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Records of an hour ago, as many as an index is written for; one fails, one holds NaN."""
    found = tmp_path / "results"
    cells = {
        label: [
            write_record(
                found,
                label,
                f"clip-{place:03d}",
                status="oom" if place == 7 else "ok",
                metrics={"clip_t": metric(math.nan if place == 8 else (place + len(label)) / 100)},
                stages={"denoise": 1.0 + place},
                method={"block": len(label)},
            )
            for place in range(FEWEST // 2 + 1)
        ]
        for label in ("none", "guided")
    }
    write_plan(found, cells, baseline="none")
    for path in found.glob("cells/*/record.json"):
        age(path)
    return found


def age(path: Path) -> None:
    os.utime(path, (time.time() - 3600,) * 2)


def shown(results: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main([str(results), "--all"]) == 0
    return capsys.readouterr().out


def change(results: Path) -> Path:
    """Another value, in the same file and of the same length."""
    paths = sorted(results.glob("cells/*/record.json"))
    path = next(path for path in paths if '"value": 0.' in path.read_text())
    before = path.stat()
    with path.open("r+") as file:
        text = file.read().replace('"value": 0.', '"value": 9.', 1)
        file.seek(0)
        file.write(text)
    assert path.stat().st_size == before.st_size and path.stat().st_ino == before.st_ino
    return path


def test_the_same_is_printed_from_the_index_as_from_the_records(results, capsys, monkeypatch):
    first = shown(results, capsys)
    index = (results / store.INDEX).read_bytes()
    with monkeypatch.context() as patched:
        plan = store.plan_path(results, "grid")
        only_plans = {plan: store.read_json(plan)}
        patched.setattr(store, "read_json", only_plans.__getitem__)
        assert shown(results, capsys) == first, "no record was read"
    assert (results / store.INDEX).read_bytes() == index


def test_what_is_read_from_the_index_is_what_the_file_holds_key_by_key(results, capsys):
    shown(results, capsys)
    index = Index(results)
    for path in results.glob("cells/*/record.json"):
        cell = str(path.parent.relative_to(results))
        assert json.dumps(index.read(cell)) == json.dumps(json.loads(path.read_text()))


def test_a_record_that_changed_is_read_anew(results, capsys):
    before = shown(results, capsys)
    index = (results / store.INDEX).read_bytes()
    age(change(results))
    after = shown(results, capsys)
    assert after != before
    assert b'"value":9.' not in index and b'"value":9.' in (results / store.INDEX).read_bytes()
    (results / store.INDEX).unlink()
    assert shown(results, capsys) == after


def test_a_change_that_leaves_time_size_and_inode_is_seen_where_the_file_was_young(results, capsys):
    now = time.time_ns()
    for path in results.glob("cells/*/record.json"):
        os.utime(path, ns=(now, now))
    before = shown(results, capsys)
    path = change(results)
    os.utime(path, ns=(now, now))
    assert shown(results, capsys) != before


def test_a_copy_over_a_record_that_keeps_its_time_is_seen(results, capsys):
    before = shown(results, capsys)
    assert (results / store.INDEX).exists()
    times = {path: path.stat().st_mtime_ns for path in results.glob("cells/*/record.json")}
    path = change(results)
    os.utime(path, ns=(times[path], times[path]))
    assert shown(results, capsys) != before


@pytest.mark.parametrize("how", ["rewritten", "removed"])
def test_what_a_record_said_before_is_not_kept(results, capsys, how):
    path = next(results.glob("cells/*/record.json"))
    text = path.read_text()
    path.write_text(text.replace('"device": "Some CPU"', '"device": "a secret"'))
    age(path)
    shown(results, capsys)
    assert b"a secret" in (results / store.INDEX).read_bytes()
    path.unlink() if how == "removed" else path.write_text(text)
    after = shown(results, capsys)
    assert b"a secret" not in (results / store.INDEX).read_bytes()
    assert shown(results, capsys) == after
    (results / store.INDEX).unlink()
    assert shown(results, capsys) == after


@pytest.mark.parametrize("harm", ["truncated", "foreign", "newer", "flipped", "folder", "of other hands"])
def test_a_harmed_index_changes_nothing(results, capsys, harm):
    first = shown(results, capsys)
    path = results / store.INDEX
    data = path.read_bytes()
    path.unlink()
    if harm == "folder":
        # As where the results folder cannot be written.
        path.mkdir()
    elif harm == "of other hands":
        # Whole, but not as this version writes it.
        odd = data.partition(b"\n")[2].replace(b"[0,1,2", b"[990,1,2")
        path.write_bytes(b"2 %d\n%s" % (zlib.crc32(odd), odd))
    else:
        path.write_bytes(
            {
                "truncated": data[: len(data) // 2],
                "foreign": b"\x00\xff not ours\n\n\t",
                "newer": b"3" + data[1:],
                "flipped": data.replace(b'"value":0.1', b'"value":0.9'),
            }[harm]
        )
    assert shown(results, capsys) == first
    if harm not in ("folder", "of other hands"):
        assert path.read_bytes() == data, "made anew"


def test_two_that_write_at_once_leave_a_whole_index(results):
    cells = [str(path.parent.relative_to(results)) for path in results.glob("cells/*/record.json")]
    one, other = Index(results), Index(results)
    for cell in cells:
        one.read(cell), other.read(cell)
    one.save()
    written = (results / store.INDEX).read_bytes()
    other.save()
    assert (results / store.INDEX).read_bytes() == written
    assert [path.name for path in results.iterdir() if path.name.startswith(".")] == []


def test_a_cell_that_is_gone_leaves_the_index(results, capsys):
    shown(results, capsys)
    index = (results / store.INDEX).read_bytes()
    gone = next(results.glob("cells/*/record.json"))
    gone.unlink()
    for path in results.glob("cells/*/record.json"):
        path.write_text(path.read_text())
        age(path)
    shown(results, capsys)
    assert gone.parent.name.encode() in index
    assert gone.parent.name.encode() not in (results / store.INDEX).read_bytes()
