"""Notes under a table: what a reader must know before comparing its numbers."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from harness.records.identity import WEIGHTS
from harness.records.record import Record, Timing, left_out_lines
from reports.table.columns import (
    FORWARDS,
    FURTHER,
    MEMORY,
    SPEEDUP,
    TIME,
    Body,
    median_seconds,
    peak,
    same_machine,
)
from reports.table.footage import footage_notes, remark_notes
from reports.table.numbers import number_text
from reports.table.present import newest_first
from reports.table.protocol import protocol_notes
from reports.table.ranking import MARKS, Ranking
from reports.table.rows import SETTINGS, Group, Row, by_row, failures, few, plural, start_of
from reports.table.statistics import FEWEST

if TYPE_CHECKING:
    from harness.records.record import Plan, PlannedOut


UNEVEN = 2.0
"""How many times more or fewer places may move in a video than in its reference without a line about it."""


def notes_of(body: Body, ranking: Ranking, unknown: Mapping[str, str]) -> list[str]:
    """All notes of a table, one line each; ``unknown`` as in ``reports.table.brief.brief_notes``."""
    rows = body.group.rows
    return [
        *unknown_notes(unknown),
        *protocol_notes(body.group),
        *_now_notes(body.group),
        *_unlike(rows),
        *_version_notes(body),
        *footage_notes(rows),
        *_masks_notes(rows),
        *_moving_notes(rows),
        *_level_notes(body),
        *_speedup_notes(body),
        *_ranking_notes(body, ranking),
        *_cost_notes(rows, {column.key for column in body.columns}),
        *_failure_notes(rows),
        *_count_notes(body),
        *_null_notes(body),
        *_hidden_notes(body),
        *_left_out_notes(body.group.plans),
        *remark_notes(body.group.plans),
    ]


def unknown_notes(unknown: Mapping[str, str]) -> Iterator[str]:
    """Columns of the experiment's ``metrics.columns`` that no record has."""
    if unknown:
        names = "; ".join(f"{key} ({near})" for key, near in unknown.items())
        yield f"No record has these of metrics.columns: {names}."


def _now_notes(group: Group) -> Iterator[str]:
    """What the table holds of several runs: which clips share a name, and what newer cells replace."""
    yield from group.names
    for row in group.rows:
        if row.replaced:
            cells = plural(len(row.replaced), "cell")
            yield f"{row.label}: replaced by newer runs: {cells} ({few(sorted(set(row.replaced)))})."


def differing(rows: Sequence[Row]) -> dict[str, str]:
    """What rows do not share, so that no difference is read as one of methods: name -> what each row has."""
    found = _differing_cells(rows) if len(rows) > 1 else {}
    said: set[tuple[tuple[str, ...], ...]] = set()
    for name, read in SETTINGS.items():
        values = [row.setting(read) for row in rows]
        if len({one for value in values for one in value}) < 2:
            continue
        # A video as it came is as it was compared, as a rule.
        if tuple(values) not in said:
            said.add(tuple(values))
            found[name] = by_row(rows, [", ".join(value) or "-" for value in values])
    starts = [row.setting(start_of) for row in rows]
    if len(set(starts) - {()}) > 1 or any(len(start) > 1 for start in starts):
        found["start"] = by_row(rows, [", ".join(start) or "-" for start in starts])
    return found


def _unlike(rows: list[Row]) -> Iterator[str]:
    found = differing(rows)
    for name, text in found.items():
        yield f"Not the same {name}: {text}."
    if "start" not in found and (known := [start for row in rows for start in row.setting(start_of)]):
        yield f"Start: {known[0]}."


def _differing_cells(rows: Sequence[Row]) -> dict[str, str]:
    """Clips, prompts and seeds that rows do not share."""
    found = {}
    clips = [frozenset(cell.clip for cell in row.cells.values()) for row in rows]
    shared = frozenset.intersection(*clips)
    if len(set(clips)) > 1:
        sizes = "; ".join(f"{row.label} {len(own)}" for row, own in zip(rows, clips, strict=True))
        found["clips"] = f"{sizes} ({len(shared)} in common). Compare the paired differences instead"
    prompts = [
        frozenset((cell.clip, cell.prompt) for cell in row.cells.values() if cell.clip in shared)
        for row in rows
    ]
    if len(set(prompts)) > 1:
        found["prompts"] = "; ".join(
            f"{row.label} {', '.join(sorted({cell.prompt_kind for cell in row.cells.values()}))}"
            f" ({len(own)} on the shared clips)"
            for row, own in zip(rows, prompts, strict=True)
        )
    seeds = [tuple(sorted({cell.seed for cell in row.cells.values()})) for row in rows]
    if len(set(seeds)) > 1:
        found["seeds"] = by_row(rows, [", ".join(map(str, own)) for own in seeds])
    return found


def _version_notes(body: Body) -> Iterator[str]:
    """Metrics whose values are of one version in each row, but not of the same in all."""
    for column in body.paired:
        versions: dict[str, list[str]] = {}
        for row in body.group.rows:
            values = [record.metrics[column.key] for record in row.finished if column.key in record.metrics]
            found = {value.version.partition(WEIGHTS)[0] for value in values if value.value is not None}
            for version in found:
                versions.setdefault(version, []).append(row.label)
        if len(versions) > 1:
            words = {version: version.split() for version in versions}
            common = set.intersection(*(set(of_version) for of_version in words.values()))
            own = [
                f"{', '.join(labels)} {' '.join(word for word in words[version] if word not in common)}"
                for version, labels in versions.items()
            ]
            yield f"Not the same version of {column.label} (action=score gives all one): {'; '.join(own)}."


def _masks_notes(rows: Sequence[Row]) -> Iterator[str]:
    """Where motion was read: within masks or over the whole frame, and at how many places."""
    where = [", ".join(row.setting(SETTINGS["masks"])) for row in rows]
    counts = [_places(row) for row in rows]
    known = [f"{region}{count}" for region, count in zip(where, counts, strict=True) if region]
    if known:
        texts = [f"{region or '-'}{count}" for region, count in zip(where, counts, strict=True)]
        yield f"Motion is measured in: {known[0] if len(set(known)) == 1 else by_row(rows, texts)}."


def _places(row: Row) -> str:
    """How many tracks, or cells of a grid, a metric that reads masks says it used: the median over videos."""
    for unit in ("cells", "tracks"):
        found = [
            float(value.details[unit])
            for record in row.finished
            for value in record.metrics.values()
            if value.masks is not None and unit in value.details
        ]
        if found:
            return f" ({statistics.median(found):.0f} {unit})"
    return ""


def _moving_notes(rows: Sequence[Row]) -> Iterator[str]:
    """Rows that move in far more, or far fewer, places than their references do: medians over videos."""
    texts = []
    for row in rows:
        details = [value.details for record in row.finished for value in record.metrics.values()]
        shares = [
            statistics.median(float(found[side]) for found in details if side in found)
            for side in ("moving_generated", "moving_reference")
            if any(side in found for found in details)
        ]
        if len(shares) == 2 and not 1 / UNEVEN <= (shares[0] + 1e-9) / (shares[1] + 1e-9) <= UNEVEN:
            texts.append(f"{row.label} {shares[0]:.1%} of the frame (references {shares[1]:.1%})")
    if texts:
        yield f"Much more or less of the frame moves than in the references: {'; '.join(texts)}."


def _pooled_level(levels: Sequence[dict[str, float]], name: str) -> float | None:
    """A level averaged over plans, weighted by the pairs it was taken from."""
    known = [
        (one[name], one.get("pairs", 1.0) or 1.0) for one in levels if math.isfinite(one.get(name, math.nan))
    ]
    return (
        sum(value * weight for value, weight in known) / sum(weight for _, weight in known) if known else None
    )


def _level_notes(body: Body) -> Iterator[str]:
    """What chance and true clips reach, and where the values stand between the two."""
    rows = body.group.rows
    for column in body.paired:
        of_rows: dict[str, dict[str, str]] = {}
        for row in rows:
            levels = row.levels.get(column.key, [])
            chance, true = _pooled_level(levels, "chance"), _pooled_level(levels, "true")
            value = body.numbers[row.label][column.key].value
            if row.untrained or (chance is None and true is None):
                continue
            found = {"chance": chance, "true clips": true}
            if chance is not None and true is not None and true != chance and math.isfinite(value):
                found["(value - chance) / (true - chance)"] = (value - chance) / (true - chance)
            of_rows[row.label] = {
                name: number_text(level, 3) for name, level in found.items() if level is not None
            }
        parts = []
        for name in dict.fromkeys(name for texts in of_rows.values() for name in texts):
            known = {label: texts[name] for label, texts in of_rows.items() if name in texts}
            alike = len(set(known.values())) == 1 and len(known) == len(rows) > 1
            text = next(iter(known.values())) if alike else ", ".join(map(" ".join, known.items()))
            parts.append(f"{name}: {text}")
        if parts:
            yield f"{column.label}: {'; '.join(parts)}."


def _speedup_notes(body: Body) -> Iterator[str]:
    base = body.group.named_base
    if SPEEDUP not in body.columns or base is None:
        return
    text = f"Speed-up: over {base.label}, geometric mean of the clips' ratios"
    apart = [row.label for row in body.group.rows if row.finished and not same_machine(row, base)]
    yield f"{text}; none across devices, threads or sizes ({', '.join(apart)})." if apart else f"{text}."


def _ranking_notes(body: Body, ranking: Ranking) -> Iterator[str]:
    if ranking.withheld:
        labels = ", ".join(column.label for column in ranking.withheld)
        yield f"Not ranked, because the rows' settings differ: {labels.rstrip('.')}."
    if ranking.few:
        labels = ", ".join(column.label for column in ranking.few)
        yield (
            f"Not ranked, because rows share fewer than {FEWEST} clips "
            f"(with {FEWEST - 1}, the smallest possible p is {number_text(2.0 ** (2 - FEWEST), 4)}): "
            f"{labels.rstrip('.')}."
        )
    yield from crossed_notes(ranking)
    if any(number.points for of_row in body.numbers.values() for number in of_row.values()):
        yield f"In parentheses: each clip's value, by clip name; fewer than {FEWEST} clips get no interval."
    counts = {column.key for column in body.columns if column.exact}
    given = [(key, mark) for of_row in ranking.marks.values() for key, mark in of_row.items() if mark]
    if any(key not in counts or mark == "tied" for key, mark in given):
        yield (
            f"{MARKS['best']} is best: it differs significantly from every other row (p <= .05: paired sign "
            "flips over clips, adjusted for all pairs of rows in a column). "
            f"{MARKS['tied']} is tied with the best: no significant difference."
        )
    if ranking.differences:
        yield (
            "Differences are paired by clip; their p is by sign flips, adjusted for all pairs of rows in a"
            " column."
        )


def crossed_notes(ranking: Ranking) -> Iterator[str]:
    """Columns whose leading row leads only because of clips that another lacks, or has besides."""
    if ranking.crossed:
        labels = ", ".join(column.label for column in ranking.crossed)
        yield f"Not ranked, because who leads is worse on the clips that rows share: {labels.rstrip('.')}."


def _cost_notes(rows: list[Row], shown: set[str]) -> Iterator[str]:
    if any(row.untrained for row in rows):
        names = ", ".join(row.label for row in rows if row.untrained)
        yield f"weights=random ({names}): quality means nothing and is not shown."
    timed = [record for row in rows for record in row.finished if record.timing.total is not None]
    if any(record.timing.once for record in timed) and TIME.key in shown:
        yield "Time: to the first video of a clip. Further video: to one more of the same clip."
    if any(record.timing.amortised for record in timed) and FORWARDS.key in shown:
        yield "Forward eq. leaves out what is done once a clip (measure.amortise=true)."
    if shown & {TIME.key, FURTHER.key, SPEEDUP.key}:
        yield from _time_notes(rows, timed)
    devices = sorted({device for row in rows for device in row.setting(SETTINGS["device"])})
    if devices:
        yield f"Device: {'; '.join(devices)}."
    if MEMORY.key in shown:
        yield from _memory_notes(rows)
    pooled = sorted({len({cell.seed for cell in row.cells.values()}) for row in rows})
    if pooled and pooled[-1] > 1:
        yield "Prompts and seeds are averaged within a clip; intervals are over clips."


def _memory_notes(rows: list[Row]) -> Iterator[str]:
    meaning = {"allocated": "allocated on the device", "process": "of the process, weights included"}
    kinds = [peak(row.finished)[1] for row in rows]
    known = set(kinds) - {""}
    if len(known) > 1:
        whose = by_row(rows, [meaning.get(kind, "-") for kind in kinds])
        yield f"Memory is not the same peak in all rows: {whose}."
    elif known:
        kind = known.pop()
        yield f"Memory: peak {meaning[kind]}{'; not ranked' if kind == 'process' else ''}."


def _time_notes(rows: list[Row], timed: list[Record]) -> Iterator[str]:
    trained = {row.label: median_seconds(row, _training) for row in rows}
    trained = {label: seconds for label, seconds in trained.items() if math.isfinite(seconds)}
    if trained:
        whose = ", ".join(f"{label} {seconds:.1f} s" for label, seconds in trained.items())
        yield f"Training, once a clip, part of the time to its first video: {whose}."
    if any(record.timing.repeats == 1 for record in timed):
        yield "Times from one run (measure.repeats=1) are indicative."
    # "launcher": Hydra's, by which an older version ran jobs at the same time.
    if any(record.environment.get("workers") or record.environment.get("launcher") for record in timed):
        yield "Times were taken while other workers shared the processor: do not compare them."


def _training(timing: Timing) -> float | None:
    """Seconds of training, in the cell or shared; None where nothing was trained."""
    if timing.total is None or not {"train"} & (timing.stages.keys() | timing.amortised.keys()):
        return None
    return timing.stages.get("train", 0.0) + timing.amortised.get("train", 0.0)


def _failure_notes(rows: list[Row]) -> Iterator[str]:
    for row in rows:
        absent = len(row.cells) - len(row.records) - len(row.unreadable)
        parts = [failures(row.failed)] if row.failed else []
        if row.unreadable:
            parts.append(f"{len(row.unreadable)} with an unreadable record ({row.unreadable[0]})")
        if absent:
            parts.append(f"{absent} not run yet")
        if parts:
            clips = sorted(
                {
                    cell.clip
                    for key, cell in row.cells.items()
                    if key not in row.records or row.records[key].status != "ok"
                }
            )
            cells = f"of {len(row.cells)} cells {', '.join(parts)} ({few(clips)})"
            yield f"{row.label}: {cells}; not in its numbers."


def _count_notes(body: Body) -> Iterator[str]:
    """Columns over fewer clips than their row's n; those of equal counts in one line."""
    rows = [row for row in body.group.rows if row.finished and not row.untrained]
    columns: dict[str, list[str]] = {}
    for column in body.paired:
        counts = [
            (
                len({pair[0] for pair in body.cells[column.key][row.label]}),
                len({record.clip for record in row.finished}),
            )
            for row in rows
        ]
        if any(own for own, _ in counts) and any(own < every for own, every in counts):
            said = [f"{own} of {every} clips" for own, every in counts]
            text = said[0] if len(set(said)) == 1 else by_row(rows, said)
            columns.setdefault(text, []).append(column.label)
    for text, labels in columns.items():
        yield f"{', '.join(labels)}: over {text}."


def _null_notes(body: Body) -> Iterator[str]:
    """What is left out of all rows, why metrics are null (a line a reason), and what does not apply."""
    for column in body.paired:
        if dropped := column.dropped(body.group.rows):
            yield (
                f"{column.label}: {len(dropped)} (clip, prompt, seed) null in some row"
                " are left out of all of them."
            )
    for reason, of_columns in null_reasons(body).items():
        labels: dict[str, list[str]] = {}
        for label, counts in of_columns.items():
            where = ", ".join(f"{row} {count}" for row, count in counts.items())
            labels.setdefault(f"in {plural(counts.total(), 'cell')} ({where})", []).append(label)
        parts = "; ".join(f"{', '.join(names)} null {where}" for where, names in labels.items())
        yield f"{parts}: {reason}."
    idle = []
    for column in body.paired:
        trained = [row for row in body.group.rows if not row.untrained]
        values = [record.metrics.get(column.key) for row in trained for record in row.finished]
        known = [value for value in values if value is not None]
        if known and not any(value.applies for value in known):
            idle.append(column.label)
    if idle:
        yield f"Does not apply to these clips: {', '.join(idle).rstrip('.')}."


def null_reasons(body: Body) -> dict[str, dict[str, Counter[str]]]:
    """Reason -> column's label -> how many finished cells of each row it made null."""
    reasons: dict[str, dict[str, Counter[str]]] = {}
    for column in body.paired:
        for row in body.group.rows:
            for record in [] if row.untrained else row.finished:
                metric = record.metrics.get(column.key)
                if metric is not None and metric.applies and column.number(record) is None:
                    reason = " ".join((metric.reason or "not a finite number").split()).rstrip(".")
                    counts = reasons.setdefault(reason, {}).setdefault(column.label, Counter())
                    counts[row.label] += 1
    return reasons


def _hidden_notes(body: Body) -> Iterator[str]:
    for column in body.hidden:
        yield f"{column.label} is not shown: there is no motion score to read it against."


def _left_out_notes(plans: Iterable[Plan]) -> Iterator[str]:
    clips, variants = left_out(plans)
    for line in left_out_lines(clips):
        yield f"Left out: {line.rstrip('.')}."
    for label, reason in variants.items():
        yield f"Variant left out: {label}: {reason.rstrip('.')}."


def left_out(plans: Iterable[Plan]) -> tuple[list[PlannedOut], dict[str, str]]:
    """Clips that no later command ran; and variants without a row, by label, with the reason."""
    outs: dict[str, PlannedOut] = {}
    ran: dict[tuple[str, str, str], str] = {}
    for plan in newest_first(list(plans)):
        rows_of_plan = [(one.settings or one.config_id, one.label) for one in plan.variants]
        for out in plan.left_out:
            # What a later command ran is not left out any more.
            if not all(ran.get((*row, out.clip), "") > plan.ran for row in rows_of_plan):
                outs.setdefault(out.clip, out)
        for row, variant in zip(rows_of_plan, plan.variants, strict=True):
            for cell in variant.cells:
                ran.setdefault((*row, cell.clip), plan.ran)
    rows = {one.label for plan in plans for one in plan.variants}
    variants = {one.label: one.reason for plan in plans for one in plan.variants_out if one.label not in rows}
    return list(outs.values()), variants
