"""What a command shows when its cells have ended."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from reports_world import HOSTILE, add_videos, metric, write_plan, write_record

from harness.cells.score import Outcome
from harness.records import store
from reports import outcome


def ended(results, plan, labels, page=False):
    """The jobs of a plan's variants, as the harness hands them over."""
    found = []
    for variant in plan.variants:
        if variant.label in labels:
            records = [store.load_record(results / cell.path) for cell in variant.cells]
            found.append((SimpleNamespace(results=results, page=page), plan, Outcome(records)))
    return found


def test_jobs_that_share_a_plan_have_one_table(tmp_path, capsys):
    cells = {
        label: [write_record(tmp_path, label, clip, metrics={"clip_t": metric(0.3)}) for clip in "xy"]
        for label in ("none", "a")
    }
    cells["a"].append(write_record(tmp_path, "a", "z", status="oom"))
    plan = write_plan(tmp_path, cells)
    add_videos(tmp_path, plan)
    outcome.show(ended(tmp_path, plan, ("none", "a"), page=True))
    shown = capsys.readouterr()
    assert shown.out.count("embedded world") == 1
    assert f"videos: {tmp_path}/cells/*/video.mp4" in shown.out
    assert f"picture: {tmp_path}/picture.png" in shown.out
    assert "text sim. is .300" in shown.out.lower()
    page = Path(shown.out.splitlines()[-1])
    assert page == tmp_path / "page" / "index.html" and "none" in page.read_text()
    assert f'oom: guided, z, seed 0, "a red square": no {HOSTILE}' in shown.out
    assert shown.err == ""


def test_each_results_folder_has_its_table(tmp_path, capsys):
    plans = []
    for name in ("one", "two"):
        results = tmp_path / name
        cells = {"none": [write_record(results, "none", "x", metrics={"clip_t": metric(0.3)})]}
        plans += ended(results, write_plan(results, cells, name=name), ("none",))
    job, plan, _ = plans[1]
    outcome.show([plans[0], (job, plan, Outcome([]))])
    assert capsys.readouterr().out.count("embedded world") == 2
