"""Where things lie in a results folder: the one file that knows file names.

``plans/NAME.json``; ``cells/<method>/<dataset>/<clip>-<id>/`` with the files named below; ``levels/``;
``tracks/``; ``flow/``; ``scorers/``; ``locks/``; ``runs/``; ``index.jsonl`` (``harness/records/index.py``).
A finished cell of another device stands beside its own as ``<clip>-<id>@<device>``, what this version must
not touch as ``<clip>-<id>.aside``.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json

from datasets.files import sweep, write_whole
from harness.records import migrate
from harness.records.identity import short_id
from harness.records.migrate import Unreadable
from harness.records.record import Plan, Record

RECORD = "record.json"
INDEX = "index.jsonl"
VIDEO = "video.mp4"
REFERENCE = "reference.mp4"
FRAMES = "frames.mkv"
TRACKS = "tracks.npz"
SHEET = "sheet.png"
TRACE = "trace.json"
PROGRAM = "program"
ATTEMPTS = "attempts"
"""In a cell's folder while it runs: how often it was begun."""

PLANS, CELLS, LEVELS, LOCKS, RUNS = "plans", "cells", "levels", "locks", "runs"
REFERENCE_TRACKS, FLOW, FEATURES, SCORERS = "tracks", "flow", "features", "scorers"

Note = Callable[[str], None]


def safe(name: str, limit: int = 100) -> str:
    """A name as one path component: word characters, dots and dashes, ``limit`` bytes at most."""
    kept = re.sub(r"[^\w.-]+", "_", name).lstrip(".-") or "_"
    return kept.encode()[:limit].decode(errors="ignore")


def write_json(path: Path, data: Any) -> None:
    """Plain data as indented JSON, whole or not at all."""
    write_whole(path, _json(data))


def _json(data: Any) -> bytes:
    """As UTF-8. What no text may hold (bytes of a file name that are none) is written out: ``\\udcff``."""
    text = json.dumps(data, indent=1, ensure_ascii=False)
    return re.sub("[\ud800-\udfff]", lambda found: f"\\\\u{ord(found[0]):x}", text).encode() + b"\n"


def sweep_results(results: Path) -> None:
    """Remove what killed writers left in a results folder. A cell's is removed when its turn comes."""
    for name in (PLANS, LEVELS, REFERENCE_TRACKS):
        sweep(results / name, former=True)


# --- records -----------------------------------------------------------------------------------


def load_record(folder: Path) -> Record:
    """The record of a cell's folder, in today's schema whatever it was written in.

    Raises FileNotFoundError without one, Unreadable where this version cannot read it.
    """
    return record_of(read_json(folder / RECORD))


def record_of(data: Any) -> Record:
    """The record that the data of a file are. Raises Unreadable."""
    try:
        return Record.model_validate(migrate.record(data))
    except ValidationError as error:
        raise Unreadable(_first(error)) from error


def read_record(folder: Path) -> Record | None:
    """As ``load_record``; None without a record or where it cannot be read."""
    try:
        return load_record(folder)
    except (OSError, ValueError):
        return None


def save_record(folder: Path, record: Record) -> None:
    """Write a cell's record."""
    write_json(folder / RECORD, record.model_dump(mode="json", by_alias=True))


def _migrated(folder: Path) -> dict[str, Any]:
    return migrate.record(read_json(folder / RECORD))


def read_json(path: Path) -> Any:
    """Plain data of a file. Raises FileNotFoundError without one, Unreadable where it cannot be read."""
    try:
        # Neither a folder nor a pipe, which would be waited for.
        data = path.read_bytes() if path.is_file() or not path.exists() else b""
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Unreadable(error.strerror or str(error)) from error
    # In a third of json's time; half a surrogate, and what is nested too deep, is an error to it.
    with contextlib.suppress(ValueError):
        return from_json(data)
    try:
        loaded = json.loads(data)
        if _nested(loaded):
            raise RecursionError
    except RecursionError as error:
        raise Unreadable("it is nested too deep") from error
    except ValueError as error:
        raise Unreadable("it is no JSON" if data else "it is empty or no file") from error
    return loaded


def _nested(data: Any, limit: int = 200) -> bool:
    """Whether plain data is nested deeper than what can be written again."""
    level = [data]
    for _ in range(limit):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return bool(level)


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


# --- plans -------------------------------------------------------------------------------------


def plan_path(results: Path, name: str) -> Path:
    """Where a plan is kept."""
    return results / PLANS / f"{name}.json"


def plan_paths(results: Path, pattern: str = "*") -> list[Path]:
    """The plans of a results folder whose names fit the pattern, by name."""
    return sorted((results / PLANS).glob(f"{pattern}.json"))


def load_plan(path: Path) -> Plan:
    """A plan, in today's schema whatever it was written in.

    Raises FileNotFoundError without one, Unreadable where this version cannot read it.
    """
    results = path.parent.parent

    def read(cell: str) -> dict[str, Any] | None:
        try:
            return _migrated(results / cell)
        except (OSError, ValueError):
            return None

    try:
        return Plan.model_validate(migrate.plan(read_json(path), read))
    except ValidationError as error:
        raise Unreadable(_first(error)) from error
    except (KeyError, TypeError, AttributeError) as error:
        raise Unreadable(f"{type(error).__name__}: {error}") from error


def save_plan(results: Path, plan: Plan, note: Note | None = None) -> Path:
    """Write a plan; variants whose cells have not changed keep the levels measured before.

    A plan of that name that this version cannot read is set aside, with one line by ``note``. One that holds
    other cells stays beside it under a name of its own, so that a later command hides none of them.
    """
    path = plan_path(results, plan.name)
    try:
        before = load_plan(path)
    except FileNotFoundError:
        pass
    except Unreadable as error:
        aside = _free_name(path)
        # A file in the place of the folder is told by the writer.
        if path.parent.is_dir():
            path.rename(aside)
            if note is not None:
                note(f"{PLANS}/{path.name}: cannot be read ({error}); set aside as {aside.name}")
    else:
        known = {(old.config_id, tuple(cell.id for cell in old.cells)): old for old in before.variants}
        for variant in plan.variants:
            old = known.get((variant.config_id, tuple(cell.id for cell in variant.cells)))
            if old is not None and not variant.levels:
                variant.levels = old.levels
        ids, known_ids = ([c.id for v in one.variants for c in v.cells] for one in (plan, before))
        if known_ids == ids:
            plan.created, plan.ran = before.created, max(plan.ran, before.ran)
        elif set(known_ids) - set(ids):
            before.name = f"{plan.name}.{short_id(known_ids)[:6]}"
            _write_plan(results, before)
    return _write_plan(results, plan)


def _write_plan(results: Path, plan: Plan) -> Path:
    path = plan_path(results, plan.name)
    write_json(path, plan.model_dump(mode="json", by_alias=True))
    return path


def begin_plans(plans: Sequence[tuple[Path, Plan]], note: Note | None = None) -> None:
    """Write a command's plans into their results folders: their cells run or are scored now."""
    for results in {results for results, _ in plans}:
        sweep_results(results)
    now = datetime.now(UTC).isoformat(timespec="microseconds")
    for results, plan in plans:
        plan.ran = now
        save_plan(results, plan, note)


# --- folders of cells --------------------------------------------------------------------------


def cell_folder(method: str, dataset: str) -> str:
    """The folder of a method's cells on a dataset, relative to the results folder."""
    return f"{CELLS}/{safe(method)}/{safe(dataset)}"


def cell_path(folder: str, clip: str, cell_id: str, older: dict[str, str]) -> str:
    """A cell's folder, relative to the results folder; ``older``: what ``older_cells`` gives."""
    return older.get(cell_id, f"{folder}/{safe(clip)}-{cell_id}")


def older_cells(results: Path, folder: str) -> dict[str, str]:
    """Cells that an older version left under other ids: today's id to their folder.

    Their folders keep their names, so that older plans find them too.
    """
    found: dict[str, str] = {}
    for path in sorted((results / folder).glob(f"*/{RECORD}")):
        name = path.parent.name.partition("@")[0]
        try:
            data = _migrated(path.parent)
            former, cell_id = data.get("former_id"), str(data["id"])
            own = (results / folder / name).with_name(f"{name.rpartition('-')[0]}-{cell_id}").exists()
        except (OSError, ValueError, KeyError):
            continue
        # A record in a folder that is not its own is not looked for.
        if former is not None and name.endswith(f"-{former}") and not own:
            found.setdefault(cell_id, f"{folder}/{name}")
    return found


def foreign(folder: Path, cell_id: str) -> str | None:
    """Why the record in a cell's folder is not ours to delete; None where it is, or where there is none."""
    try:
        record = load_record(folder)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        # A file in the place of a folder above is told by the writer.
        return f"{RECORD} cannot be read ({error})" if folder.exists() else None
    return None if record.id == cell_id else f"{RECORD} is of another cell, {record.id}"


def set_aside(folder: Path) -> Path:
    """Move a cell's folder out of the way, whole, to a name beside it that is free."""
    aside = _free_name(folder)
    folder.rename(aside)
    return aside


def _free_name(path: Path) -> Path:
    names = (f"{path.name}.aside{number}" for number in ("", *(f"-{n}" for n in range(2, 10_000))))
    return next(place for name in names if not (place := path.with_name(name)).exists())


def on_device(folder: Path, device: str | None) -> Path:
    """Where a finished cell of another device is kept."""
    slug = re.sub(r"[^a-z0-9]+", "-", str(device).lower()).strip("-")
    return folder.with_name(f"{folder.name}@{slug}")


def tidy(folder: Path) -> None:
    """Remove what a kill left in a finished cell: temporary files, and the marker when it fell just after."""
    for leftover in [*folder.glob(".*"), folder / ATTEMPTS]:
        if leftover.is_file():
            leftover.unlink()


def clear(folder: Path, cell_id: str) -> str | None:
    """Remove a cell's folder. What is not ours to delete is set aside instead, and said in a line."""
    if not folder.exists():
        return None
    reason = foreign(folder, cell_id)
    if reason is None:
        shutil.rmtree(folder)
        return None
    return f"{folder.name}: {reason}; set aside as {set_aside(folder).name}"
