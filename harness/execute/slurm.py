"""``execute=slurm``: workers are the tasks of one Slurm job array, submitted by submitit.

Accounting may be absent: squeue alone is asked whether a worker still runs; the records tell the rest.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from datasets.errors import InputError
from harness.execute.drain import drain
from harness.execute.interface import Listen, WorkerEngine

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

REQUEUES = 20
"""How often a worker that reached its time limit is queued again: a cell may be longer than the limit."""


class _Worker:
    """What a task of the array calls, as submitit pickles it."""

    def __init__(self, drain: Callable[[str, str], int]) -> None:
        self.drain = drain

    def __call__(self, run: str, worker: str) -> int:
        return self.drain(run, worker)

    def checkpoint(self, run: str, worker: str) -> DelayedSubmission:
        """What submitit queues again at the time limit and on preemption: the same call."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, run, worker)


@dataclass(config={"extra": "forbid"})
class Slurm(WorkerEngine):
    """An array of ``workers`` tasks.

    Each has ``gpus`` GPUs, ``cpus`` cores, ``memory`` (as Slurm writes it: 64GB) and ``time`` minutes; null
    leaves a value to the cluster. ``extra``: further parameters of sbatch, such as ``account`` or ``qos``.
    """

    workers: Annotated[int, Field(ge=1)] = 1
    partition: str | None = None
    time: Annotated[int, Field(ge=1)] = 240
    memory: str | None = None
    gpus: Annotated[int, Field(ge=0)] = 1
    cpus: Annotated[int, Field(ge=1)] = 4
    extra: dict[str, str | int | float | bool] = field(default_factory=dict)

    remote: ClassVar[bool] = True

    def start(self, run: Path, listen: Listen) -> list[str]:
        """As the contract says; what submitit writes lies in the folder ``slurm`` beside the run's file.

        Raises InputError without submitit or sbatch, and where sbatch refuses.
        """
        try:
            from submitit import SlurmExecutor
            from submitit.core.utils import FailedJobError, FailedSubmissionError
            from submitit.helpers import clean_env
        except ImportError as error:
            raise InputError("execute=slurm: pip install -e '.[slurm]'") from error
        for program in ("sbatch", "srun"):
            if shutil.which(program) is None:
                raise _absent(program)
        executor = SlurmExecutor(run.parent / "slurm", max_num_timeout=REQUEUES)
        executor.update_parameters(
            job_name="vmtbench",
            partition=self.partition,
            time=self.time,
            mem=self.memory,
            gpus_per_node=self.gpus or None,
            cpus_per_task=self.cpus,
            array_parallelism=self.workers,
            additional_parameters={"requeue": True, **self.extra},
        )
        try:
            # Submitted from within a job, the array would inherit that job's limits. What the user has set
            # stays: where the cluster is, and what to ask of it.
            own = {name: value for name, value in os.environ.items() if re.match("SLURM_CONF$|SBATCH_", name)}
            with clean_env():
                os.environ.update(own)
                jobs = executor.map_array(
                    _Worker(drain), [str(run.resolve())] * self.workers, map(str, range(self.workers))
                )
        except (FailedJobError, FailedSubmissionError) as error:
            said = re.findall(r"^sbatch: (?:error: |fatal: )?(.*)", str(error), re.MULTILINE)
            reason = said[-1] if said else " ".join(str(error).split())
            raise InputError(f"execute=slurm: sbatch refused: {reason}; correct execute.*") from error
        return [job.job_id for job in jobs]

    def running(self, ids: Sequence[str]) -> int:
        """As the contract says; all of them while the controller does not answer."""
        asked = _slurm("squeue", "--me", "--array", "--noheader", "--format=%i")
        if asked.returncode:
            return len(ids)
        return len(set(ids) & set(asked.stdout.split()))

    def stop(self, ids: Sequence[str]) -> list[str]:
        """As the contract says. scancel is silent about jobs that have ended."""
        asked = _slurm("scancel", *ids)
        if not asked.returncode:
            return []
        reason = " ".join(asked.stderr.split())
        return [f"execute=slurm: scancel failed ({reason}); these may go on: scancel {' '.join(ids)}"]


def _slurm(*words: str) -> subprocess.CompletedProcess[str]:
    """A command of Slurm. Raises InputError where it is not installed."""
    try:
        return subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise _absent(words[0]) from error


def _absent(program: str) -> InputError:
    return InputError(f"execute=slurm: there is no {program} here; run this where jobs are submitted")


__all__ = ["Slurm"]
