"""Results folders of real plans and identities: records of cells that nobody made, their values drawn."""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.cells.plan import Cell
from harness.cells.score import metric_version
from harness.command.compose import compose
from harness.command.prepare import prepare
from harness.records import store
from harness.records.record import MetricValue, Plan, Record, Source, Timing
from methods.interface import LatentMethod

LATER = "2026-03-02T00:00:00+00:00"


def frames_hash(cell: Cell, device: str) -> str:
    return hashlib.sha256(f"{cell.id} {device}".encode()).hexdigest()


def make(
    results: Path,
    *words: str,
    device: str = "Some CPU",
    ran: str = "2026-03-01T00:00:00",
    skip: int = 0,
    of: str = "",
) -> Plan:
    """The plan of a command, and records of its cells but the first ``skip`` of each row.

    ``of``: an experiment that the plan says it was made by, whose other rows take too long here.
    """
    command = [*words, f"results={results}", "action=plan", "device=cpu", "wandb=disabled"]
    ((_, prepared),) = prepare(compose(command))
    for one in prepared:
        assert one.plan is not None
        for cell in one.cells[skip:]:
            store.save_record(results / cell.path, one.job.hidden.record(record(one.job, cell, device, ran)))
    plan = prepared[0].plan
    assert plan is not None
    plan.ran = plan.created = ran
    plan.command += [f"experiment={of}"] if of else []
    store.save_plan(results, plan)
    return plan


def record(job: Any, cell: Cell, device: str, ran: str) -> Record:
    chance = random.Random(cell.id)
    method, backbone, dataset = (
        Source(
            name=plugin.name,
            version=plugin.version,
            config={k: v for k, v in job.node(name).items() if k[0] != "_"},
        )
        for name, plugin in (("method", job.method), ("backbone", job.backbone), ("dataset", job.dataset))
    )
    return Record(
        id=cell.id,
        status="ok",
        method=method,
        backbone=backbone,
        dataset=dataset,
        clip=cell.clip.name,
        prompt=cell.prompt.text,
        prompt_kind=cell.prompt.kind,
        seed=cell.seed,
        metrics={
            name: MetricValue(
                value=round(chance.random(), 6),
                version=metric_version(metric, job.tracker),
                **dataclasses.asdict(metric.column),
            )
            for name, metric in job.metrics.items()
        },
        timing=Timing(stages={"denoise": 1.0}, total=2.0),
        environment={"device": device, "threads": 2},
        identity=cell.identity,
        frames_sha256=frames_hash(cell, device if isinstance(job.method, LatentMethod) else ""),
        masks="whole frame",
        started=ran,
        finished=ran,
        scored=ran,
    )


def paths(results: Path, plan: Plan) -> Sequence[Path]:
    """The records of a plan's cells."""
    return [results / cell.path / store.RECORD for one in plan.variants for cell in one.cells]
