"""Which cells a table holds: for each clip, prompt, seed and settings the newest.

Plans of one results folder overlap: a command was run again, with fewer clips, with other inputs under the
same names, or with newer code. The newest plan that ran decides what a cell is; what only an earlier one
holds stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from harness.records import store
from harness.records.identity import is_whole, of_settings, short_id
from harness.records.index import Index

if TYPE_CHECKING:
    from harness.records.record import Plan, PlannedCell, Record, Variant

Slot = tuple[str, str, int]
"""Clip, as tables name it, prompt and seed."""


@dataclass
class Held:
    """A cell of a plan's variant, its clip named as tables name it, and its record, if there is one.

    ``unreadable``: the record's file, where it cannot be read or is another cell's.
    """

    plan: Plan
    variant: Variant
    cell: PlannedCell
    record: Record | None
    unreadable: str | None = None

    @property
    def slot(self) -> Slot:
        return self.cell.clip, self.cell.prompt, self.cell.seed

    @property
    def content(self) -> str:
        """The clip's content; empty where neither plan nor record says it."""
        known = self.record.identity.get("clip", {}).get("content") if self.record else None
        return str(self.cell.content or known or "")


@dataclass
class Holding:
    """What the variants of one label and the same settings hold: the newest cell of each slot.

    ``replaced`` are the cells of earlier plans in whose place a newer one stands; ``parts`` all the variants.
    """

    label: str
    cells: dict[Slot, Held] = field(default_factory=dict)
    replaced: dict[str, Held] = field(default_factory=dict)
    parts: list[tuple[Plan, Variant]] = field(default_factory=list)


class Present(NamedTuple):
    """The holdings of one backbone and dataset, and a line for each clip whose name does not tell it."""

    holdings: list[Holding]
    names: list[str]


def newest_first(plans: Sequence[Plan]) -> list[Plan]:
    """Plans by when they ran, the last one first; those that only planned come last."""
    # Of equal times, as in plans made by hand, the later of the list.
    order = sorted(enumerate(plans), key=lambda one: (one[1].ran, one[1].created, one[0]), reverse=True)
    return [plan for _, plan in order]


def present(results: Path, plans: Sequence[Plan]) -> dict[tuple[str, str], Present]:
    """What the plans hold by backbone and dataset, in the plans' order."""
    read = _Reader(results)
    by_plan = {id(plan): list(_cells(plan, read)) for plan in plans}
    read.index.save()
    asked = _asked(plans, by_plan)
    found: dict[tuple[str, str], dict[tuple[str, str], Holding]] = {}
    for plan in plans:
        for variant in plan.variants:
            holdings = found.setdefault((variant.backbone, variant.dataset), {})
            key = asked[variant.config_id].settings, variant.label
            holdings.setdefault(key, Holding(variant.label)).parts.append((plan, variant))
    ordered = [held for plan in newest_first(plans) for held in by_plan[id(plan)]]
    # A dataset asked for otherwise (other frames, another size) has other contents under the same names.
    names: dict[tuple[str, str, str], _Names] = {}
    for held in ordered:
        names.setdefault(_source(held.variant, asked), _Names()).see(held)
    for held in ordered:
        place = held.variant.backbone, held.variant.dataset
        clip = names[_source(held.variant, asked)].of(held)
        if clip != held.cell.clip:
            held.cell = held.cell.model_copy(update={"clip": clip})
        if held.record is not None and clip != held.record.clip:
            held.record = held.record.model_copy(update={"clip": clip})
        _put(found[place][asked[held.variant.config_id].settings, held.variant.label], held)
    return {
        place: Present(
            list(holdings.values()),
            list(dict.fromkeys(line for key, of in names.items() if key[:2] == place for line in of.lines())),
        )
        for place, holdings in found.items()
    }


def _source(variant: Variant, asked: dict[str, _Asked]) -> tuple[str, str, str]:
    return variant.backbone, variant.dataset, asked[variant.config_id].dataset


def _put(holding: Holding, held: Held) -> None:
    """Into its slot, if no newer cell stands there."""
    newer = holding.cells.setdefault(held.slot, held)
    if newer.cell.id != held.cell.id:
        holding.replaced.setdefault(held.cell.id, held)
    elif newer.record is None and held.record is not None:
        # One cell in two folders, as where results were merged.
        holding.cells[held.slot] = held


@dataclass
class _Reader:
    """Reads each record once."""

    results: Path
    known: dict[str, Record | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.index = Index(self.results)

    def __call__(self, cell: PlannedCell) -> Record | None:
        """The record in a cell's folder, None without one. ValueError, OSError: it is not the cell's."""
        if cell.path not in self.known:
            try:
                self.known[cell.path] = store.record_of(self.index.read(cell.path))
            except FileNotFoundError:
                self.known[cell.path] = None
        record = self.known[cell.path]
        if record is not None and cell.id not in (record.id, record.former_id):
            raise ValueError(f"of another cell, {record.id}")
        return record


def _cells(plan: Plan, read: _Reader) -> Iterator[Held]:
    for variant in plan.variants:
        for cell in variant.cells:
            try:
                yield Held(plan, variant, cell, read(cell))
            except (OSError, ValueError):
                yield Held(plan, variant, cell, None, str(read.results / cell.path / store.RECORD))


class _Asked(NamedTuple):
    """A variant's ``settings`` and ``dataset_id``."""

    settings: str
    dataset: str


def _asked(plans: Sequence[Plan], by_plan: dict[int, list[Held]]) -> dict[str, _Asked]:
    """By ``config_id``: what a plan says, else what a record does, else the ``config_id`` itself."""
    variants = [variant for plan in plans for variant in plan.variants]
    found = {one.config_id: _Asked(one.settings, one.dataset_id) for one in variants if one.settings}
    for held in (held for cells in by_plan.values() for held in cells):
        record, config_id = held.record, held.variant.config_id
        if config_id in found or record is None:
            continue
        if "method" in record.identity and is_whole(record.identity, record.id):
            settings = of_settings(record.identity)
            found[config_id] = _Asked(short_id(settings), short_id(settings.get("dataset")))
    return {one.config_id: _Asked(one.config_id, "") for one in variants} | found


@dataclass
class _Names:
    """What clips are called, told apart by their content; the newest plan is seen first."""

    plan_of: dict[str, Plan] = field(default_factory=dict)
    names_of: dict[str, list[str]] = field(default_factory=dict)
    content_of: dict[str, str] = field(default_factory=dict)
    contents: dict[str, list[str]] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)

    def see(self, held: Held) -> None:
        content, clip = held.content, held.cell.clip
        if not content:
            return
        self.content_of.setdefault(held.cell.id, content)
        names = self.names_of.setdefault(content, [])
        if self.plan_of.setdefault(content, held.plan) is held.plan and clip not in names:
            names.append(clip)
        clip = clip if clip in names else names[0]
        contents = self.contents.setdefault(clip, [])
        if content not in contents:
            contents.append(content)

    def of(self, held: Held) -> str:
        """The name of a cell's clip: the newest for its content, with the content where two share a name."""
        clip = held.cell.clip
        content = held.content or self.content_of.get(held.cell.id) or self.contents.get(clip, [""])[0]
        names = self.names_of.get(content, [clip])
        if clip not in names:
            self.renamed[clip] = names[0]
            clip = names[0]
        return clip if len(self.contents.get(clip, [])) < 2 else f"{clip} [{content[:6]}]"

    def lines(self) -> Iterator[str]:
        for clip, contents in self.contents.items():
            if len(contents) > 1:
                marks = ", ".join(f"{clip} [{content[:6]}]" for content in contents)
                yield f"{len(contents)} clips are named {clip}, the newest first: {marks}."
        for old, new in self.renamed.items():
            yield f"{new} was named {old} in earlier runs."


__all__ = ["Held", "Holding", "Present", "newest_first", "present"]
