"""From a composed configuration to a job."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from datasets.errors import InputError
from harness.actions.run import Run
from harness.command.config import make_job, resolve_device

COST = {"_target_": "harness.actions.cost.PrintCost", "name": "cost"}
ROOT: dict[str, Any] = {
    "method": {"_target_": "harness_fakes.Drift", "name": "method"},
    "backbone": {"_target_": "harness_fakes.FakeConfig", "name": "backbone"},
    "dataset": {"_target_": "harness_fakes.Squares", "name": "dataset"},
    "tracker": {"_target_": "harness_fakes.Corners", "name": "tracker"},
    "metrics": {"required": [], "metrics": {"one": {"_target_": "harness_fakes.Likeness", "name": "one"}}},
    "execute": {"_target_": "harness.execute.here.Here", "name": "here", "on_error": "continue"},
    "wandb": {"mode": "disabled"},
    "action": {"_target_": "harness.actions.run.Run", "name": "run"},
    "name": None,
    "seed": 0,
    "limit": None,
    "frames": 5,
    "results": "results",
    "device": "cpu",
    "resume": True,
    "keep_frames": True,
    "trust": ["harness_fakes"],
    "measure": {"warmup_steps": 1, "repeats": 1},
}


def changed(**values: Any) -> dict[str, Any]:
    """The configuration with some keys changed; ``a__b`` is ``a.b``."""
    root = copy.deepcopy(ROOT)
    for key, value in values.items():
        *path, last = key.split("__")
        node = root
        for part in path:
            node = node[part]
        node[last] = value
    return root


def test_a_job_holds_the_built_plugins_and_the_plain_configuration() -> None:
    job, action = make_job(changed(seed=[2, 1, 2], name=7), ["seed=[2,1,2]"])
    assert isinstance(action, Run) and job.needs == Run.needs
    assert job.method.name == "method" and list(job.metrics) == ["one"]
    assert job.seeds == [2, 1]
    assert job.name == "7"
    assert job.results == Path("results")
    assert job.resolved["dataset"]["name"] == "dataset"
    assert job.overrides == ["seed=[2,1,2]"]


def test_one_seed_is_a_list_of_one() -> None:
    assert make_job(changed(seed=3))[0].seeds == [3]


def test_a_metric_set_to_null_is_left_out() -> None:
    assert make_job(changed(metrics__metrics__one=None))[0].metrics == {}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"sede": 1}, "sede: no such key; did you mean seed?"),
        ({"measure__repeat": 1}, "measure.repeat: no such key; did you mean measure.repeats?"),
        ({"metrics__require": []}, "metrics.require: no such key; did you mean metrics.required?"),
        ({"wandb__mod": "x"}, "wandb.mod: no such key; did you mean wandb.mode?"),
        ({"wandb__mode": "maybe"}, "wandb.mode: got 'maybe'"),
        ({"measure__repeats": 0}, "measure.repeats: got 0"),
        ({"measure__warmup_steps": -1}, "measure.warmup_steps: got -1"),
        ({"method__windwo": 1}, "method.windwo: no such key"),
        ({"metrics__metrics__one__x": 1}, "metrics.metrics.one.x: no such key"),
        ({"metrics__required": ["two"]}, "metrics.required: no metric 'two'"),
        ({"seed": []}, "seed: got []"),
        ({"seed": -1}, "seed: got -1"),
        ({"seed": None}, "seed: got None"),
        ({"limit": 0}, "limit: got 0"),
        ({"frames": "many"}, "frames: got 'many'"),
        ({"results": ""}, "results: got ''"),
        ({"device": "tpu"}, "device: got 'tpu'"),
        ({"name": "../x"}, "name: got '../x'"),
        ({"trust": "os"}, "trust: got 'os'"),
        ({"method": None}, "method: got None"),
        ({"resume": "maybe"}, "resume: got 'maybe'"),
        ({"execute__on_error": "x"}, "execute.on_error: got 'x'"),
    ],
)
def test_bad_values_are_one_line_naming_the_key(values: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        make_job(changed(**values))
    assert str(caught.value).startswith(words)
    assert "\n" not in str(caught.value)


def test_the_device_is_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == "cpu"
    with pytest.raises(InputError, match="device=cuda: this machine has no CUDA device"):
        resolve_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("auto") == "cuda"
    assert resolve_device("cuda:1") == "cuda:1"
    with pytest.raises(InputError, match=r"device=cuda:2: .*the last is cuda:1"):
        resolve_device("cuda:2")


def test_cost_may_speak_of_a_device_that_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert make_job(changed(action=COST, device="cuda"))[0].device == "cuda"
