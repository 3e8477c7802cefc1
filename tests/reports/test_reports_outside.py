"""A column from outside: one function and one YAML file, nothing of ours is touched."""

from __future__ import annotations

import csv
import re
import sys

import pytest
from reports_world import metric, write_plan, write_record

from reports.__main__ import main

FUNCTIONS = """
def seconds_per_frame(record):
    seconds = record.timing.total
    return None if seconds is None else seconds / record.dataset.config["frames"]

def breaks(record):
    raise KeyError("energy")
"""
COLUMN = """
_target_: {target}
key: {key}
label: Time a frame
unit: s
higher_is_better: false
digits: 3
"""


@pytest.fixture
def given(tmp_path, monkeypatch):
    """A results folder of two methods, and a function to write the column's file and call the command."""
    results = tmp_path / "results"
    cells = {
        label: [
            write_record(results, label, clip, metrics={"clip_t": metric(0.3)}, total=total)
            for clip, total in zip("uvwxyz", 2 * totals, strict=True)
        ]
        for label, totals in (("none", (1.7, 1.7, 1.7)), ("slow", (3.4, 5.1, 6.8)))
    }
    write_plan(results, cells)
    (tmp_path / "my_columns").mkdir()
    (tmp_path / "my_columns" / "speed.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("my_columns", "my_columns.speed"):
        monkeypatch.delitem(sys.modules, name, raising=False)

    def call(*more, target="my_columns.speed.seconds_per_frame", key="frame_time", text=COLUMN):
        path = tmp_path / "mine.yaml"
        path.write_text(text.format(target=target, key=key))
        return main([str(results), "--column", str(path), *more])

    return call


def test_a_function_of_a_record_becomes_a_column(given, capsys):
    assert given("--trust", "my_columns", "--format", "md") == 0
    shown = capsys.readouterr().out
    assert "Time a frame (s) ↓" in shown and "**.100**" in shown and "| .300 ±" in shown.replace("  ", "")
    assert re.search(r"\| slow +\| Time a frame \(s\) +\| \+\.200 \[", shown)


def test_it_stands_in_csv_and_among_the_columns_asked_for(given, capsys):
    asked = ("--trust", "my_columns", "--format", "csv", "--columns", "time", "frame_time")
    assert given(*asked) == 0
    none, slow = csv.DictReader(capsys.readouterr().out.splitlines())
    assert float(none["frame_time"]) == pytest.approx(0.1)
    assert float(slow["frame_time_low"]) < float(slow["frame_time"]) < float(slow["frame_time_high"])
    assert list(slow).index("frame_time") > list(slow).index("time") and "clip_t" not in slow


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, "add --trust my_columns"),
        ({"target": "my_columns.speed.missing"}, "has no missing"),
        ({"target": "my_columns.speed.breaks"}, "breaks failed on"),
        ({"target": "speed"}, "_target_"),
        ({"key": "clip_t"}, "there is such a column already"),
        ({"text": COLUMN + "colour: red\n"}, "colour"),
        ({"text": "label: [\n"}, "cannot be read"),
    ],
)
def test_what_cannot_be_a_column_is_one_line_and_exit_2(given, capsys, more, said):
    trust = ["--trust", "my_columns"] if more else []
    assert given(*trust, **more) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and len(printed.err.strip().splitlines()) == 1
    assert said in printed.err
