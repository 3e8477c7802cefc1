"""action=weights: every weight that a command needs, whether it is here, its size and its licence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from datasets.errors import InputError
from datasets.files import size_text
from datasets.plugin import Plugin
from datasets.weights import Weight
from harness.cells.job import Job
from harness.command.interface import Action, Prepared
from harness.command.terminal import say, tell
from metrics.interface import MetricUnavailable


@dataclass
class PrintWeights(Action):
    """Prints a line for each; ``fetch`` gets those that are not here, where they can be had from here."""

    name: str
    fetch: bool = False

    def prepare(self, job: Job) -> Prepared:
        return Prepared(job)

    def act(self, prepared: Sequence[Prepared], arguments: Sequence[str] = ()) -> int:
        needed: dict[str, tuple[Weight, dict[str, None]]] = {}
        for one in prepared:
            for key, plugin in plugins(one.job):
                for weight in plugin.needed_weights():
                    needed.setdefault(weight.id, (weight, {}))[1][key] = None
        if not needed:
            tell("no weights are needed")
        for weight, keys in needed.values():
            where = str(weight.path) if weight.path is not None else "not here"
            tell(f"{weight.id}: {weight.known}, {where} ({', '.join(keys)})")
        missing = [weight for weight, _ in needed.values() if weight.path is None]
        known = sum(weight.size for weight in missing)
        if missing:
            more = "" if all(weight.size for weight in missing) else " and more"
            size = size_text(known) if known else "size unknown"
            tell(f"{len(missing)} of {len(needed)} are not here: {size}{more}")
        return fetch_all(missing) if self.fetch else 0


def plugins(job: Job) -> Iterator[tuple[str, Plugin]]:
    """What of a job may need weights, by key: the tracker only where a metric uses tracks."""
    if job.method.uses_backbone:
        yield "backbone", job.backbone
    yield "method", job.method
    yield from job.metrics.items()
    if any(metric.uses_tracks for metric in job.metrics.values()):
        yield "tracker", job.tracker


def fetch_all(missing: Sequence[Weight]) -> int:
    """Fetch them one after the other. 1 when some are still not here, with a line for each; else 0."""
    code = 0
    for weight in missing:
        if weight.fetch is None:
            say(f"{weight.id}: is not fetched; its file in conf says where it comes from")
            code = 1
            continue
        try:
            weight.fetch()
        except (InputError, MetricUnavailable, OSError) as error:
            say(f"{weight.id}: {error}")
            code = 1
        else:
            tell(f"{weight.id}: fetched")
    return code


__all__ = ["PrintWeights"]
