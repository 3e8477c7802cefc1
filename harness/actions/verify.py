"""action=verify: some cells of a results folder, made again from what their records say, and compared."""

from __future__ import annotations

import copy
import random
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from datasets.errors import InputError
from harness.cells import run
from harness.cells.generate import Loaded
from harness.cells.job import Job, Needs
from harness.cells.plan import make_plan
from harness.command.config import make_job
from harness.command.interface import Action, Prepared
from harness.command.terminal import tell
from harness.records import store
from harness.records.hidden import HIDDEN
from harness.records.record import Record

PARTS = ("method", "backbone", "dataset", "metrics", "tracker", "seed", "frames", "measure", "motion")
"""Keys of a record's configuration that its cell depends on; the rest is this command's."""


@dataclass(config={"extra": "forbid"})
class Verify(Action):
    """Makes ``cells`` of them again, drawn by ``draw``; nothing in their folder is changed.

    A cell is the same where its frames are. Where they are not (another device, another number of threads),
    its values must lie within ``tolerance``, times the larger of 1 and the recorded value.
    """

    name: str
    cells: Annotated[int, Field(ge=1)] = 5
    draw: int = 0
    tolerance: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.02

    needs = Needs(device=True)

    def prepare(self, job: Job) -> Prepared:
        """Only the folder is checked; its records say what is planned."""
        if not _records(job.results):
            raise InputError(
                f"results={job.results}: holds no finished cell that was made here; name another folder"
            )
        return Prepared(job)

    def act(self, prepared: Sequence[Prepared], arguments: Sequence[str] = ()) -> int:
        """The exit code: 1 where a cell differs or could not be made again."""
        job = prepared[0].job
        there = _records(job.results)
        drawn = random.Random(self.draw).sample(there, min(self.cells, len(there)))
        loaded, bad = Loaded(), 0
        with tempfile.TemporaryDirectory(prefix="vmtbench-") as folder:
            for number, record in enumerate(drawn, start=1):
                try:
                    said, good = self._one(record, job, Path(folder) / str(number), loaded)
                except InputError as error:
                    said, good = f"not made again: {error}", False
                bad += not good
                label = f"{record.method.name} {record.clip} seed {record.seed}"
                tell(f"[{number}/{len(drawn)}] {label} ({record.id}): {said}")
        tell(f"{len(drawn) - bad} of {len(drawn)} cells drawn from {len(there)} are as recorded")
        return int(bad > 0)

    def _one(self, record: Record, job: Job, folder: Path, loaded: Loaded) -> tuple[str, bool]:
        again = _job_of(record, job, folder)
        plan, cells = make_plan(again)
        same = [
            cell
            for cell in cells
            if (cell.clip.name, cell.prompt.text, cell.seed) == (record.clip, record.prompt, record.seed)
        ]
        if not same:
            raise InputError(f"its clip {record.clip} with this prompt and seed is not there")
        (cell,) = same
        if cell.id != record.id:
            changed = ", ".join(_changed(record.identity, cell.identity)) or "its identity"
            raise InputError(f"{changed} is another than recorded")
        for variant in plan.variants:
            variant.cells = [planned for planned in variant.cells if planned.id == cell.id]
        made = run.run(again, plan, [cell], loaded).records[0]
        return self._compared(record, made)

    def _compared(self, record: Record, made: Record) -> tuple[str, bool]:
        if made.status != "ok":
            reason = f": {made.error.message}" if made.error else ""
            return f"{made.status} this time{reason}", False
        if made.frames_sha256 == record.frames_sha256:
            return "the same frames", True
        apart = {
            name: (before.value, after.value)
            for name, before in record.metrics.items()
            if (after := made.metrics.get(name)) is not None
            and before.value is not None
            and after.value is not None
        }
        far = [
            f"{name} {before:.4g}, now {after:.4g}"
            for name, (before, after) in apart.items()
            if abs(after - before) > self.tolerance * max(1.0, abs(before))
        ]
        if far or not apart:
            return f"other frames; {'; '.join(far) or 'no value to compare'}", False
        return f"other frames, {len(apart)} values within {self.tolerance:g}{_elsewhere(record, made)}", True


def _records(results: Path) -> list[Record]:
    """Finished cells that were generated, in the order of their ids."""
    found = [store.read_record(path.parent) for path in sorted(results.glob(f"cells/**/{store.RECORD}"))]
    made = [one for one in found if one is not None and one.status == "ok" and "video" not in one.identity]
    return sorted(made, key=lambda record: record.id)


def _job_of(record: Record, job: Job, folder: Path) -> Job:
    """The record's job, in a folder of its own and on this command's device."""
    config: dict[str, Any] = copy.deepcopy(job.resolved)
    config |= {key: copy.deepcopy(record.config[key]) for key in PARTS if key in record.config}
    hidden = sorted(_hidden(config["dataset"]))
    if hidden and job.node("dataset").get("_target_") != config["dataset"].get("_target_"):
        raise InputError(f"dataset.{hidden[0]}: records hide it; give it with dataset={record.dataset.name}")
    for key in hidden:
        config["dataset"][key] = job.node("dataset")[key]
    if "names" in config["dataset"]:
        config["dataset"]["names"] = [record.clip]
    config |= {"results": str(folder), "resume": False, "keep_frames": True, "name": None, "limit": None}
    config["seed"] = record.seed
    config["device"] = job.device
    config["action"] = {"_target_": "harness.actions.run.Run", "name": "run"}
    config["metrics"] = {**config["metrics"], "required": []}
    return make_job(config, ["action=verify"])[0]


def _hidden(node: dict[str, Any]) -> Iterator[str]:
    """Keys whose values a record does not show as they were."""
    for key, value in node.items():
        if isinstance(value, str) and (value == HIDDEN or value.startswith(("DATASET", ".../", "~"))):
            yield key


def _changed(before: dict[str, Any], after: dict[str, Any], where: str = "") -> Iterator[str]:
    """Where two identities differ."""
    for key in sorted({*before, *after}):
        one, other = before.get(key), after.get(key)
        place = f"{where}.{key}" if where else key
        if isinstance(one, dict) and isinstance(other, dict):
            yield from _changed(one, other, place)
        elif one != other:
            yield place


def _elsewhere(record: Record, made: Record) -> str:
    before, now = (one.environment.get("device") for one in (record, made))
    return "" if before == now else f" (recorded on {before}, made on {now})"


__all__ = ["Verify"]
