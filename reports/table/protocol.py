"""Does a table follow a protocol? Its records are compared with what ``harness.protocol`` states."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.protocol.stated import Stated, prompts_digest, stated_tables
from harness.records.identity import WEIGHTS
from reports.table.rows import Group, Row, experiments_of, few

if TYPE_CHECKING:
    from harness.records.record import Record

NOTHING = "nothing"


def closest(row: Row) -> Stated | None:
    """The protocol's table that a row is to be compared with; None without a record, or on other datasets.

    That of the experiments by which its plans were made, else of the same dataset; of several the one from
    which it departs in the fewest points, then that whose clips it shares most.
    """
    kinds = {record.identity.get("dataset", {}).get("kind") for record in row.records.values()}
    known = [table for table in stated_tables().values() if table.dataset.kind in kinds]
    asked = [table for table in known if table.experiment in asked_for(row)]
    clips = {cell.clip for cell in row.cells.values()}
    return min(
        asked or known,
        key=lambda table: (len(departures(row, table)), len(clips ^ table.clips.keys())),
        default=None,
    )


def asked_for(row: Row) -> set[str]:
    """The protocol's experiments that made a row's plans."""
    named = {name for plan, _ in row.parts for name in experiments_of(plan)}
    return named & stated_tables().keys()


def departures(row: Row, table: Stated) -> list[str]:
    """Where a row departs from a protocol, a text for each point: what it holds, and in parentheses what not.

    It is empty where the row follows the protocol. Frames of DAVIS's files and weights of Wan are not
    compared.
    """
    parts = _Parts(row.identities)
    made = [
        *_clips(row, table),
        *_one_or_many("seeds", {cell.seed for cell in row.cells.values()}, table.seeds),
        *_cells(row),
        *_one_or_many("frames", parts.values("frames"), [table.frames]),
        *parts.unlike("dataset", table.dataset.model_dump(exclude={"weights"})),
        *_backbone(row, parts, table),
        *_sampling(parts, table),
        *_one_or_many("masks", {one.masks for one in row.finished if one.masks}, [table.masks]),
        *_metrics(row.finished, table),
    ]
    return list(dict.fromkeys(made))


def protocol_notes(group: Group) -> Iterator[str]:
    """Which protocol rows follow; and in what those depart that were made by its experiment."""
    lines: dict[str, list[str]] = {}
    for row in group.rows:
        table = closest(row)
        if table is None:
            continue
        found = departures(row, table)
        if not found:
            lines.setdefault(f"Protocol: {table.experiment}", []).append(row.label)
        elif asked_for(row):
            text = f"Departs from {table.experiment} in: {'; '.join(found)}"
            lines.setdefault(text, []).append(row.label)
    for line, labels in lines.items():
        yield f"{line}." if len(labels) == len(group.rows) else f"{line} ({', '.join(labels)})."


class _Parts:
    """What a row's cells are made of: the identities of its records."""

    def __init__(self, identities: Sequence[Mapping[str, Any]]) -> None:
        self.identities = identities

    def values(self, *keys: str) -> set[Any]:
        """The distinct values of a key; of what holds none, nothing."""
        found = set()
        for identity in self.identities:
            value: Any = identity
            for key in keys:
                value = value.get(key) if isinstance(value, Mapping) else None
            if value is not None:
                found.add(_plain(value))
        return found

    def unlike(self, part: str, stated: Mapping[str, Any], where: tuple[str, ...] = ()) -> Iterator[str]:
        """Keys of a part that are not as they are stated."""
        for key, value in stated.items():
            if isinstance(value, Mapping):
                yield from self.unlike(part, value, (*where, key))
                continue
            found = self.values(part, *where, key)
            # Frames are a point of their own.
            if key != "frames" and found != ({_plain(value)} if value is not None else set()):
                name = " ".join([part, *where, key]).replace(" config ", " ")
                yield f"{name} {_listed(found)} ({_text(value)})"


def _clips(row: Row, table: Stated) -> Iterator[str]:
    prompts: dict[str, set[tuple[str, str]]] = {}
    for cell in row.cells.values():
        prompts.setdefault(cell.clip, set()).add((cell.prompt_kind, cell.prompt))
    held = prompts.keys() & table.clips.keys()
    if len(held) < len(table.clips):
        yield f"clips {len(held)} of {len(table.clips)}"
    if others := sorted(prompts.keys() - table.clips.keys()):
        yield f"other clips {few(others)}"
    changed = sorted(clip for clip in held if prompts_digest(list(prompts[clip])) != table.clips[clip])
    if changed:
        kinds = sorted({kind for clip in changed for kind, _ in prompts[clip]})
        counts = {len(prompts[clip]) for clip in changed}
        if kinds == sorted(table.prompts) and counts == {table.prompts_a_clip}:
            yield f"other prompts for {few(changed)}"
        else:
            if counts != {table.prompts_a_clip}:
                yield f"prompts a clip {_listed(counts)} ({table.prompts_a_clip})"
            yield from _one_or_many("kinds of prompts", kinds, table.prompts)


def _cells(row: Row) -> Iterator[str]:
    absent = len(row.cells) - len(row.records)
    if absent:
        yield f"cells {absent} of {len(row.cells)} not run"
    takes = {(cell.clip, cell.prompt) for cell in row.cells.values()}
    seeds = {cell.seed for cell in row.cells.values()}
    if len(row.cells) < len(takes) * len(seeds):
        yield "not every prompt with every seed"


def _backbone(row: Row, parts: _Parts, table: Stated) -> Iterator[str]:
    if any("video" in record.identity for record in row.records.values()):
        yield f"backbone unknown, the videos were made elsewhere ({table.backbone.config['name']})"
        return
    stated = table.backbone.model_dump()
    if stated["weights"] is None:
        del stated["weights"]
    yield from parts.unlike("backbone", stated)


def _sampling(parts: _Parts, table: Stated) -> Iterator[str]:
    for key, value in table.sampling.items():
        found = parts.values("method", "config", key)
        # A program's own sampling is not known.
        if found and found != {value}:
            yield f"{key} {_listed(found)} ({_text(value)})"


def _metrics(records: Sequence[Record], table: Stated) -> Iterator[str]:
    trackers: set[str] = set()
    for name, stated in table.metrics.items():
        values = [record.metrics[name] for record in records if name in record.metrics]
        if records and len(values) < len(records):
            yield f"metrics {name} not measured"
        versions = [value.version.partition(WEIGHTS)[0].partition("; ") for value in values]
        trackers |= {tracker for _, _, tracker in versions if tracker}
        for own in sorted({own for own, _, _ in versions} - {stated}):
            yield f"metrics {name} {_words(own, stated)} ({_words(stated, own)})"
        applying = [value for value in values if value.applies]
        if applying and all(value.value is None for value in applying):
            yield f"metrics {name} without a value"
    for tracker in sorted(trackers - {table.tracker}):
        yield f"tracker {_words(tracker, table.tracker)} ({_words(table.tracker, tracker)})"


def _words(version: str, other: str) -> str:
    """The words of a version that another has not."""
    return " ".join(word for word in version.split() if word not in other.split()) or NOTHING


def _one_or_many(name: str, found: Iterable[Any], stated: Sequence[Any]) -> Iterator[str]:
    if set(found) != set(stated) and found:
        yield f"{name} {_listed(found)} ({_listed(stated)})"


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(sorted(map(_text, values))) or NOTHING


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return "null" if value is None else str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float) else repr(value)


__all__ = ["asked_for", "closest", "departures", "protocol_notes"]
