"""What is done once a clip: its time is in the time to the first video, and in no further one."""

from __future__ import annotations

import pytest
from reports_world import metric, write_plan, write_record

from harness.records import store
from harness.records.record import Timing
from reports.plots.stages import stage_seconds
from reports.table.rows import groups
from reports.table.tables import tables


@pytest.fixture
def results(tmp_path):
    values = {"clip_t": metric(0.3)}
    cells = {}
    for label, stages, total in [
        ("none", {"denoise": 2.0}, 2.0),
        ("trains", {"train": 30.0, "denoise": 2.0}, 32.0),
        ("shares", {"train": 0.0, "denoise": 2.0}, 2.5),
    ]:
        cells[label] = [
            write_record(tmp_path, label, clip, metrics=values, stages=stages, total=total)
            for clip in ("a", "b", "c")
        ]
    for cell in cells["shares"]:
        record = store.load_record(tmp_path / cell.path)
        record.timing.amortised = {"train": 28.0, "encode": 0.5}
        store.save_record(tmp_path / cell.path, record)
    write_plan(tmp_path, cells, baseline="none")
    return tmp_path


def test_first_and_further_video():
    timing = Timing(stages={"train": 30.0, "denoise": 2.0}, total=33.0)
    assert (timing.first_video, timing.further_video, timing.once) == (33.0, 3.0, True)
    timing = Timing(
        stages={"train": 0.0, "denoise": 2.0}, total=3.0, amortised={"train": 30.0, "encode": 1.0}
    )
    assert (timing.first_video, timing.further_video, timing.once) == (34.0, 3.0, True)
    assert (Timing().first_video, Timing().further_video, Timing(total=1.0).once) == (None, None, False)


def plan_of(results):
    from reports.table.rows import find_plans

    return find_plans(results)


def test_the_table_shows_both_and_names_the_training(results):
    (table,) = tables(results, plan_of(results))
    assert table.values["time"].to_dict() == {"none": 2.0, "trains": 32.0, "shares": 31.0}
    assert table.values["further"].to_dict() == {"none": 2.0, "trains": 2.0, "shares": 2.5}
    keys = [column.key for column in table.columns]
    assert keys.index("further") > keys.index("time")
    assert table.values["speedup"]["trains"] == pytest.approx(2 / 32)
    notes = "\n".join(table.notes)
    assert "trains 30.0 s, shares 28.0 s" in notes
    assert "to the first video of a clip" in notes
    assert "none 0" not in notes


def test_without_training_there_is_no_such_column(tmp_path):
    cells = {"none": [write_record(tmp_path, "none", clip, metrics={"clip_t": metric(0.3)}) for clip in "ab"]}
    write_plan(tmp_path, cells)
    (table,) = tables(tmp_path, plan_of(tmp_path))
    assert "further" not in {column.key for column in table.columns}
    assert not any("Further" in note for note in table.notes)


def test_the_plot_of_stages_holds_what_was_shared(results):
    (group,) = groups(results, plan_of(results))
    seconds = {row.label: stage_seconds(row) for row in group.rows}
    assert seconds["shares"] == pytest.approx(
        {"encode": 0.5, "train": 28.0, "denoise": 2.0, "not in a stage": 0.5}
    )
    assert seconds["trains"] == pytest.approx({"train": 30.0, "denoise": 2.0})
