"""The few notes under a table: how to read it, and what may mislead. All there are: ``notes``."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence

from reports.table.columns import MEMORY, SPEEDUP, TIME, Body, peak
from reports.table.notes import crossed_notes, differing, left_out, null_reasons, unknown_notes
from reports.table.protocol import protocol_notes
from reports.table.ranking import MARKS, Ranking
from reports.table.rows import Row, failures, few, plural
from reports.table.statistics import FEWEST

MOST, LONGEST = 5, 140
"""Notes, and characters of one."""


def brief_notes(
    body: Body, ranking: Ranking, unknown: Mapping[str, str], shown: Collection[str]
) -> tuple[str, ...]:
    """At most five notes, the most important first, long ones cut.

    ``shown``: keys of the columns that a main table holds.
    ``unknown``: keys of columns that were asked for and are not there -> what is like them.
    """
    rows = body.group.rows
    lines = [
        *_reading(body, ranking, shown),
        *unknown_notes(unknown),
        *_random(rows),
        *crossed_notes(ranking),
        *_absent(rows),
        *_nulls(body, shown),
        *_differing(rows),
        *protocol_notes(body.group),
        *_unranked(body, ranking, shown),
        *_fewer(body, shown),
        *_timing(body, shown),
        *_changed(body),
    ]
    return tuple(textwrap.shorten(line, LONGEST, placeholder=" …") for line in lines[:MOST])


def _reading(body: Body, ranking: Ranking, shown: Collection[str]) -> Iterator[str]:
    """What the glyphs of the table stand for."""
    numbers = [of_row[key] for of_row in body.numbers.values() for key in shown]
    given = {of_row[key] for of_row in ranking.marks.values() for key in shown}
    parts = []
    if any(number.low == number.low for number in numbers):
        parts.append("± half a 95 % interval over clips")
    if "best" in given:
        parts.append(f"{MARKS['best']} best")
    if "tied" in given:
        parts.append(f"{MARKS['tied']} tied with the best (p > .05)")
    if any(number.points for number in numbers):
        parts.append(f"no interval below {FEWEST} clips")
    if parts:
        yield f"{'; '.join(parts)}."


def _random(rows: Sequence[Row]) -> Iterator[str]:
    if names := [row.label for row in rows if row.untrained]:
        yield f"Random weights, so quality is not shown: {few(names)}."


def _absent(rows: Sequence[Row]) -> Iterator[str]:
    """Cells without a video, by row."""
    parts = []
    for row in rows:
        absent = len(row.cells) - len(row.records) - len(row.unreadable)
        why = [failures(row.failed)] if row.failed else []
        why += [f"unreadable {len(row.unreadable)}"] if row.unreadable else []
        why += [f"not run {absent}"] if absent else []
        if why:
            parts.append(f"{row.label} {', '.join(why)} of {len(row.cells)}")
    if parts:
        yield f"Cells without a video: {'; '.join(parts)}."


def _nulls(body: Body, shown: Collection[str]) -> Iterator[str]:
    """Columns of which no row has a value, by the reason."""
    empty = {
        column.label
        for column in body.columns
        if column.key in shown
        and all(math.isnan(of_row[column.key].value) for of_row in body.numbers.values())
    }
    for reason, counts in null_reasons(body).items():
        if labels := [label for label in counts if label in empty]:
            yield f"No value of {few(labels)}: {reason}."


def _differing(rows: Sequence[Row]) -> Iterator[str]:
    if names := list(differing(rows)):
        yield f"Rows differ in {', '.join(names)}: compare with care."


def _unranked(body: Body, ranking: Ranking, shown: Collection[str]) -> Iterator[str]:
    if ranking.withheld:
        labels = ", ".join(column.label for column in ranking.withheld)
        yield f"Not ranked, because the rows' settings differ: {labels.rstrip('.')}."
    kinds = {peak(row.finished)[1] for row in body.group.rows}
    if MEMORY.key in shown and "process" in kinds and len(body.group.rows) > 1:
        yield "Memory is the peak of the process: not ranked."


def _fewer(body: Body, shown: Collection[str]) -> Iterator[str]:
    """Columns over fewer clips than there are."""
    most = max((len({one.clip for one in row.finished}) for row in body.group.rows), default=0)
    counts: dict[int, list[str]] = {}
    for column in (one for one in body.paired if one.key in shown):
        own = max((len({pair[0] for pair in cells}) for cells in body.cells[column.key].values()), default=0)
        if 0 < own < most:
            counts.setdefault(own, []).append(column.label)
    if counts:
        parts = "; ".join(f"{', '.join(labels)} over {own}" for own, labels in counts.items())
        yield f"Of {plural(most, 'clip')}: {parts}."


def _timing(body: Body, shown: Collection[str]) -> Iterator[str]:
    timed = [record for row in body.group.rows for record in row.finished if record.timing.total is not None]
    if not {TIME.key, SPEEDUP.key} & set(shown):
        return
    if any(record.environment.get("workers") or record.environment.get("launcher") for record in timed):
        yield "Other workers shared the processor: do not compare times."
    elif any(record.timing.repeats == 1 for record in timed):
        yield "Times are of one run each (measure.repeats=1): indicative."


def _changed(body: Body) -> Iterator[str]:
    """What newer runs replaced, and what was left out."""
    if replaced := sum(len(row.replaced) for row in body.group.rows):
        yield f"Newer runs replaced {plural(replaced, 'cell')}."
    clips, variants = left_out(body.group.plans)
    reasons = {one.clip: one.reason for one in clips} | variants
    if len(reasons) == 1:
        ((name, reason),) = reasons.items()
        yield f"Left out: {name}: {reason.rstrip('.')}."
    elif reasons:
        yield f"Left out: {few(list(reasons))}."


__all__ = ["brief_notes"]
