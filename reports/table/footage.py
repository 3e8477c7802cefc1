"""Notes on how references were read, and how finished videos were brought beside them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from harness.records.record import CUT, Record, left_out_lines
from reports.table.rows import Row, few, own_size

if TYPE_CHECKING:
    from harness.records.record import Plan


def footage_notes(rows: Sequence[Row]) -> Iterator[str]:
    """At what size and length clips were compared, what of finished videos, and prompts that were cut."""
    yield from _size_notes(rows)
    yield from _length_notes(rows)
    yield from _rate_notes(rows)
    yield from _beside_notes(rows)
    yield from _prompt_notes(rows)


def remark_notes(plans: Iterable[Plan]) -> Iterator[str]:
    """What a reader should know of how clips were read."""
    remarks = {(one.clip, one.reason): one for plan in plans for one in plan.remarks}
    for line in left_out_lines(list(remarks.values())):
        yield f"{line.rstrip('.')}."


def _beside_notes(rows: Sequence[Row]) -> Iterator[str]:
    """Finished videos that are not as their references are: what of the two was compared."""
    for row in rows:
        clips: dict[str, dict[str, None]] = {}
        for record in row.finished:
            for text in _beside(record):
                clips.setdefault(text, {})[record.clip] = None
        for text, names in list(clips.items())[:5]:
            yield f"{row.label}: {text} ({few(list(names))})."
        if len(clips) > 5:
            yield f"{row.label}: {len(clips) - 5} more such differences stand in its records."


def _beside(record: Record) -> Iterator[str]:
    ours, theirs, compared = record.generated, record.reference, record.compared
    if ours is None or theirs is None or compared is None:
        return
    own, its = (f"{one.frames} frames{f' at {one.fps:.4g}/s' if one.fps else ''}" for one in (ours, theirs))
    if compared.by == "time":
        yield f"{own}, the clip {its}: {compared.frames} frames compared by time"
    elif ours.frames != theirs.frames:
        yield f"{own}, the clip {its}: the first {compared.frames} of both compared"
    elif own != its:
        yield f"{own}, the clip {its}: compared frame by frame"
    if (ours.width, ours.height) != (theirs.width, theirs.height):
        size = "its reference's size" if own_size(record) else f"{theirs.width}x{theirs.height}"
        yield f"resized and cropped from {ours.width}x{ours.height} to {size}"


def _size_notes(rows: Sequence[Row]) -> Iterator[str]:
    """At what size videos were compared that no backbone made: their references' own."""
    sizes = []
    for row in rows:
        found = {
            (record.reference.width, record.reference.height)
            for record in row.finished
            if record.reference and own_size(record)
        }
        sizes.append(found)
    own = sorted({size for found in sizes for size in found})
    if own:
        ends = " to ".join(f"{width}x{height}" for width, height in dict.fromkeys((own[0], own[-1])))
        others = [row.label for row, found in zip(rows, sizes, strict=True) if not found]
        rest = f"; {few(others)} at the backbone's" if others else ""
        yield f"Compared at the references' own size: {ends}{rest}."


def _length_notes(rows: Sequence[Row]) -> Iterator[str]:
    """How long the clips are, where each has its own number of frames."""
    lengths = {
        record.reference.frames
        for row in rows
        for record in row.finished
        if record.reference and record.identity.get("frames") == "auto"
    }
    if lengths:
        ends = " to ".join(map(str, dict.fromkeys((min(lengths), max(lengths)))))
        yield f"Clips of {ends} frames, each its longest 4k+1 (frames=auto)."


def _rate_notes(rows: Sequence[Row]) -> Iterator[str]:
    """Clips that are not all at one rate."""
    rates = sorted(
        {one.reference.fps for row in rows for one in row.finished if one.reference and one.reference.fps}
    )
    if len(rates) > 1:
        yield f"Clips at {rates[0]:.4g} to {rates[-1]:.4g} frames a second (dataset.fps brings them to one)."


def _prompt_notes(rows: Sequence[Row]) -> Iterator[str]:
    """Prompts that were cut, by what cut them."""
    cut: dict[str, dict[str, None]] = {}
    for record in (record for row in rows for record in row.finished):
        for note in record.notes:
            if note.startswith(CUT):
                cut.setdefault(note, {})[record.clip] = None
    for note, clips in cut.items():
        yield f"{note.removeprefix(CUT).strip().capitalize()} ({few(list(clips))})."


__all__ = ["footage_notes", "remark_notes"]
