"""Command lines that ask for what cannot be: one line with the key and the remedy, exit status 2."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from harness import __main__ as cli

GROUPS = ("action", "backbone", "dataset", "execute", "method", "metrics", "tracker", "wandb")
NAMED = [(f"{group}={value}", group, "name one of its options") for group in GROUPS for value in ("null", "")]


@pytest.mark.parametrize(
    ("words", "key", "remedy"),
    [
        *NAMED,
        ("method=[none,smm]", "method", "name one of its options"),
        ("+metric=[]", "metric", "name one of its options"),
        ("+metric=[ftd_legacy,ftdd]", "metric", "no such option 'ftdd'"),
        ("method={}", "method", "name one of its options"),
        ("+method=null", "method", "name one of its options"),
        ("-m method=none,null", "method", "name one of its options"),
        ("experiment=[]", "experiment", "name one of its options"),
        ("-m hydra.launcher._target_=os.getcwd", "hydra.launcher._target_", "drop it"),
        ("-m hydra/launcher=nope", "hydra/launcher", "group execute"),
        ("-m hydra/launcher=joblib", "hydra/launcher", "group execute"),
        ("-m hydra.launcher.n_jobs=2", "hydra.launcher.n_jobs", "group execute"),
        ("hydra.sweeper._target_=os.getcwd", "hydra.sweeper._target_", "drop it"),
        ("hydra.run.dir=x", "hydra.run.dir", "drop it"),
        ("--shell-completion install=bash", "--shell-completion", "--help"),
        ("--config-name other", "--config-name", "--help"),
        ("--experimental-rerun x.pkl", "--experimental-rerun", "--help"),
        ("-m --cfg job", "--cfg", "without -m"),
        ("--resolve", "--resolve", "--cfg"),
        ("dataset.clips=99999999999 method=fastvmt", "dataset", "set limit="),
        ("dataset.clips=99999999999 limit=9999999999", "dataset", "set limit="),
        ("backbone.guidance_scale=nan", "backbone.guidance_scale", "give a finite number"),
        ("method.guidance_scale=inf", "method.guidance_scale", "give a finite number"),
        ("action=run action=plan", "action", "drop one"),
        ("seed=0 seed=1", "seed", "drop one"),
        ("backbone.width=100000000", "backbone.width", "less than or equal to 8192"),
        ("backbone.height=100000000 limit=1", "backbone.height", "less than or equal to 8192"),
        ("frames=1000000001 limit=1", "frames", "less than or equal to 100000"),
        ("frames=2", "frames", "use 5"),
        ("backbone.steps=0", "backbone.steps", "greater than 0"),
        ("backbone.steps=${nothing}", "backbone.steps", "set backbone.steps="),
        ("results=[a]", "results", "valid string"),
        ("results=${oc.env:NOPE}", "results", "set it, or give results="),
        ("backbone.steps=${oc.env:NOPE}", "backbone.steps", "set it, or give backbone.steps="),
        ("measure=null", "measure", "measure.KEY="),
        ("measure=3", "measure", "measure.KEY="),
        ("motion=null", "motion", "motion.KEY="),
        ("metrics.metrics=null", "metrics.metrics", "metrics.metrics.KEY="),
        ("=", "=", "write KEY=VALUE"),
        ("=5", "=5", "write KEY=VALUE"),
        ("method.=5", "method.=5", "a text is quoted: "),
    ],
)
def test_one_line_names_the_key_and_the_remedy(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: str,
    key: str,
    remedy: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NOPE", raising=False)
    given = [*words.split(" "), *([] if "action=" in words else ["action=plan"])]
    monkeypatch.setattr(sys, "argv", ["harness", *given])
    assert cli.main() == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1, err
    assert err.startswith(key) or err.startswith(f"+{key}"), err
    assert remedy in err
    # The results folder may be there by then, and nothing else.
    assert {path.name for path in tmp_path.iterdir()} <= {"results"}


def test_no_more_clips_are_drawn_than_the_limit_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from datasets.sprites import dataset

    drawn: list[int] = []
    draw = dataset.draw
    monkeypatch.setattr(dataset, "draw", lambda seed, *size: drawn.append(seed) or draw(seed, *size))
    monkeypatch.chdir(tmp_path)
    words = ["method=none", "dataset.clips=99999999999", "action=plan", "limit=2"]
    monkeypatch.setattr(sys, "argv", ["harness", *words])
    assert cli.main() == 0
    assert "2 cells" in capsys.readouterr().out
    assert len(set(drawn)) == 2
