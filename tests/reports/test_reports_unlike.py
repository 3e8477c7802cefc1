"""What rows must share before their numbers are ranked, and the line that says what they do not share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from reports_world import metric, write_plan, write_record

from harness.records import store
from harness.records.record import Footage, Memory
from reports.__main__ import main
from reports.table.tables import Table, tables

CLIPS = [f"clip{index}" for index in range(8)]


def world(results: Path, **others: Any) -> Table:
    """Two rows over the same clips, b better in all; ``others`` are fields of b's records."""
    cells = {}
    for label, base in (("a", 0.3), ("b", 0.6)):
        cells[label] = [
            write_record(
                results,
                label,
                clip,
                metrics={name: metric(base + index / 100) for name in ("clip_t", "motion_fidelity")},
                total=10 * base + index / 50,
                memory={"guide": Memory(allocated=int(base * 1e9))},
            )
            for index, clip in enumerate(CLIPS)
        ]
        for cell in cells[label]:
            record = store.load_record(results / cell.path)
            record.environment["threads"] = 2
            record.metrics["motion_fidelity"].masks = "" if label == "a" else others.get("masks", "")
            record.masks = "whole frame" if label == "a" or not others.get("masks") else "masked"
            if label == "b":
                record.environment |= others.get("environment", {})
                record.memory = others.get("memory", record.memory)
                record.sampler, record.generated = others.get("sampler", "Euler"), others.get("generated")
            else:
                record.sampler = "Euler"
            store.save_record(results / cell.path, record)
    (table,) = tables(results, [write_plan(results, cells)])
    return table


def marked(table: Table) -> set[str]:
    """The columns in which some row is marked."""
    return {key for of_row in table.marks.values() for key, mark in of_row.items() if mark}


def test_rows_alike_are_ranked_and_nothing_is_said_to_differ(tmp_path):
    table = world(tmp_path)
    assert marked(table) == {"clip_t", "motion_fidelity", "time", "memory"}
    assert not any(note.startswith("Not the same") for note in table.notes)


@pytest.mark.parametrize(
    ("others", "unmarked", "line"),
    [
        ({"environment": {"threads": 1}}, {"time", "memory"}, "threads: a 2; b 1."),
        ({"environment": {"device": "B"}}, {"time", "memory"}, "device: a Some CPU; b B."),
        ({"masks": "abc"}, {"motion_fidelity"}, "masks: a whole frame; b masked."),
        ({"sampler": "UniPC"}, set(), "sampler: a Euler; b UniPC."),
        ({"memory": {"guide": Memory(process=10**9)}}, {"memory"}, None),
    ],
)
def test_rows_that_differ_are_told_and_not_ranked_by_what_that_touches(tmp_path, others, unmarked, line):
    table = world(tmp_path, **others)
    assert marked(table) == {"clip_t", "motion_fidelity", "time", "memory"} - unmarked
    if line:
        assert f"Not the same {line}" in table.notes
    if line and line.startswith(("threads", "device")):
        assert table.numbers["b"]["time"].value > table.numbers["a"]["time"].value, "both are shown"


def test_times_of_a_row_taken_with_one_and_two_threads_are_not_ranked(tmp_path):
    world(tmp_path)
    for label in "ab":
        cell = write_record(tmp_path, label, "clip0", metrics={"clip_t": metric(0.5)}, total=1.0)
        record = store.load_record(tmp_path / cell.path)
        record.environment["threads"] = 1
        store.save_record(tmp_path / cell.path, record)
    from reports.table.rows import find_plans

    (table,) = tables(tmp_path, find_plans(tmp_path))
    assert not {"time", "memory"} & marked(table)
    assert "Not the same threads: 1, 2." in table.notes


def test_memory_of_a_process_is_marked_in_no_output(tmp_path, capsys):
    cells = {
        label: [
            write_record(
                tmp_path,
                label,
                clip,
                metrics={"clip_t": metric(0.3)},
                memory={"guide": Memory(process=size + index)},
            )
            for index, clip in enumerate(CLIPS)
        ]
        for label, size in (("small", 10**8), ("large", 9 * 10**8))
    }
    write_plan(tmp_path, cells)
    for form, marks in (("md", ("**", "●", "○")), ("latex", (r"\textbf", "bullet", "circ"))):
        assert main([str(tmp_path), "--format", form, "--columns", "memory"]) == 0
        text = capsys.readouterr().out
        assert "not ranked" in text
        assert not any(mark in text for mark in marks), form


def test_videos_as_they_came_are_told_apart(tmp_path):
    table = world(tmp_path, generated=Footage(frames=81, fps=16, width=832, height=480))
    notes = "\n".join(table.notes)
    for name in ("frame rate", "video length", "video size", "duration"):
        assert f"Not the same {name}" not in notes, "the other row's records are older and do not say"


def test_the_summary_of_a_run_and_the_figure_have_the_time_of_the_table(tmp_path):
    """Median over clips of the median within each; one skewed clip moves none of the three."""
    from reports.plots.stages import stage_seconds
    from reports.table.rows import groups

    cells = [
        write_record(tmp_path, "a", clip, stages={"denoise": seconds}, total=seconds, seed=seed)
        for clip, of_clip in {"x": (1.0, 2.0, 90.0), "y": (3.0,), "z": (500.0,)}.items()
        for seed, seconds in enumerate(of_clip)
    ]
    plan = write_plan(tmp_path, {"a": cells})
    (table,), (group,) = tables(tmp_path, [plan]), groups(tmp_path, [plan])
    assert table.numbers["a"]["time"].value == 3.0
    assert sum(stage_seconds(group.rows[0]).values()) == pytest.approx(3.0)
    assert table.flat()["time"][0] == 3.0, "what the mirror publishes"


@pytest.mark.parametrize(("generated", "said"), [(0.01, True), (0.4, True), (0.15, False), (0.0, True)])
def test_a_row_that_moves_much_more_or_less_than_its_references_is_named(tmp_path, generated, said):
    cells = {
        "a": [write_record(tmp_path, "a", clip, metrics={"motion_fidelity": metric(0.5)}) for clip in CLIPS]
    }
    for cell in cells["a"]:
        record = store.load_record(tmp_path / cell.path)
        record.metrics["motion_fidelity"].details = {"moving_generated": generated, "moving_reference": 0.15}
        store.save_record(tmp_path / cell.path, record)
    (table,) = tables(tmp_path, [write_plan(tmp_path, cells)])
    line = f"a {generated:.1%} of the frame (references 15.0%)"
    assert any(line in note for note in table.notes) == said
