"""External scorers from the command line: how one is added, its column in the table, and its secrets."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from datasets.media import video
from harness import __main__ as cli
from harness.records import store
from reports.table.tables import tables

EXAMPLE = Path(cli.__file__).resolve().parents[1] / "docs" / "external_scorer_example.py"
SLOW = ("motion_fidelity", "motion_fidelity_legacy", "clip_t", "clip_f", "warp_consistency")
TOKEN, KEY = "s3cr3t-tok3n", "k3y-of-a-hub"
SIZES = {"one": (5, 48, 64), "two": (9, 64, 48)}
COMMAND = f"['{sys.executable}','{EXAMPLE}']"
TARGET = "_target_:metrics.external_scorer.ExternalScorer"
WORDS = f"+metrics.metrics.sharpness={{{TARGET},name:sharpness,label:Sharpness,digits:1,command:{COMMAND}}}"
YAML = f"""
defaults: [default, _self_]
metrics:
  sharpness:
    _target_: metrics.external_scorer.ExternalScorer
    name: sharpness
    label: Sharpness
    digits: 1
    command: ["{sys.executable}", "{EXAMPLE}"]
"""


def noise(name, blur):
    frames, height, width = SIZES[name]
    rng = np.random.default_rng(frames)
    return np.stack(
        [
            cv2.GaussianBlur(rng.integers(0, 256, (height, width, 3), dtype=np.uint8), (0, 0), blur)
            for _ in range(frames)
        ]
    )


@pytest.fixture
def root(tmp_path):
    rows = ["clip,method,file"]
    for folder in ("refs", "out"):
        (tmp_path / folder).mkdir()
    for name in SIZES:
        video.write_ffv1(tmp_path / "refs" / f"{name}.mkv", noise(name, 1), 12)
        for method, blur in (("crisp", 1), ("soft", 3)):
            video.write_ffv1(tmp_path / "out" / f"{name}-{method}.mkv", noise(name, blur), 12)
            rows.append(f"{name}.mkv,{method},out/{name}-{method}.mkv")
    (tmp_path / "m.csv").write_text("\n".join(rows) + "\n")
    prompts = ["clip,prompt", *(f"{name},a wall" for name in SIZES)]
    (tmp_path / "refs" / "prompts.csv").write_text("\n".join(prompts) + "\n")
    return tmp_path


@pytest.fixture
def run(root, monkeypatch, capsys):
    def command(*words):
        given = [
            *("dataset=folder", f"dataset.root={root / 'refs'}", f"results={root / 'r'}", "frames=auto"),
            *("method=precomputed", f"method.manifest={root / 'm.csv'}", "wandb=disabled"),
            *(
                "~metrics.metrics.motion_fidelity_legacy",
                "~metrics.metrics.clip_t",
                "~metrics.metrics.clip_f",
                "~metrics.metrics.warp_consistency",
                "~metrics.metrics.ftd",
            ),
            *(() if any(word.startswith("execute=") for word in words) else ("execute=here",)),
        ]
        monkeypatch.setattr(sys, "argv", ["harness", *given, *words])
        code = cli.main()
        out, err = capsys.readouterr()
        return code, out, err

    return command


def records(root):
    return [json.loads(path.read_text()) for path in sorted(root.glob("r/cells/**/record.json"))]


def laplacian(frames):
    """Mean variance of OpenCV's Laplacian, without the border that it makes up."""
    grey = [cv2.cvtColor(frame.astype(np.float32), cv2.COLOR_RGB2GRAY).astype(float) for frame in frames]
    return float(np.mean([cv2.Laplacian(one, cv2.CV_64F, ksize=1)[1:-1, 1:-1].var() for one in grey]))


def check(root):
    found = {(one["method"]["name"], one["clip"]): one["metrics"]["sharpness"] for one in records(root)}
    assert len(found) == 4
    for (method, clip), value in found.items():
        wanted = laplacian(noise(clip, 1 if method == "crisp" else 3))
        assert value["value"] == pytest.approx(wanted, rel=1e-3)
        assert value["details"]["reference"] == pytest.approx(laplacian(noise(clip, 1)), rel=1e-3)
        assert len(value["per_frame"]) == SIZES[clip][0]
    plans = [store.load_plan(path) for path in sorted((root / "r" / "plans").glob("*.json"))]
    (made,) = tables(root / "r", plans)
    assert made.values.loc["crisp", "sharpness"] > 10 * made.values.loc["soft", "sharpness"]


@pytest.mark.parametrize("words", [["execute=here"], ["execute=local", "measure.quiet=false"]])
def test_a_scorer_is_added_on_the_command_line(root, run, words):
    """Here, and by workers with a process of their own for the other metrics."""
    code, out, err = run(WORDS, *words)
    assert code == 0, err
    assert "Sharpness" in out
    check(root)
    assert err.count("sharpness: its program scores 2 videos") == 2, "once a job: each method is one"
    code, _, err = run(WORDS, *words)
    assert code == 0 and "its program scores" not in err


def test_a_scorer_is_added_by_a_file_of_the_user_s(root, run):
    (root / "mine" / "metrics").mkdir(parents=True)
    (root / "mine" / "metrics" / "sharp.yaml").write_text(YAML)
    code, out, err = run("--config-dir", str(root / "mine"), "metrics=sharp")
    assert code == 0, err
    assert "Sharpness" in out
    check(root)


def test_action_score_adds_one_to_videos_that_are_there(root, run):
    assert run()[0] == 0
    code, out, err = run("action=score", WORDS)
    assert code == 0, err
    assert "Sharpness" in out and "its program scores 2 videos" in err
    check(root)


WRONG = """
import json, sys
job = json.load(open(sys.argv[-1]))
scores = {video["id"]: 1.0 if video["clip"] == "one" else float("nan") for video in job["videos"]}
json.dump({**scores, "0123456789abcdef": 2.0}, open(job["output"], "w"))
"""


@pytest.mark.parametrize("words", [["execute=here"], ["execute=local"], ["action=score"]])
def test_a_program_that_answers_wrongly_is_exit_code_2_and_nothing_is_lost(root, run, words):
    if words == ["action=score"]:
        assert run("method.name=crisp")[0] == 0
    (root / "wrong.py").write_text(WRONG)
    keys = f"{TARGET},name:wrong,label:Wrong,command:['{sys.executable}','{root / 'wrong.py'}']"
    code, out, err = run(f"+metrics.metrics.wrong={{{keys}}}", "method.name=crisp", *words)
    assert code == 2 and "Wrong" in out
    (nan,) = [line for line in err.splitlines() if "without a value" in line]
    (unknown,) = [line for line in err.splitlines() if "not given" in line]
    assert "two-" in nan and "it gave nan" in nan and "0123456789abcdef" in unknown
    assert {one["clip"]: one["metrics"]["wrong"]["value"] for one in records(root)} == {"one": 1, "two": None}
    assert {one["status"] for one in records(root)} == {"ok"}


def test_a_wrong_key_of_a_scorer_is_bad_input(run):
    code, _, err = run(WORDS.replace("label:", "labl:"))
    assert code == 2 and err.count("\n") == 1
    assert "metrics.metrics.sharpness.labl: no such key; did you mean metrics.metrics.sharpness.label?" in err


PROGRAM = """
import json, os, sys
job = json.load(open(sys.argv[-1]))
print("environment:", os.environ["TOKEN"], "options:", json.dumps(job["options"]))
assert job["options"]["key"] == os.environ["KEY"]
if os.environ.get("FAIL"):
    raise SystemExit("cannot log in with " + os.environ["TOKEN"] + " at " + os.getcwd())
answer = {"value": None, "reason": "no access for " + os.environ["TOKEN"]}
answer["details"] = {"as": os.environ["KEY"]}
json.dump({video["id"]: answer for video in job["videos"]}, open(job["output"], "w"))
"""


@pytest.mark.parametrize("fails", [False, True])
def test_secrets_of_a_scorer_stand_in_nothing_that_is_written(root, run, monkeypatch, fails):
    monkeypatch.setenv("KEY", KEY)
    if fails:
        monkeypatch.setenv("FAIL", "1")
    (root / "program.py").write_text(PROGRAM)
    keys = f"{TARGET},name:login,command:['{sys.executable}','{root / 'program.py'}']"
    code, out, err = run(
        f"+metrics.metrics.login={{{keys},environment:{{TOKEN:{TOKEN}}}}}",
        "+metrics.metrics.login.options={key:'${oc.env:KEY}'}",
        "method.name=crisp",
    )
    assert code == (2 if fails else 0), err
    assert "login" in err and TOKEN not in out + err and KEY not in out + err
    written = {path: path.read_bytes() for path in (root / "r").rglob("*") if path.is_file()}
    assert any(path.name == "log.txt" and b"options: " in text for path, text in written.items())
    for path, text in written.items():
        assert TOKEN.encode() not in text and KEY.encode() not in text, path
    (first, _) = records(root)
    reason = first["metrics"]["login"]["reason"]
    assert "***" in reason and str(root) not in json.dumps(first)
    assert first["config"]["metrics"]["metrics"]["login"]["environment"] == {"TOKEN": "***"}
    assert ("exit status 1" in reason) == fails


def test_a_secret_where_it_would_be_shown_is_bad_input(run, monkeypatch):
    monkeypatch.setenv("KEY", KEY)
    keys = f"{TARGET},name:login,command:{COMMAND},release:'${{oc.env:KEY}}'"
    code, _, err = run(f"+metrics.metrics.login={{{keys}}}")
    assert code == 2 and "metrics.metrics.login.release" in err and KEY not in err
