"""Rows of a table: the variants of a results folder's plans, and the records of their cells.

Variants of the same settings and label, planned by several commands, are one row as a rule. The rows of one
backbone and dataset are a ``Group``; each group becomes a table.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets.errors import InputError, nearest
from harness.records import store
from harness.records.identity import PARTS, of_settings, of_variant, same_version, short_id
from harness.records.record import Footage, MetricValue, PlannedCell, Record, Variant
from reports.table.present import Held, Holding, present
from reports.table.statistics import Pair
from reports.table.words import apart

if TYPE_CHECKING:
    from harness.records.record import Plan


SETTINGS: dict[str, Callable[[Record], Any]] = {
    "steps": lambda record: _chosen(record, "steps"),
    "frames": lambda record: _frames(record),
    "frame size": lambda record: (
        "the references' own"
        if own_size(record)
        else f"{record.backbone.config.get('width')}x{record.backbone.config.get('height')}"
    ),
    "guidance scale": lambda record: _chosen(record, "guidance_scale"),
    "shift": lambda record: record.backbone.config.get("shift"),
    "weights": lambda record: (record.identity.get("backbone") or record.backbone.config).get("weights"),
    "sampler": lambda record: record.sampler,
    "device": lambda record: record.environment.get("device"),
    "threads": lambda record: _threads(record),
    "masks": lambda record: record.masks if _reads_masks(record) else None,
    "frame rate": lambda record: _of_video(record, lambda one: one.fps and round(one.fps, 2)),
    "video length": lambda record: _of_video(record, lambda one: one.frames),
    "video size": lambda record: _of_video(record, lambda one: f"{one.width}x{one.height}"),
    "duration": lambda record: _of_video(record, lambda one: one.seconds and f"{one.seconds:.2f} s"),
}
"""What rows must share before their numbers are compared; the last four are of the videos as they came."""

MADE_WITH = (*PARTS, "frames")
"""What a cell's video is made with: other keys of a command change none."""

PLAIN = {"null": None, "true": True, "false": False}
"""Values as a command line writes them."""

OUTDATED = "scored by another version of the metric than newer values: action=score scores it anew"


def _frames(record: Record) -> Any:
    asked = record.dataset.config.get("frames")
    return record.compared.frames if record.compared else None if asked == "auto" else asked


def _threads(record: Record) -> Any:
    """Of the processor that made the video; None on a GPU, and for what was made elsewhere."""
    known = record.environment
    return known.get("threads") if known.get("device") and "cuda" not in known else None


def _reads_masks(record: Record) -> bool:
    return any(value.masks is not None for value in record.metrics.values())


def _of_video(record: Record, read: Callable[[Footage], Any]) -> Any:
    return None if record.generated is None else read(record.generated)


def _chosen(record: Record, key: str) -> Any:
    """A key that methods interpolate from the backbone, and may set otherwise."""
    return record.method.config.get(key, record.backbone.config.get(key))


def start_of(record: Record) -> str | None:
    """How sampling started: from pure noise or, a confound, from the noised reference (SDEdit).

    None for methods without a ``start`` (finished videos).
    """
    start = record.method.config.get("start", {})
    if not isinstance(start, dict) or "strength" not in start:
        return None
    return "pure noise" if start["strength"] is None else f"SDEdit, strength {_short(start['strength'])}"


def untrained(record: Record) -> bool:
    """Whether its weights are random, so that no metric of it means anything."""
    return record.backbone.config.get("weights") == "random"


def own_size(record: Record) -> bool:
    """Whether videos were compared at their reference's own size, not the backbone's."""
    config = record.dataset.config
    return "height" in config and config["height"] is None


def ending(record: Record) -> str:
    """How a cell ended, as tables say it: ``ok``, ``OOM``, ``NaN``, ``error``, or its status."""
    if record.status == "failed":
        return "NaN" if record.error is not None and record.error.kind == "FloatingPointError" else "error"
    return "OOM" if record.status == "oom" else record.status


def failures(failed: Counter[str]) -> str:
    """``OOM 2, error 1``."""
    return ", ".join(f"{kind} {count}" for kind, count in sorted(failed.items()))


@dataclass
class Row:
    """A variant, its cells pooled over the plans that hold it (``reports.table.present``), and their records.

    ``plans`` are their names. ``unreadable`` are the files of records that cannot be read. ``replaced`` are
    the clips of cells in whose place a newer one stands.
    """

    label: str
    variant: Variant
    parts: list[tuple[Plan, Variant]] = field(default_factory=list)
    cells: dict[str, PlannedCell] = field(default_factory=dict)
    records: dict[str, Record] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    _settings: dict[Callable[[Record], Any], tuple[str, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _numbers: dict[Callable[[Record], float | None], dict[Pair, float]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def levels(self) -> dict[str, list[dict[str, float]]]:
        """The metrics' levels in the variants that hold one of its cells."""
        found: dict[str, list[dict[str, float]]] = {}
        for _, variant in self.parts:
            for metric, levels in variant.levels.items():
                found.setdefault(metric, []).append(levels)
        return found

    @cached_property
    def finished(self) -> list[Record]:
        return [record for record in self.records.values() if record.status == "ok"]

    @property
    def failed(self) -> Counter[str]:
        """How many of its cells ended without a video, by what ended them."""
        return Counter(ending(record) for record in self.records.values() if record.status != "ok")

    @cached_property
    def untrained(self) -> bool:
        return any(untrained(record) for record in self.records.values())

    @property
    def uses_backbone(self) -> bool:
        """False where no record is of a video that a backbone made."""
        return not self.records or any(
            record.identity.get("backbone", {}).get("weights", "") is not None
            for record in self.records.values()
        )

    def numbers(self, read: Callable[[Record], float | None]) -> dict[Pair, float]:
        """The numbers of the finished cells that have one, by (clip, prompt, seed)."""
        if read not in self._numbers:
            read_of = ((record, read(record)) for record in self.finished)
            self._numbers[read] = {
                (record.clip, record.prompt, record.seed): value
                for record, value in read_of
                if value is not None
            }
        return self._numbers[read]

    def setting(self, read: Callable[[Record], Any]) -> tuple[str, ...]:
        """The distinct values of a setting over the records that know it."""
        if read not in self._settings:
            known = (read(record) for record in self.records.values())
            self._settings[read] = tuple(sorted({_short(value) for value in known if value is not None}))
        return self._settings[read]

    @cached_property
    def identities(self) -> list[dict[str, Any]]:
        """What its records' cells have in common (``harness.records.identity.of_variant``), each once."""
        found: list[dict[str, Any]] = []
        for record in self.records.values():
            if (common := of_variant(record.identity)) not in found:
                found.append(common)
        return found


@dataclass(frozen=True)
class Group:
    """The rows of one backbone and dataset, labels all different, and the plans that hold them.

    ``names``: a line for each clip whose name does not tell which it is.
    """

    backbone: str
    dataset: str
    rows: list[Row]
    plans: list[Plan]
    names: Sequence[str] = ()

    @property
    def named_base(self) -> Row | None:
        """The row that a plan names as its baseline: by label, else by method."""
        named = [plan.baseline for plan in self.plans if plan.baseline]
        for names in (
            [row.label for row in self.rows],
            [row.variant.label for row in self.rows],
            [row.variant.method for row in self.rows],
        ):
            for row, name in zip(self.rows, names, strict=True):
                if name in named:
                    return row
        return None

    @property
    def base(self) -> Row | None:
        """The row others are compared with: the plans' baseline, else the plain backbone."""
        return self.named_base or next((row for row in self.rows if row.variant.method == "none"), None)


def find_plans(results: Path, names: Sequence[str] = (), experiments: Sequence[str] = ()) -> list[Plan]:
    """The plans of a results folder by name, by experiment, or all of them.

    InputError when the folder, its plans or a name are missing, or a plan cannot be read.
    """
    if not results.is_dir():
        raise InputError(f"{results}: no such results folder; name one that `python -m harness` has written")
    found = []
    for path in store.plan_paths(results):
        try:
            found.append(store.load_plan(path))
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path}: not a readable plan ({_first_line(error)}); remove it or run its command again"
            ) from error
    if not found:
        raise InputError(f"{results}: no plans in it; run `python -m harness results={results}` first")
    if not names and not experiments:
        return found
    known = [plan.name for plan in found]
    for name in names:
        if name not in known:
            raise InputError(f"--plan {name}: no such plan in {results}; {nearest(name, known)}")
    ran = {plan.name: experiments_of(plan) for plan in found}
    for name in experiments:
        if not any(name in of_plan for of_plan in ran.values()):
            every = set().union(*ran.values())
            raise InputError(f"--experiment {name}: no plan in {results} ran it; {nearest(name, every)}")
    return [plan for plan in found if plan.name in names or ran[plan.name] & set(experiments)]


def experiments_of(plan: Plan) -> set[str]:
    """The experiments that a plan's command names, and the plan's own name."""
    words = (word for argument in plan.command for word in argument.split())
    given = {name for word in words if word.startswith("experiment=") for name in word[11:].split(",")}
    return given | {plan.name}


def added_metrics(plan: Plan) -> list[str]:
    """The metrics that a plan's command adds by name: ``+metric=ftd``, ``+metric=[ftd,leak]``."""
    words = (word for argument in plan.command for word in argument.split())
    given = (
        word.partition("=")[2].strip("[]") for word in words if word.startswith(("+metric=", "++metric="))
    )
    return [name for names in given for name in names.split(",")]


def groups(results: Path, plans: Sequence[Plan]) -> list[Group]:
    """The rows of each backbone and dataset of the plans, in their order, with their records.

    Variants with the same label and settings hold the newest cell of each clip, prompt and seed
    (``present``). They become one row, or one for each version of code and weights and for each kind
    of masks (``Record.masks``) among those cells: such values are not pooled. A record that cannot be
    read is named in its row's ``unreadable``.
    """
    made = []
    for (backbone, dataset), found in present(results, plans).items():
        rows = [row for holding in found.holdings for row in _rows(holding)]
        _tell_apart(rows)
        chosen = {id(plan) for holding in found.holdings for plan, _ in holding.parts}
        of_group = [plan for plan in plans if id(plan) in chosen]
        made.append(Group(backbone, dataset, rows, of_group, found.names))
    return made


def _rows(holding: Holding) -> list[Row]:
    """The cells of a holding, in the plans' order, by what made them and where their motion was read."""
    order = {
        cell.id: place
        for place, cell in enumerate(cell for _, variant in holding.parts for cell in variant.cells)
    }
    of_row: dict[tuple[str, str | None], list[Held]] = {}
    regions: dict[str, str] = {}
    for held in sorted(holding.cells.values(), key=lambda held: order[held.cell.id]):
        config_id, region = held.variant.config_id, _region(held)
        if region is not None:
            regions.setdefault(config_id, region)
        of_row.setdefault((config_id, region), []).append(held)
    rows: dict[tuple[str, str | None], Row] = {}
    for (config_id, region), cells in of_row.items():
        # What is not known to be otherwise is taken to be as the others are.
        row = rows.setdefault((config_id, region or regions.get(config_id)), _row(holding, config_id))
        for held in cells:
            row.cells[held.cell.id] = held.cell
            if held.record is not None:
                row.records[held.cell.id] = held.record
            if held.unreadable is not None:
                row.unreadable.append(held.unreadable)
    if not rows:
        # Planned without a single cell.
        rows = {("", None): _row(holding, holding.parts[0][1].config_id)}
    for row in rows.values():
        row.parts = [part for part in row.parts if not row.cells or _holds(row, part[1])]
        row.records = _of_one_version(row.records)
    if len(rows) > 1:
        _name_parts(list(rows.values()))
    first = next(iter(rows.values()))
    first.replaced = [held.cell.clip for held in holding.replaced.values() if held.record is not None]
    return list(rows.values())


def _row(holding: Holding, config_id: str) -> Row:
    parts = [part for part in holding.parts if part[1].config_id == config_id]
    return Row(holding.label, parts[0][1], parts)


def _holds(row: Row, variant: Variant) -> bool:
    return any(cell.id in row.cells for cell in variant.cells)


def _region(held: Held) -> str | None:
    """What motion is read within: the record knows, before it the plan; None where nothing depends on it."""
    record = held.record
    if record is None or record.status != "ok":
        return held.cell.masks
    return record.masks if _reads_masks(record) else None


def _of_one_version(records: dict[str, Record]) -> dict[str, Record]:
    """The records without values of another version than the metric's most recent one has."""
    newest: dict[str, tuple[str, int, str]] = {}
    counts = Counter((key, value.version) for one in records.values() for key, value in one.metrics.items())
    if len(counts) == len({key for key, _ in counts}):
        return records
    for record in records.values():
        for key, value in record.metrics.items():
            found = record.scored or record.finished, counts[key, value.version], value.version
            newest[key] = max(newest.get(key, found), found)
    kept = {}
    for id_, record in records.items():
        metrics = {key: _if(value, newest[key][2]) for key, value in record.metrics.items()}
        changed = any(metrics[key] is not value for key, value in record.metrics.items())
        kept[id_] = record.model_copy(update={"metrics": metrics}) if changed else record
    return kept


def _if(value: MetricValue, version: str) -> MetricValue:
    """The value, null where it is of another version."""
    if value.value is None or same_version(value.version, version) or same_version(version, value.version):
        return value
    return value.model_copy(update={"value": None, "reason": OUTDATED})


def with_baseline(results: Path, plans: Sequence[Plan], baseline: str) -> list[Plan]:
    """The plans with another baseline: a row's label, or the method of the first row that has it.

    InputError when no row of theirs has that label or method.
    """
    names = {name: None for plan in plans for one in plan.variants for name in (one.label, one.method)}
    names |= {row.label: None for group in groups(results, plans) for row in group.rows}
    if baseline not in names:
        raise InputError(f"--baseline {baseline}: no such row; {nearest(baseline, names)}")
    return [plan.model_copy(update={"baseline": baseline}) for plan in plans]


def _tell_apart(rows: list[Row]) -> None:
    """Give rows of one label and other settings different labels, by the settings that differ."""
    twins: dict[str, list[Row]] = {}
    for row in rows:
        twins.setdefault(row.label, []).append(row)
    for label, of_label in twins.items():
        if len(of_label) > 1:
            for row, words in zip(of_label, apart(_settings(of_label)), strict=True):
                row.label = f"{label}, {words or row.variant.config_id[:8]}"
    counts = Counter(row.label for row in rows)
    for row in rows:
        if counts[row.label] > 1:
            row.label = f"{row.label} [{row.variant.config_id[:8]}]"


def _settings(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """What rows' cells were made with: as their records know it, else as their commands asked for it."""
    known = [next((record.identity for record in row.records.values()), {}) for row in rows]
    if all("method" in identity for identity in known):
        return [
            {name: part for name, part in of_settings(identity).items() if name in MADE_WITH}
            for identity in known
        ]
    asked = [dict(one.split("=", 1) for one in row.variant.overrides if "=" in one) for row in rows]
    return [
        {key: PLAIN.get(value, value) for key, value in one.items() if key.split(".")[0] in MADE_WITH}
        for one in asked
    ]


def _name_parts(rows: Sequence[Row]) -> None:
    """Give rows of the same settings different labels: by code, weights, program and masks."""
    known = [_made_by(row) for row in rows]
    for row, own in zip(rows, known, strict=True):
        words = [
            value if name == "masks" else f"{name} {value}"
            for name, value in own.items()
            if value and len({other.get(name) for other in known}) > 1
        ]
        row.label = ", ".join([row.label, *(words or [row.variant.config_id[:8]])])


def _made_by(row: Row) -> dict[str, str]:
    """Versions, weights and program of a row's records, shortened, and what its motion is read within."""
    identity = next((record.identity for record in row.records.values()), {})
    method, backbone = identity.get("method", {}), identity.get("backbone", {})
    found = {f"{part} version": identity.get(part, {}).get("version") for part in PARTS}
    found |= {"weights": backbone.get("weights"), "program": method.get("program")}
    made = {
        name: value if "version" in name else short_id(value)[:6]
        for name, value in found.items()
        if value is not None
    }
    return made | {"masks": ", ".join(row.setting(SETTINGS["masks"]))}


def few(names: Sequence[str]) -> str:
    """The first five, and how many more."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def by_row(rows: Sequence[Row], texts: Sequence[str]) -> str:
    """Each row's text; that of all once, that of most once before the others' where there are many rows."""
    if len(set(texts)) == 1:
        return texts[0]
    common, count = Counter(texts).most_common(1)[0]
    if len(rows) <= 4 or count < 3:
        return "; ".join(f"{row.label} {text}" for row, text in zip(rows, texts, strict=True))
    others = [f"{row.label} {text}" for row, text in zip(rows, texts, strict=True) if text != common]
    return "; ".join([f"most {common}", *others])


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if type(value) is int:
        return str(value)
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)


def _first_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
