"""``execute=ray``: workers are tasks of a Ray cluster, one that runs or a local one.

Ray ends a command's tasks with the command, so there is no leaving (``wait=false``).
"""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from datasets.errors import InputError
from harness.execute.drain import drain
from harness.execute.interface import Listen, WorkerEngine

RESTARTS = 20
"""How often a worker that died, alone or with its node, is started again, there or elsewhere."""
GRACE_S = 10
"""Seconds that a worker has to end its child before it is killed."""
ANSWER_S = 10
"""Seconds that a cluster has to answer."""


@dataclass(config={"extra": "forbid"})
class Ray(WorkerEngine):
    """``workers`` tasks, each with ``num_gpus`` GPUs and ``num_cpus`` cores.

    ``address``: a running cluster's, ``auto`` for one that runs on this machine; null starts one on this
    machine that ends with the command. Tasks have the environment of the cluster, not of the command.
    """

    workers: Annotated[int, Field(ge=1)] = 1
    num_gpus: Annotated[int, Field(ge=0)] = 1
    num_cpus: Annotated[int, Field(ge=1)] = 1
    address: Annotated[str, Field(pattern=r"^(auto|.+:\d{1,5})$")] | None = None

    _tasks: dict[str, Any] = field(default_factory=dict, init=False, repr=False)
    _folder: Path = field(default=Path(), init=False, repr=False)

    remote: ClassVar[bool] = True

    def places(self, device: str) -> list[str]:
        """Known to Ray alone."""
        if not self.wait:
            raise InputError(
                "execute.wait=false: Ray ends tasks with their command; "
                "use execute=slurm, or start the command in the background"
            )
        return []

    def start(self, run: Path, listen: Listen) -> list[str]:
        """As the contract says; why a task failed is written beside the run's file.

        Raises InputError without Ray, without a cluster, and where this machine has too little for a worker.
        """
        try:
            import ray
        except ImportError as error:
            raise InputError("execute=ray: pip install -e '.[ray]'") from error
        self._connect()
        # Any: Ray's types know no defaults.
        task: Any = ray.remote(drain)
        worker = task.options(
            name="vmtbench", num_gpus=self.num_gpus, num_cpus=self.num_cpus, max_retries=RESTARTS
        )
        self._folder = run.parent
        tasks = [worker.remote(str(run.resolve()), str(number)) for number in range(self.workers)]
        self._tasks = {task.task_id().hex(): task for task in tasks}
        return list(self._tasks)

    def _connect(self) -> None:
        import ray

        where = f"execute.address={self.address}"
        remedy = "start one with ray start --head, or set execute.address=null"
        if self.address not in (None, "auto"):
            host, _, port = str(self.address).rpartition(":")
            try:
                # Ray itself tries for five minutes.
                socket.create_connection((host, int(port)), timeout=ANSWER_S).close()
            except (OSError, OverflowError) as error:
                raise InputError(f"{where}: nothing answers there ({error}); {remedy}") from error
        before = signal.getsignal(signal.SIGTERM)
        # A local cluster would report its use.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            ray.init(self.address or "local", log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError) as error:
            raise InputError(
                f"{where}: no Ray cluster there ({' '.join(str(error).split())}); {remedy}"
            ) from error
        finally:
            # Ray takes SIGTERM for itself.
            signal.signal(signal.SIGTERM, before)
        resources: Callable[[], dict[str, float]] = ray.cluster_resources
        for key, needed, kind in (("num_gpus", self.num_gpus, "GPU"), ("num_cpus", self.num_cpus, "CPU")):
            there = round(resources().get(kind, 0))
            # A cluster that runs may grow.
            if self.address is None and there < needed:
                ray.shutdown()
                raise InputError(
                    f"execute.{key}={needed}: Ray finds {there} {kind}s here; set execute.{key}={there}"
                )

    def running(self, ids: Sequence[str]) -> int:
        """As the contract says: none, in another process than the one that started them."""
        tasks = [one for one in ids if one in self._tasks]
        if not tasks:
            return 0
        import ray

        for one in tasks:
            if ray.wait([self._tasks[one]], timeout=0)[0]:
                try:
                    ray.get(self._tasks.pop(one))
                except ray.exceptions.RayError as error:
                    (self._folder / f"ray-{one}.log").write_text(f"{error}\n")
        return len(self._tasks)

    def stop(self, ids: Sequence[str]) -> list[str]:
        """As the contract says; nothing goes on elsewhere."""
        tasks = [self._tasks[one] for one in ids if one in self._tasks]
        if not tasks:
            return []
        import ray

        for task in tasks:
            ray.cancel(task)
        _, working = ray.wait(tasks, num_returns=len(tasks), timeout=GRACE_S)
        for task in working:
            ray.cancel(task, force=True)
        ray.wait(tasks, num_returns=len(tasks), timeout=GRACE_S)
        return []


__all__ = ["Ray"]
