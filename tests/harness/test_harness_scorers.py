"""Programs that score all videos of a job at once: what they are told, what is kept, and when they run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from harness_fakes import NEEDS, Drift, FakeConfig, Likeness, Squares, make_job, planned

from datasets.errors import InputError
from datasets.media import video
from harness import __main__ as cli
from harness.cells import batch, run, score
from harness.cells.locks import CellLock
from harness.records import store
from metrics.external_scorer import ExternalScorer

ROOT = Path(cli.__file__).resolve().parents[1]
EXAMPLE = ROOT / "docs" / "external_scorer_example.py"
START = """
import json, os, sys, time
job = json.load(open(sys.argv[-1]))
print("metric", job["metric"])
with open({calls!r}, "a") as calls:
    calls.write(json.dumps([video["clip"] for video in job["videos"]]) + "\\n")
ids = [video["id"] for video in job["videos"]]
scores = {{one: number + 1.0 for number, one in enumerate(ids)}}
"""
END = "\njson.dump(scores, open(job['output'], 'w'))\n"


class Rig:
    """A scorer program whose calls are counted, and jobs that use it."""

    def __init__(self, folder: Path) -> None:
        self.results, self.path, self._calls = folder / "results", folder / "program.py", folder / "calls"
        self.write("")

    def write(self, body, end=END):
        self.path.write_text(START.format(calls=str(self._calls)) + body + end)

    @property
    def calls(self):
        """The clips of each call."""
        lines = self._calls.read_text().splitlines() if self._calls.exists() else []
        return [json.loads(line) for line in lines]

    def scorer(self, **keys):
        return ExternalScorer("quality", **{"command": [sys.executable, str(self.path)], **keys})

    def job(self, scorer=None, **changes):
        metrics = {"likeness": Likeness(), "quality": scorer or self.scorer()}
        return make_job(self.results, **{"metrics": metrics, **changes})

    def go(self, scorer=None, **changes):
        job = self.job(scorer, **changes)
        return run.run(job, *planned(job))

    def values(self):
        paths = sorted(self.results.glob("cells/**/record.json"))
        return [json.loads(path.read_text())["metrics"].get("quality") for path in paths]

    def score(self, lines=None, scorer=None, everything=False, **changes):
        """As ``action=score``."""
        from harness.actions.score import Score
        from harness.command.interface import Prepared

        job = self.job(scorer, resume=not everything, **changes)
        plan, cells = planned(job)
        return Score("score").act([Prepared(job, plan, cells)])


@pytest.fixture
def rig(tmp_path):
    return Rig(tmp_path)


def test_the_program_is_called_once_for_all_videos_when_they_are_there(rig):
    outcome = rig.go()
    assert rig.calls == [["clip0", "clip1", "clip2"]]
    assert [record.metrics["quality"].value for record in outcome.records] == [1.0, 2.0, 3.0]
    assert [value["value"] for value in rig.values()] == [1.0, 2.0, 3.0]
    assert all(record.metrics["likeness"].value is not None for record in outcome.records)
    (attempt,) = (rig.results / "scorers" / "quality").iterdir()
    assert sorted(path.name for path in attempt.iterdir()) == ["job.json", "log.txt", "scores.json"]
    assert (attempt / "log.txt").read_text() == "metric quality\n"
    assert rig.values()[0]["details"] == {"log": f"quality/{attempt.name}/log.txt"}
    again = rig.go()
    assert (again.reused, len(rig.calls)) == (3, 1)
    assert [record.metrics["quality"].value for record in again.records] == [1.0, 2.0, 3.0]


def test_the_job_says_what_there_is_to_know_of_each_video(rig, tmp_path):
    kept = tmp_path / "kept"
    rig.write(
        f"""
import shutil
os.makedirs({str(kept)!r})
for video in job["videos"]:
    shutil.copy(video["reference"], {str(kept)!r} + "/" + video["clip"] + ".mkv")
"""
    )
    rig.go(rig.scorer(options={"steps": 4, "weights": {"name": "w"}}), seeds=[7])
    (path,) = rig.results.glob("scorers/quality/*/job.json")
    job = json.loads(path.read_text())
    dataset, (_, cells) = Squares(), planned(rig.job(seeds=[7]))
    assert {key: job[key] for key in ("schema", "metric", "options", "device", "output")} == {
        "schema": 1,
        "metric": "quality",
        "options": {"steps": 4, "weights": {"name": "w"}},
        "device": "cpu",
        "output": str(path.parent / "scores.json"),
    }
    assert set(job) == {"schema", "metric", "videos", "options", "device", "output"}
    for told, cell in zip(job["videos"], cells, strict=True):
        assert told["video"] == str((rig.results / cell.path / "frames.mkv").absolute())
        assert {**told, "video": 0, "reference": 0} == {
            "id": cell.id,
            "video": 0,
            "reference": 0,
            "prompt": "a red square",
            "caption": "a square",
            "clip": cell.clip.name,
            "seed": 7,
            "fps": 8.0,
        }
        frames, fps = video.read_video(kept / f"{cell.clip.name}.mkv")
        assert np.array_equal(frames, dataset.load(cell.clip.name).frames) and fps == 8.0
        assert not Path(told["reference"]).exists(), "references take room"


def test_a_program_in_a_folder_of_its_own_finds_what_lies_in_a_relative_results_folder(
    rig, tmp_path, monkeypatch
):
    rig.write(
        "assert all(os.path.exists(one[key]) for one in job['videos'] for key in ('video', 'reference'))"
    )
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    rig.results = Path("results")
    rig.go(rig.scorer(folder="elsewhere"))
    assert [value["value"] for value in rig.values()] == [1.0, 2.0, 3.0]


def test_seeds_of_a_clip_share_a_reference(rig):
    rig.go(seeds=[0, 1], dataset=Squares(clips=2))
    (path,) = rig.results.glob("scorers/quality/*/job.json")
    videos = json.loads(path.read_text())["videos"]
    by_clip = {(one["clip"], one["reference"]) for one in videos}
    assert len(videos) == 4 and len(by_clip) == 2


def test_a_later_command_calls_the_program_for_what_is_missing_alone(rig):
    rig.go(limit=2)
    rig.go()
    assert rig.calls == [["clip0", "clip1"], ["clip2"]]


def test_a_metric_added_later_scores_videos_that_are_there(rig):
    one = make_job(rig.results, metrics={"likeness": Likeness()})
    run.run(one, *planned(one))
    outcome = rig.go()
    assert (outcome.computed, outcome.rescored, len(rig.calls)) == (0, 3, 1)


def test_command_options_release_and_files_score_anew_and_the_rest_does_not(rig):
    rig.go()
    same = [
        rig.scorer(timeout=60),
        rig.scorer(environment={"A": "1"}),
        rig.scorer(folder=str(rig.path.parent)),
    ]
    for scorer in same:
        rig.go(scorer)
    assert len(rig.calls) == 1
    for count, scorer in enumerate(
        [
            rig.scorer(options={"a": 1}),
            rig.scorer(release="2"),
            rig.scorer(command=[*rig.scorer().command, "-x"]),
        ]
    ):
        rig.go(scorer)
        assert len(rig.calls) == 2 + count
    rig.go()
    rig.write("# changed")
    rig.go()
    assert len(rig.calls) == 6


def test_a_program_that_is_gone_leaves_its_values(rig):
    rig.go()
    rig.path.unlink()
    rig.go()
    assert [value["value"] for value in rig.values()] == [1.0, 2.0, 3.0]


def test_another_label_or_direction_calls_no_program_and_stands_in_the_records(rig):
    rig.go()
    rig.go(rig.scorer(label="Quality", unit="points", digits=1, higher_is_better=False, sees_motion=True))
    assert len(rig.calls) == 1
    for value in rig.values():
        shown = [
            value[key] for key in ("label", "unit", "digits", "higher_is_better", "sees_motion", "value")
        ]
        assert shown[:-1] == ["Quality", "points", 1, False, True] and shown[-1] is not None


@pytest.mark.parametrize(
    "body, reason",
    [
        ("scores[ids[1]] = float('nan')", "value: Input should be a finite number (it gave nan)"),
        ("scores[ids[1]] = -float('inf')", "value: Input should be a finite number (it gave -inf)"),
        ("del scores[ids[1]]", "its program gave no score for it"),
        ("scores[ids[1]] = None", "its program gave no value and no reason"),
        ("scores[ids[1]] = 'good'", "value: Input should be a valid number (it gave 'good')"),
        ("scores[ids[1]] = True", "value: Input should be a valid number (it gave True)"),
        ("scores[ids[1]] = {'value': 1, 'per_frame': 'no'}", "per_frame: Input should be a valid list"),
        ("scores[ids[1]] = {'score': 1}", "value: Field required (it gave {'score': 1})"),
        ("scores[ids[1]] = {'value': None, 'reason': 'too\\nshort'}", "too short"),
    ],
)
def test_an_answer_that_cannot_be_used_is_null_and_said_and_the_others_stay(rig, capsys, body, reason):
    rig.write(body)
    outcome = rig.go()
    assert outcome.ok and outcome.fault == ("short" not in body)
    first, second, third = rig.values()
    assert (first["value"], second["value"], third["value"]) == (1.0, None, 3.0)
    assert reason in second["reason"] and "\n" not in second["reason"]
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "without a value" in line]
    assert line.count("clip1-") == 1 and reason[:30] in line


def test_a_score_of_a_video_that_was_not_given_is_said_and_left_out(rig, capsys):
    rig.write("scores['0123456789abcdef'] = 5.0")
    assert rig.go().fault
    assert [value["value"] for value in rig.values()] == [1.0, 2.0, 3.0]
    err = " ".join(capsys.readouterr().err.split())
    assert "gave 1 scores of videos that it was not given, the first of '0123456789abcdef'" in err


def test_what_a_program_says_besides_the_value_is_kept(rig):
    rig.write(
        "scores[ids[0]] = {'value': 2, 'per_frame': [1, 3], 'details': {'n': 2, 'how': 'well', 'x': .5}}"
    )
    rig.go(dataset=Squares(clips=1))
    (value,) = rig.values()
    assert (value["value"], value["per_frame"]) == (2.0, [1.0, 3.0])
    assert {**value["details"], "log": 0} == {"n": 2, "how": "well", "x": 0.5, "log": 0}


@pytest.mark.parametrize(
    "body, end, keys, reason",
    [
        ("print('no memory')\nsys.exit(3)", END, {}, "quality ended with exit status 3; "),
        ("", "", {}, "quality wrote no scores to scores.json; "),
        ("open(job['output'], 'w').write('{')", "", {}, "quality wrote no JSON to scores.json ("),
        ("scores = [1, 2]", END, {}, "quality wrote a list, not an object of scores by id, to scores.json; "),
        ("time.sleep(600)", END, {"timeout": 2}, "longer than metrics.metrics.quality.timeout=2 seconds; "),
    ],
)
def test_a_program_that_fails_gives_no_value_and_names_its_log(rig, capsys, body, end, keys, reason):
    rig.write(body, end)
    outcome = rig.go(rig.scorer(**keys))
    assert outcome.ok and outcome.fault, "the videos are good"
    (attempt,) = (rig.results / "scorers" / "quality").iterdir()
    for value in rig.values():
        assert value["value"] is None and reason in value["reason"]
        assert f"quality/{attempt.name}/log.txt in the results' folder scorers has its" in value["reason"]
    err = " ".join(capsys.readouterr().err.split())
    assert "quality: 3 videos, the first cells/drift/squares/clip0-" in err and reason in err
    rig.go(rig.scorer(**keys))
    assert len(rig.calls) == 1, "a null value waits for action=score"


def test_a_program_that_is_not_there_is_null_with_the_remedy(rig):
    assert rig.go(rig.scorer(command=["no-such-program-9"])).ok
    for value in rig.values():
        assert value["reason"].startswith("metrics.metrics.quality.command: no-such-program-9 does not exist")


def test_what_a_program_leaves_running_is_ended_with_it(rig):
    rig.write(
        """
import subprocess
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
scores = {one: float(child.pid) for one in ids}
"""
    )
    rig.go()
    with pytest.raises(ProcessLookupError):
        pid = int(rig.values()[0]["value"])
        stat = Path(f"/proc/{pid}/stat")
        if stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z":
            raise ProcessLookupError
        os.kill(pid, 0)


def test_action_score_asks_again_for_what_is_null_and_for_all_when_told(rig):
    rig.write("del scores[ids[1]]")
    rig.go()
    rig.write("")
    rig.score()
    # The program's file is another: so all three were of another version.
    assert rig.calls[-1] == ["clip0", "clip1", "clip2"]
    rig.write("del scores[ids[1]]")
    rig.score()
    rig.score()
    assert rig.calls[-1] == ["clip1"]
    rig.score(everything=True)
    assert rig.calls[-1] == ["clip0", "clip1", "clip2"]


def test_cells_without_kept_frames_are_named(rig, capsys):
    rig.go(keep_frames=False, dataset=Squares(clips=1))
    assert rig.calls == []
    (value,) = rig.values()
    assert value["reason"] == "its frames were not kept (keep_frames=true keeps them)"
    err = " ".join(capsys.readouterr().err.split())
    assert "quality: cells/drift/squares/clip0-" in err and "keep_frames=true" in err
    assert list(rig.results.glob("scorers/quality/*")) == []


def test_frames_that_are_not_the_record_s_are_not_scored(rig):
    one = make_job(rig.results, metrics={"likeness": Likeness()})
    _, cells = planned(one)
    run.run(one, *planned(one))
    video.write_ffv1(rig.results / cells[0].path / "frames.mkv", np.zeros((5, 16, 16, 3), np.uint8), 8)
    rig.go()
    assert rig.calls == [["clip1", "clip2"]]


def test_a_required_metric_fails_the_cells_that_lack_it_and_they_are_ok_again(rig):
    rig.write("del scores[ids[0]]")
    outcome = rig.go(required=["quality"])
    assert [record.status for record in outcome.records] == ["failed", "ok", "ok"]
    assert outcome.records[0].error is not None
    assert "quality: its program gave no score for it" in outcome.records[0].error.message
    rig.write("")
    outcome = rig.go(required=["quality"])
    assert outcome.ok and outcome.computed == 0


def test_a_required_metric_stops_no_run_before_its_program_has_run(rig):
    engine = make_job(rig.results).engine
    engine.on_error = "stop"
    outcome = rig.go(required=["quality"], engine=engine)
    assert outcome.ok and len(outcome.records) == 3


def test_a_required_metric_whose_program_is_not_there_is_bad_input(rig):
    with pytest.raises(InputError, match=r"metrics\.required: quality cannot be computed: .*does not exist"):
        planned(
            rig.job(rig.scorer(command=["no-such-program-9"]), required=["quality"], needs=NEEDS["score"])
        )


def test_the_videos_of_an_untrained_backbone_are_not_scored(rig):
    rig.go(backbone=FakeConfig(weights="random"))
    assert rig.calls == []
    assert {value["reason"] for value in rig.values()} == {score.UNTRAINED}


def test_failed_cells_are_not_scored(rig):
    rig.go(dataset=Squares(clips=1, prompts=("good", "bad")), method=Drift(trouble={"bad": "error"}))
    assert rig.calls == [["clip0"]]


def test_two_commands_at_once_call_the_program_once(rig):
    rig.write("time.sleep(1)")
    one = make_job(rig.results, metrics={"likeness": Likeness()})
    run.run(one, *planned(one))
    threads = [threading.Thread(target=rig.go) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert rig.calls == [["clip0", "clip1", "clip2"]]
    assert [value["value"] for value in rig.values()] == [1.0, 2.0, 3.0]


def test_a_cell_that_another_process_holds_is_waited_for(rig):
    one = make_job(rig.results, metrics={"likeness": Likeness()})
    _, cells = planned(one)
    run.run(one, *planned(one))
    lock = CellLock(rig.results, cells[0].id, "auto")
    assert lock.take()
    lines: list[str] = []

    def note(line):
        lines.append(line)
        if "waiting for that one" in line:
            assert rig.values()[0] is None
            lock.release()

    changed = batch.score_together(rig.job(), cells, note).changed
    assert set(changed) == {cell.id for cell in cells} and any("waiting" in line for line in lines)
    assert all(value["value"] is not None for value in rig.values())


def test_leases_hold_where_there_are_no_locks(rig):
    one = make_job(rig.results, metrics={"likeness": Likeness()})
    _, cells = planned(one)
    run.run(one, *planned(one))
    together = batch.score_together(rig.job(), cells, lambda _: None, locks="lease")
    assert len(together.changed) == 3 and not together.fault
    assert [value["value"] for value in rig.values()] == [1.0, 2.0, 3.0]


def test_a_cell_made_anew_while_the_program_runs_is_not_given_the_old_video_s_value(rig):
    one = make_job(rig.results, metrics={"likeness": Likeness()})
    _, cells = planned(one)
    run.run(one, *planned(one))
    folder = rig.results / cells[0].path
    lines: list[str] = []

    def note(line):
        lines.append(line)
        if "its program scores" in line:
            record = store.load_record(folder)
            record.frames_sha256 = "another"
            store.save_record(folder, record)

    changed = batch.score_together(rig.job(), cells, note).changed
    assert set(changed) == {cell.id for cell in cells[1:]}
    assert rig.values()[0] is None and any("made anew meanwhile" in line for line in lines)


PATHS = [str(Path(__file__).parent), str(Path(__file__).parents[1]), str(ROOT)]
KILL = """
import signal, sys
from pathlib import Path
sys.path[:0] = {paths!r}
from test_harness_scorers import Rig
signal.signal(signal.SIGTERM, signal.default_int_handler)
rig = Rig(Path({folder!r}))
rig.path.write_text({body!r})
rig.go()
"""


def test_values_of_a_command_killed_while_its_program_runs_come_with_the_next(rig):
    rig.write("time.sleep(600)")
    program = rig.path.read_text()
    harness = subprocess.Popen(
        [sys.executable, "-c", KILL.format(paths=PATHS, folder=str(rig.path.parent), body=program)],
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not rig.calls:
        assert harness.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    harness.terminate()
    assert harness.wait(60) != 0
    assert {value["reason"] for value in rig.values()} == {
        "waits for its program, which scores all videos at once"
    }
    rig.write("")
    outcome = rig.go()
    assert (outcome.computed, len(rig.calls)) == (0, 2)
    assert [record.metrics["quality"].value for record in outcome.records] == [1.0, 2.0, 3.0]
