"""``execute=ray`` on real local clusters, with devices that are declared."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import stub_drain
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from datasets.errors import InputError
from harness.command.plugins import build
from harness.execute.interface import WorkerEngine


def engine(*overrides: str) -> WorkerEngine:
    """What ``execute=ray`` and these overrides build."""
    with initialize_config_module("conf", version_base=None):
        node: Any = OmegaConf.to_container(compose("config", ["execute=ray", *overrides]).execute)
    return build(node, "execute", WorkerEngine)


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        yield pytest.importorskip("ray", reason="pip install -e '.[ray]'")


@pytest.fixture
def stub(ray: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Workers take numbered cells in place of ours."""
    monkeypatch.setattr("harness.execute.ray.drain", stub_drain.work)
    with stub_drain.sent_by_value(ray.cloudpickle, stub_drain):
        yield
    ray.shutdown()


@pytest.fixture(scope="module")
def cluster(ray: Any) -> Iterator[Any]:
    """A running cluster whose one node declares two devices."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_gpus": 2, "num_cpus": 2})
    yield cluster
    cluster.shutdown()


@pytest.mark.slow
@pytest.mark.usefixtures("stub")
def test_one_of_two_workers_is_killed_and_a_cell_hangs(cluster: Any, tmp_path: Path) -> None:
    run = stub_drain.write_run(tmp_path / "a run", cells=4, seconds=2, hung=1, timeout=4)
    before = signal.getsignal(signal.SIGTERM)
    started = engine("execute.workers=2", f"execute.address={cluster.address}")
    ids = started.start(run, stub_drain.unheard)
    assert signal.getsignal(signal.SIGTERM) is before
    assert len(set(ids)) == 2 and started.running(ids) == 2
    stub_drain.until(lambda: len(stub_drain.takers(run)) == 2, 30, "two workers have taken a cell each")
    killed = stub_drain.takers(run)[0][0]
    os.kill(killed, signal.SIGKILL)
    stub_drain.until(lambda: started.running(ids) == 0, 60, "both have ended")
    records = stub_drain.records(run)
    assert [record["status"] for record in records] == ["ok", "timeout", "ok", "ok"]
    assert {record["device"] for record in records} == {"0", "1"}
    assert killed not in {record["pid"] for record in records}
    assert stub_drain.takers(run)[0][0] == killed and len(stub_drain.takers(run)[0]) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("stub")
def test_a_node_is_lost_and_all_cells_have_records(cluster: Any, tmp_path: Path) -> None:
    node = cluster.add_node(num_gpus=1, num_cpus=1)
    run = stub_drain.write_run(tmp_path / "run", cells=5, seconds=2)
    started = engine("execute.workers=3", f"execute.address={cluster.address}")
    ids = started.start(run, stub_drain.unheard)
    stub_drain.until(lambda: len(stub_drain.takers(run)) == 3, 40, "three workers have taken a cell each")
    cluster.remove_node(node, allow_graceful=False)
    stub_drain.until(lambda: started.running(ids) == 0, 60, "all have ended")
    assert [record["status"] for record in stub_drain.records(run)] == ["ok"] * 5
    # A worker on the lost node is all that this can cost: the cell that it had begun is made again.
    assert sorted(len(pids) for pids in stub_drain.takers(run).values()) == [1, 1, 1, 1, 2]


@pytest.mark.slow
@pytest.mark.usefixtures("stub")
def test_stopping_ends_workers_that_run_and_those_that_wait(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.execute.ray.GRACE_S", 1)
    run = stub_drain.write_run(tmp_path / "run", cells=9, seconds=60)
    started = engine("execute.workers=4", f"execute.address={cluster.address}")
    ids = started.start(run, stub_drain.unheard)
    stub_drain.until(lambda: len(stub_drain.takers(run)) == 2, 30, "both devices are taken")
    pids = [taken for (taken,) in stub_drain.takers(run).values()]
    assert started.running(ids) == 4
    assert started.stop(ids) == [] and started.running(ids) == 0
    stub_drain.until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), 20, "they have ended")
    assert stub_drain.records(run) == []


@pytest.mark.slow
@pytest.mark.usefixtures("stub")
def test_a_local_cluster_ends_with_its_command(tmp_path: Path) -> None:
    run = stub_drain.write_run(tmp_path / "run", cells=2, seconds=0.5)
    local = engine("execute.num_gpus=0")
    ids = local.start(run, stub_drain.unheard)
    assert local.running(ids) == 1
    stub_drain.until(lambda: local.running(ids) == 0, 60, "the worker has ended")
    assert [record["status"] for record in stub_drain.records(run)] == ["ok", "ok"]
    assert local.running(ids) == 0 and local.stop(ids) == []


@pytest.mark.slow
@pytest.mark.usefixtures("stub")
def test_why_a_worker_failed_is_kept(cluster: Any, tmp_path: Path) -> None:
    started = engine(f"execute.address={cluster.address}")
    (one,) = started.start(tmp_path / "nothing.json", stub_drain.unheard)
    stub_drain.until(lambda: started.running([one]) == 0, 30, "it has ended")
    assert "nothing.json" in (tmp_path / f"ray-{one}.log").read_text()


@pytest.mark.usefixtures("ray")
def test_a_machine_too_small_for_a_worker_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"^execute\.num_cpus=4096: Ray finds \d+ CPUs here; set execute\.num_cpus="
    ):
        engine("execute.num_gpus=0", "execute.num_cpus=4096").start(tmp_path / "run.json", stub_drain.unheard)


@pytest.mark.usefixtures("ray")
def test_a_cluster_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"^execute\.address=127\.0\.0\.1:9: nothing answers there \(.*\); start one"
    ):
        engine("execute.address=127.0.0.1:9").start(tmp_path / "run.json", stub_drain.unheard)


def test_leaving_is_refused_in_one_line() -> None:
    with pytest.raises(
        InputError, match=r"^execute\.wait=false: Ray ends tasks with their command; use execute=s"
    ):
        engine("execute.wait=false").places("cuda")


def test_without_ray_it_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"^execute=ray: pip install -e '\.\[ray\]'$"):
        engine().start(tmp_path / "run.json", stub_drain.unheard)
    assert engine().running(["1"]) == 0 and engine().stop(["1"]) == []


@pytest.mark.parametrize(
    "override", ["execute.workers=0", "execute.num_gpus=-1", "execute.num_cpus=0", "execute.address=here"]
)
def test_a_bad_value_names_its_key(override: str) -> None:
    with pytest.raises(InputError, match=rf"^{override.partition('=')[0]}: got "):
        engine(override)
