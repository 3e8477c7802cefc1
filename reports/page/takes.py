"""The takes of a page: each video of a table's rows, beside its reference and those of the other rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.records import store
from reports.page.anonymous import anonymous_record, without_paths
from reports.page.details import details
from reports.page.videos import Probe, probe_video, write_small
from reports.plots.files import slug
from reports.site import Media, json_text
from reports.table.columns import Column, Number
from reports.table.numbers import shown_unit, text_of
from reports.table.rows import Group, Row
from reports.table.tables import Table

if TYPE_CHECKING:
    from harness.records.record import PlannedCell, Record

Pair = tuple[str, str, int]

ENDED = {
    "failed": "Failed",
    "oom": "Out of memory",
    "timeout": "Ran out of time",
    "killed": "Killed",
    "cancelled": "Cancelled",
    "invalid": "Invalid",
    "planned": "Not run yet",
    "unreadable": "Record cannot be read",
    "absent": "Not in this row's plan",
    "lost": "Video cannot be read",
}
"""What the page says in the place of a video."""


@dataclass
class Maker:
    """Makes the cases of a page: plain data for its script, and the files that it names.

    A case is a clip, prompt and seed; a take is what one row made of it. ``small``: videos are encoded again.
    ``anonymous``: no record says whose it is.
    """

    results: Path
    media: Media
    small: bool = False
    anonymous: bool = False
    ids: Counter[str] = field(default_factory=Counter)

    def cases(self, group: Group, table: Table) -> list[dict[str, Any]]:
        """Every (clip, prompt, seed) that any of the group's rows plans, in the order of the plans."""
        keys: dict[Pair, None] = {}
        cells: list[dict[Pair, PlannedCell]] = []
        for row in group.rows:
            cells.append({(cell.clip, cell.prompt, cell.seed): cell for cell in row.cells.values()})
            keys |= dict.fromkeys(cells[-1])
        return [
            self._case(table, [(row, of_row.get(key)) for row, of_row in zip(group.rows, cells, strict=True)])
            for key in keys
        ]

    def _case(self, table: Table, of_rows: list[tuple[Row, PlannedCell | None]]) -> dict[str, Any]:
        cell = next(cell for _, cell in of_rows if cell is not None)
        case_id = self._id(slug(cell.clip))
        reference, known = self._reference(cell, [one for _, one in of_rows if one is not None])
        takes, about, seconds = [], {}, [known.seconds] if known else []
        for row, one in of_rows:
            take, probe, more = self._take(row, one, table.columns)
            takes.append(take)
            if probe is not None:
                known = known or probe
                seconds.append(probe.seconds)
            if more is not None:
                about[take["id"]] = more
        known = known or Probe(24.0, 1.0, 1, 1)
        file = self.media.write(f"case-{case_id}.js", _script(case_id, about)) if about else None
        return {
            "id": case_id,
            "group": table.title,
            "clip": self._plain(cell.clip),
            "prompt": self._plain(cell.prompt),
            "kind": cell.prompt_kind,
            "seed": cell.seed,
            "reference": reference,
            "fps": known.fps,
            "seconds": max(seconds, default=known.seconds),
            "size": [known.width, known.height],
            "crisp": _tiny(of_rows),
            "details": file,
            "takes": takes,
        }

    def _reference(self, first: PlannedCell, cells: Sequence[PlannedCell]) -> tuple[str | None, Probe | None]:
        """The reference's video, of the first cell that has one."""
        for cell in cells:
            path = self.results / cell.path / store.REFERENCE
            probe = probe_video(path)
            if probe is not None:
                return self._video(path, probe, "reference", first.clip, first.id), probe
        return None, None

    def _take(
        self, row: Row, cell: PlannedCell | None, columns: Sequence[Column]
    ) -> tuple[dict[str, Any], Probe | None, dict[str, Any] | None]:
        """A take, what its video's header says, and what its own view shows."""
        take: dict[str, Any] = {"row": row.label, "status": "absent"}
        if cell is None:
            return take, None, None
        folder = self.results / cell.path
        record = row.records.get(cell.id)
        if record is None:
            lost = str(folder / store.RECORD) in row.unreadable
            return take | {"status": "unreadable" if lost else "planned"}, None, None
        take |= {"id": self._id(cell.id), "status": record.status, "values": _values(record, columns)}
        take["record"] = self._record(folder / store.RECORD, row.label, cell)
        probe = None
        if record.status == "ok":
            path = folder / store.VIDEO
            probe = probe_video(path)
            if probe is None:
                take["status"] = "lost"
            else:
                take["video"] = self._video(path, probe, row.label, cell.clip, cell.id)
        elif record.error:
            take["message"] = self._plain(f"{record.error.kind}: {record.error.message}")
        return take, probe, self._plain(details(self.results, folder, record))

    def _video(self, path: Path, probe: Probe, *words: str) -> str:
        if not self.small:
            return self.media.add(path, *words)
        name, new = self.media.name(path, *words)
        if new:
            write_small(path, self.media.out / name, probe)
        return name

    def _record(self, path: Path, label: str, cell: PlannedCell) -> str:
        if not self.anonymous:
            return self.media.add(path, label, cell.clip, cell.id)
        name, _ = self.media.name(path, label, cell.clip, cell.id)
        return self.media.write(Path(name).name, anonymous_record(path))

    def _plain(self, data: Any) -> Any:
        return without_paths(data) if self.anonymous else data

    def _id(self, name: str) -> str:
        """A name of its own for an address: a cell may stand in two rows."""
        self.ids[name] += 1
        return name if self.ids[name] == 1 else f"{name}~{self.ids[name]}"


def _script(case_id: str, about: dict[str, Any]) -> bytes:
    """A file that a page from disk can load: not JSON, which no browser lets it read there."""
    return f"details({json_text(case_id)}, {json_text(about)});\n".encode(errors="backslashreplace")


def _values(record: Record, columns: Sequence[Column]) -> dict[str, list[Any]]:
    """The record's numbers under the table's columns: each as it is and as it is read."""
    found: dict[str, list[Any]] = {}
    for column in columns:
        number = column.number(record)
        if number is not None and column.of_video:
            unit = shown_unit(column)
            text = text_of(Number(number), column, interval=False)
            found[column.key] = [number, f"{text} {unit}" if unit else text]
    return found


def _tiny(of_rows: Sequence[tuple[Row, PlannedCell | None]]) -> bool:
    """Whether frames have so few pixels that they are drawn with hard edges."""
    record = next((record for row, _ in of_rows for record in row.records.values()), None)
    if record is None:
        return False
    read: Callable[[str], Any] = record.backbone.config.get
    sides = [read("width"), read("height")]
    if record.reference:
        sides = [record.reference.width, record.reference.height]
    return all(isinstance(side, int) and side <= 128 for side in sides)


__all__ = ["ENDED", "Maker"]
