"""Experiments: named variants, planned as one, from inside the Hydra job."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from test_harness_cli import Harness, harness, world  # noqa: F401

from harness import __main__ as cli
from harness.cells.locks import in_turn
from harness.command.terminal import HOME
from harness.records import store
from harness.records.record import Plan

METHODS = [path.stem for path in (HOME / "conf" / "method").glob("*.yaml")]
EXPERIMENTS = {
    "windows": {
        "baseline": "small",
        "variants": {
            "small": ["method.window=1"],
            "usual": [],
            "three": ["method.window=3"],
            "huge": ["method.window=9"],
        },
    },
    "policies": {
        "variants": {1: ["method.steps=1"], "adaptive": ["method.policy=adaptive"]},
        "optional": ["adaptive"],
    },
    "broken": {"variants": {"good": [], "bad": ["method.windwo=1"]}},
    "steps": {"variants": {"one": ["method.steps=1"], "other": ["method.window=1"]}},
    "everything": {
        "variants": {"sealed as it should be": ["method=sealed", "method.name=mine"]},
        "every": "method",
        "without": ["finished", "gone", "outside", "sealed", *METHODS],
    },
    "misspelt": {"variant": {"a": []}},
    "lonely": {"variants": {"a": []}, "baseline": "b"},
    "empty": {"variants": {}},
    "greedy": {"variants": {"a": ["results=elsewhere"]}},
    "none_fits": {"variants": {"a": ["method.window=7"], "b": ["method.window=8"]}},
}


@pytest.fixture
def experiments(harness: Harness) -> Harness:  # noqa: F811
    folder = harness.world / "groups" / "experiment"
    folder.mkdir(exist_ok=True)
    for name, node in EXPERIMENTS.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(node, sort_keys=False))
    return harness


def the_plan(folder: Path) -> Plan:
    (path,) = (folder / "results" / "plans").iterdir()
    return store.load_plan(path)


def test_variants_become_rows_of_one_plan_in_their_order(experiments: Harness, tmp_path: Path) -> None:
    code, out, err = experiments("experiment=windows", "action=plan", "limit=2", "seed=5")
    assert (code, err) == (0, "")
    plan = the_plan(tmp_path)
    assert plan.name.startswith("windows-fake-fake-")
    assert [variant.label for variant in plan.variants] == ["small", "usual"]
    assert plan.baseline == "small" and "experiment=windows" in plan.command
    assert [len(variant.cells) for variant in plan.variants] == [2, 2]
    assert {cell.seed for variant in plan.variants for cell in variant.cells} == {5}
    assert plan.variants[0].overrides[-1] == "method.window=1" and "seed=5" in plan.variants[0].overrides
    reasons = {one.label: one.reason for one in plan.variants_out}
    assert reasons["three"] == "the same configuration as usual"
    assert "method.window=9 is larger than the token grid" in reasons["huge"]
    assert "small on fake" in out and out.count("plan: ") == 1
    assert "variant left out: huge: method.window=9 is larger" in out


def test_a_cell_is_the_same_cell_in_every_experiment_and_without_one(
    experiments: Harness, tmp_path: Path
) -> None:
    for arguments in (
        ["experiment=windows"],
        ["experiment=policies"],
        ["method.window=1"],
        ["method.steps=1"],
    ):
        assert experiments(*arguments, "action=plan", "limit=1")[0] == 0
    paths: dict[tuple[str, str], set[str]] = {}
    for path in (tmp_path / "results" / "plans").iterdir():
        plan = store.load_plan(path)
        for variant in plan.variants:
            (cell,) = variant.cells
            paths.setdefault((plan.name.partition("-")[0], variant.label), set()).add(cell.path)
    assert paths["windows", "small"] | paths["policies", "1"] == paths["fake", "fake"]


def test_the_variant_wins_and_the_clash_is_one_line(experiments: Harness, tmp_path: Path) -> None:
    code, _, err = experiments("experiment=steps", "method.steps=7", "action=plan", "limit=1")
    assert code == 0
    assert err == "method.steps=7 does not reach these variants of experiment=steps: one\n"
    one, other = (variant.overrides for variant in the_plan(tmp_path).variants)
    assert "method.steps=7" not in one and "method.steps=7" in other


def test_an_override_that_every_variant_sets_is_bad_input(experiments: Harness, tmp_path: Path) -> None:
    code, _, err = experiments("experiment=none_fits", "method.window=2", "action=plan")
    assert code == 2
    assert (
        err == "method.window=2: every variant of experiment=none_fits sets method.window itself; "
        "drop one of the two\n"
    )
    assert not (tmp_path / "results" / "plans").exists()


def test_a_variant_of_what_a_method_lacks_is_left_out_if_it_may(experiments: Harness, tmp_path: Path) -> None:
    assert experiments("experiment=policies", "action=plan")[0] == 0
    plan = the_plan(tmp_path)
    assert [variant.label for variant in plan.variants] == ["1"]
    (out,) = plan.variants_out
    assert out.label == "adaptive" and "method.policy: no such key" in out.reason


def test_every_option_of_a_group_becomes_a_variant(experiments: Harness, tmp_path: Path) -> None:
    words = ["backbone=fake", "dataset=fake", "metrics=fake", "tracker=fake", "device=cpu"]
    command = ["harness", "--config-dir", str(experiments.world / "groups"), "trust=[cliplugins]", *words]
    experiments.patch.setattr(sys, "argv", [*command, "experiment=everything", "action=plan"])
    assert cli.main() == 0
    assert [variant.label for variant in the_plan(tmp_path).variants] == ["sealed as it should be", "fake"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("broken", ["experiment=broken, bad", "method.windwo", "did you mean method.window?"]),
        ("misspelt", ["experiment=misspelt", "variant: no such key", "did you mean variants?"]),
        ("lonely", ["experiment=lonely", "no variant 'b'"]),
        ("empty", ["experiment=empty", "names none"]),
        ("greedy", ["experiment=greedy, a", "results", "drop it there"]),
        ("windws", ["experiment=windws", "did you mean experiment=windows?"]),
        ("none_fits", ["method.window=7 is larger"]),
    ],
)
def test_a_bad_experiment_is_bad_input(experiments: Harness, name: str, words: list[str]) -> None:
    code, _, err = experiments(f"experiment={name}", "action=plan")
    assert code == 2
    lines = err.strip().splitlines()
    assert len(lines) == (2 if name == "none_fits" else 1)
    assert all(word in lines[0] for word in words)


def test_jobs_of_a_sweep_over_experiments_do_not_share_a_plan(experiments: Harness, tmp_path: Path) -> None:
    arguments = ("-m", "experiment=windows,steps", "seed=0,1", "name=mine", "action=plan", "limit=1")
    assert experiments(*arguments)[0] == 0
    plans = [store.load_plan(path) for path in (tmp_path / "results" / "plans").iterdir()]
    assert sorted(plan.name for plan in plans) == ["mine", "mine-2", "mine-3", "mine-4"]
    assert all(len(plan.variants) == 2 for plan in plans)


def test_a_launcher_of_hydra_is_bad_input(experiments: Harness) -> None:
    code, _, err = experiments("-m", "hydra/launcher=nothing", "seed=0,1")
    assert code == 2 and "hydra/launcher=nothing" in err


HOLD = """
import sys
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


class Cell:
    def __init__(self, id_: str) -> None:
        self.id, self.path = id_, f"cells/{id_}"


@pytest.mark.parametrize("end", ["let go", "kill"])
def test_a_cell_that_another_process_works_on_comes_last_and_no_lock_outlives_its_process(
    tmp_path: Path, end: str
) -> None:
    (tmp_path / "locks").mkdir()
    command = [sys.executable, "-c", HOLD, str(tmp_path / "locks" / "a.lock")]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin and child.stdout and child.stdout.readline() == "held\n"
    notes: list[str] = []

    def note(line: str) -> None:
        notes.append(line)
        child.kill() if end == "kill" else child.stdin.close()
        child.wait()

    cells = [Cell("a"), Cell("b"), Cell("c")]
    seen = [cell.id for cell in in_turn(tmp_path, cells, note)]  # type: ignore[arg-type]
    assert seen == ["b", "c", "a"]
    assert len(notes) == 1 and "cells/a" in notes[0]


def test_every_shipped_experiment_plans_on_the_embedded_world(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = sorted(path.stem for path in (HOME / "conf" / "experiment").glob("*.yaml"))
    wanted = {
        "main_table",
        "scaling",
        *(f"ablation_{x}" for x in ("components", "interval", "window", "block", "init")),
    }
    assert wanted <= set(names)
    # A protocol's choose their own backbone and data (test_reports_protocol.py).
    small = [name for name in names if not name.endswith("_wan") and not name.startswith("vmtbench")]
    monkeypatch.chdir(tmp_path)
    words = ["-m", f"experiment={','.join(small)}", "action=plan", "limit=1", "device=cpu"]
    monkeypatch.setattr(sys, "argv", ["harness", *words])
    assert cli.main() == 0, capsys.readouterr().err
    plans = {}
    for path in (tmp_path / "results" / "plans").iterdir():
        plan = store.load_plan(path)
        plans[plan.name.partition("-")[0]] = plan
    assert set(plans) == set(small)
    main = [variant.label for variant in plans["main_table"].variants]
    assert main[:3] == ["none", "full_attention", "fastvmt"]
    out = {one.label for one in plans["main_table"].variants_out}
    assert set(main) | out == set(METHODS) - {"precomputed", "external"}
    window = {one.label: one.reason for one in plans["ablation_window"].variants_out}
    assert "8x8 token grid" in window["window 21"]
    shared = [
        {cell.path for variant in plans[name].variants for cell in variant.cells}
        for name in ("main_table", "ablation_components", "ablation_init")
    ]
    assert len(shared[0] & shared[1]) >= 3 and shared[1] & shared[2]
