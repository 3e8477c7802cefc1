"""``execute=slurm`` on a Slurm cluster of one node, which the test starts by hand on loopback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import slurm_rig
import stub_drain
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from datasets.errors import InputError
from harness.command.plugins import build
from harness.execute.interface import WorkerEngine

absent = slurm_rig.missing()
needs_slurm = pytest.mark.skipif(
    bool(absent), reason=f"apt-get install slurm-wlm: no {', '.join(absent)} here"
)


def engine(*overrides: str) -> WorkerEngine:
    """What ``execute=slurm`` and these overrides build."""
    with initialize_config_module("conf", version_base=None):
        node: Any = OmegaConf.to_container(compose("config", ["execute=slurm", *overrides]).execute)
    return build(node, "execute", WorkerEngine)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with slurm_rig.cluster(tmp_path_factory.mktemp("slurm")):
        yield


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Workers take numbered cells in place of ours."""
    cloudpickle = pytest.importorskip("cloudpickle", reason="pip install -e '.[slurm]'")
    monkeypatch.setattr("harness.execute.slurm.drain", stub_drain.work)
    with stub_drain.sent_by_value(cloudpickle, stub_drain):
        yield


SMALL = ("execute.gpus=0", "execute.cpus=1")


@needs_slurm
@pytest.mark.slow
@pytest.mark.usefixtures("cluster", "stub")
def test_one_of_two_workers_is_killed_and_all_cells_have_records(tmp_path: Path) -> None:
    run = stub_drain.write_run(tmp_path / "a run", cells=6, seconds=1)
    slurm = engine(*SMALL, "execute.workers=2")
    ids = slurm.start(run, stub_drain.unheard)
    assert len(set(ids)) == 2 and slurm.running(ids) == 2
    stub_drain.until(lambda: len(stub_drain.takers(run)) >= 2, 30, "two workers have taken a cell each")
    first, second = (pids[0] for pids in list(stub_drain.takers(run).values())[:2])
    assert first != second
    os.kill(first, signal.SIGKILL)
    stub_drain.until(lambda: slurm.running(ids) == 0, 40, "the other worker has ended")
    records = stub_drain.records(run)
    assert [record["status"] for record in records] == ["ok"] * 6
    # A cell that the first had begun has become the second's; it may have finished others before.
    begun = [pids for pids in stub_drain.takers(run).values() if first in pids]
    assert [first, second] in begun and all(pids == [first] for pids in begun if pids != [first, second])


@needs_slurm
@pytest.mark.slow
@pytest.mark.usefixtures("cluster", "stub")
def test_a_worker_at_its_time_limit_is_queued_again_and_resumes(tmp_path: Path) -> None:
    run = stub_drain.write_run(tmp_path / "run", cells=3, seconds=2)
    slurm = engine(*SMALL)
    (job,) = slurm.start(run, stub_drain.unheard)
    stub_drain.until(lambda: 1 in stub_drain.takers(run), 30, "the worker has taken the second cell")
    # What Slurm sends ahead of the limit, which is whole minutes.
    subprocess.run(["scancel", "--signal=USR2", job], check=True)
    stub_drain.until(lambda: len(stub_drain.takers(run)[1]) == 2, 60, "the second cell is taken again")
    # Found by a later process, from its id alone.
    later = engine(*SMALL)
    assert later.running([job]) == 1
    stub_drain.until(lambda: later.running([job]) == 0, 30, "the worker has ended")
    assert len(stub_drain.records(run)) == 3
    assert [len(pids) for pids in stub_drain.takers(run).values()] == [1, 2, 1]


@needs_slurm
@pytest.mark.slow
@pytest.mark.usefixtures("cluster", "stub")
def test_stopping_ends_workers_that_run_and_those_that_wait(tmp_path: Path) -> None:
    run = stub_drain.write_run(tmp_path / "run", cells=9, seconds=60)
    slurm = engine(*SMALL, "execute.workers=4")
    ids = slurm.start(run, stub_drain.unheard)
    stub_drain.until(lambda: len(stub_drain.takers(run)) == 2, 30, "the node's two cores are taken")
    assert slurm.running(ids) == 4
    assert slurm.stop(ids) == []
    stub_drain.until(lambda: slurm.running(ids) == 0, 30, "all have ended")
    assert slurm.stop(ids) == []
    assert stub_drain.records(run) == []


@needs_slurm
@pytest.mark.usefixtures("cluster", "stub")
def test_every_key_reaches_slurm(tmp_path: Path) -> None:
    run = stub_drain.write_run(tmp_path / "run", cells=1, seconds=60)
    keys = ("execute.partition=rig", "execute.memory=100M", "+execute.extra.comment=hello", "execute.time=75")
    slurm = engine(*SMALL, "execute.cpus=2", *keys)
    ids = slurm.start(run, stub_drain.unheard)
    shown = subprocess.run(["scontrol", "show", "job", *ids], capture_output=True, text=True, check=True)
    slurm.stop(ids)
    told = {
        "Partition=rig",
        "NumCPUs=2",
        "MinMemoryNode=100M",
        "Comment=hello",
        "TimeLimit=01:15:00",
        "Requeue=1",
    }
    assert told - set(shown.stdout.split()) == set()


@needs_slurm
@pytest.mark.usefixtures("cluster", "stub")
def test_what_sbatch_refuses_is_one_line(tmp_path: Path) -> None:
    run = stub_drain.write_run(tmp_path / "run", cells=1, seconds=0)
    with pytest.raises(
        InputError, match=r"^execute=slurm: sbatch refused: .*partition.*; correct execute\.\*$"
    ):
        engine(*SMALL, "execute.partition=nope").start(run, stub_drain.unheard)
    with pytest.raises(InputError, match=r"^execute=slurm: sbatch refused: .*nope.*; correct execute\.\*$"):
        engine(*SMALL, "+execute.extra.nope=1").start(run, stub_drain.unheard)


def test_without_slurm_it_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit", reason="pip install -e '.[slurm]'")
    monkeypatch.setenv("PATH", str(tmp_path))
    for action in (
        lambda: engine().start(tmp_path / "run.json", stub_drain.unheard),
        lambda: engine().running(["1"]),
        lambda: engine().stop(["1"]),
    ):
        with pytest.raises(
            InputError, match=r"^execute=slurm: there is no s\w+ here; run this where jobs are"
        ):
            action()


def test_without_submitit_it_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(InputError, match=r"^execute=slurm: pip install -e '\.\[slurm\]'$"):
        engine().start(tmp_path / "run.json", stub_drain.unheard)


@pytest.mark.parametrize(
    "override", ["execute.workers=0", "execute.time=0", "execute.gpus=-1", "execute.cpus=0"]
)
def test_a_bad_value_names_its_key(override: str) -> None:
    with pytest.raises(InputError, match=rf"^{override.partition('=')[0]}: got "):
        engine(override)
