"""This machine: one supervised worker a device."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from datasets.errors import InputError
from harness.execute.drain import drain
from harness.execute.interface import Listen, WorkerEngine
from harness.execute.orders import Orders


@dataclass(config={"extra": "forbid"})
class Local(WorkerEngine):
    """``devices``: numbers of CUDA devices, one worker each; ``auto``: those of the machine, or the one that
    ``device=cuda:N`` names. On a CPU: as many workers as numbers, ``auto`` one.
    """

    devices: Literal["auto"] | Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = "auto"

    def __post_init__(self) -> None:
        self._threads: dict[str, threading.Thread] = {}
        self._stop = threading.Event()
        self._codes: list[int] = []

    def places(self, device: str) -> list[str]:
        """One a worker."""
        if not self.wait:
            raise InputError(
                "execute.wait=false: workers of execute=local end with their command; "
                "use execute=slurm, or start the command in the background"
            )
        if device == "cpu":
            return ["cpu"] * (1 if self.devices == "auto" else len(self.devices))
        import torch

        count = torch.cuda.device_count()
        one = device.partition(":")[2]
        chosen = self.devices
        if chosen == "auto":
            chosen = [int(one)] if one else list(range(count))
        elif one and chosen != [int(one)]:
            raise InputError(f"execute.devices={chosen}: device={device} names one device; use device=cuda")
        twice = [number for number in chosen if chosen.count(number) > 1]
        if twice:
            raise InputError(
                f"execute.devices={chosen}: two workers on device {twice[0]} would share its memory and take "
                "each other's time; name each device once"
            )
        absent = [number for number in chosen if number >= count]
        if absent:
            raise InputError(f"execute.devices={chosen}: this machine has {count} CUDA device(s)")
        return [f"cuda:{number}" for number in chosen]

    def codes(self) -> list[int]:
        """Of the workers that have ended."""
        return list(self._codes)

    def start(self, run: Path, listen: Listen) -> list[str]:
        orders = Orders.load(run)
        for number, device in enumerate(orders.devices):
            worker = str(number)
            options = _placed(device, len(orders.devices))
            thread = threading.Thread(target=self._drain, args=(str(run), worker, options, listen))
            self._threads[worker] = thread
            thread.start()
        return list(self._threads)

    def _drain(self, run: str, worker: str, options: dict[str, Any], listen: Listen) -> None:
        number = int(worker)
        code = drain(run, worker, listen=lambda message: listen(number, message), stop=self._stop, **options)
        self._codes.append(code)

    def running(self, ids: Sequence[str]) -> int:
        return sum(self._threads[name].is_alive() for name in ids if name in self._threads)

    def stop(self, ids: Sequence[str]) -> list[str]:
        self._stop.set()
        for thread in self._threads.values():
            thread.join()
        return []


def _placed(device: str, workers: int) -> dict[str, Any]:
    """A worker's environment and overrides for its device."""
    if device.startswith("cuda:"):
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        number = int(device.partition(":")[2])
        name = visible[number].strip() if number < len(visible) and visible != [""] else str(number)
        return {"environment": {"CUDA_VISIBLE_DEVICES": name}, "overrides": ["device=cuda"]}
    if workers == 1:
        return {}
    threads = max(1, (os.cpu_count() or 1) // workers)
    return {"environment": {"OMP_NUM_THREADS": str(threads)}}


__all__ = ["Local"]
