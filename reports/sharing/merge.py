"""Results of several machines or groups as one folder: ``python -m reports merge A B --out C``.

Each cell stands in it once. What is read is never changed, and nothing that is in C is lost.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from datasets.errors import InputError
from datasets.files import write_whole
from harness.command.terminal import tell
from harness.records import store
from reports.output import writing
from reports.site import link
from reports.table.rows import SETTINGS, few, find_plans, plural

if TYPE_CHECKING:
    from harness.records.record import Plan, Record

MARK = "merged.json"
"""In a folder of ours: where its cells came from."""
SMALL = (store.RECORD, store.TRACE)
"""What is brought of a cell without ``--videos``: what tables and figures are made of."""
SAID = (*SETTINGS, "code")


def merge_parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m reports merge", description="Joins results folders: each cell once, all plans."
    )
    made.add_argument("results", type=Path, nargs="+", metavar="RESULTS", help="folders to join")
    made.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder, or one made so")
    made.add_argument(
        "--videos", action="store_true", help="bring videos and frames too, as hard links where they can be"
    )
    return made


@dataclass(frozen=True)
class Found:
    """A cell of a results folder: its record, and its folder there."""

    results: Path
    path: str
    record: Record

    @property
    def device(self) -> str:
        return str(self.record.environment.get("device"))

    @property
    def hash(self) -> str:
        return self.record.frames_sha256 or ""


@dataclass
class Merged:
    """What is to stand in the folder: cells by id, those of other devices beside them, and plans.

    ``clashes``: a line for each cell that one device made into two videos.
    """

    cells: dict[str, Found] = field(default_factory=dict)
    beside: dict[tuple[str, str], Found] = field(default_factory=dict)
    plans: list[tuple[Path, Plan]] = field(default_factory=list)
    clashes: list[str] = field(default_factory=list)
    twice: int = 0

    def add(self, found: Found) -> None:
        """A finished cell comes before one that failed, then the newer, if the frames are the same."""
        cell_id = found.record.id
        before = self.cells.get(cell_id)
        if before is None:
            self.cells[cell_id] = found
            return
        self.twice += 1
        if before.record.status != "ok" or found.record.status != "ok":
            if _rank(found) > _rank(before):
                self.cells[cell_id] = found
        elif before.hash == found.hash:
            # Of equals the later: it may bring the videos that the folder lacks.
            self.cells[cell_id] = max((found, before), key=_rank)
        elif before.device != found.device:
            self.beside.setdefault((cell_id, found.device), found)
        else:
            self.clashes.append(
                f"{found.record.method.name} {found.record.clip} seed {found.record.seed} ({cell_id}): other "
                f"frames in {found.results} than in {before.results}, both of {found.device}; "
                "kept the first"
            )


def _rank(found: Found) -> tuple[bool, str]:
    return found.record.status == "ok", found.record.scored or found.record.finished


def merge(arguments: Sequence[str]) -> int:
    """Join the folders and say what differs. 1 where a device made two videos of one cell; InputError."""
    given = merge_parser().parse_args(arguments)
    out = given.out
    _check_out(out, given.results)
    merged = Merged()
    for results in ([out] if (out / MARK).exists() else []) + given.results:
        _collect(results, merged)
    with writing(out):
        _write(merged, out, given.videos, [str(results) for results in given.results])
    cells = plural(len(merged.cells), "cell")
    tell(
        f"{out}: {cells} of {plural(len(merged.plans), 'plan')}, {merged.twice} of them found more than once"
    )
    if merged.beside:
        clips = few(sorted({found.record.clip for found in merged.beside.values()}))
        tell(
            f"{plural(len(merged.beside), 'cell')} made on another device too, with other frames ({clips}); "
            "tables show the first folder's"
        )
    for line in [*_unlike(merged, given.results), *merged.clashes]:
        tell(line)
    return int(bool(merged.clashes))


def _check_out(out: Path, results: Sequence[Path]) -> None:
    """InputError unless ``out`` is free, empty or made by this command, and apart from what is read."""
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file; name a folder")
    for one in results:
        if out.resolve() == one.resolve() or one.resolve() in out.resolve().parents:
            raise InputError(f"--out {out}: lies in {one}, which is only read; name another folder")
    if out.exists() and any(out.iterdir()) and not (out / MARK).is_file():
        raise InputError(f"--out {out}: holds other files; name an empty or new folder")


def _collect(results: Path, merged: Merged) -> None:
    """The plans of a results folder and the records of their cells. InputError for one that is unreadable."""
    seen: set[str] = set()
    for plan in find_plans(results):
        for variant in plan.variants:
            for cell in variant.cells:
                check_inside(results, cell.path)
                try:
                    record = store.load_record(results / cell.path)
                except FileNotFoundError:
                    continue
                except (OSError, ValueError) as error:
                    raise InputError(
                        f"{results / cell.path / store.RECORD}: cannot be read ({error}); "
                        "remove it, and its cell counts as not run"
                    ) from error
                if cell.id not in (record.id, record.former_id):
                    raise InputError(
                        f"{results / cell.path / store.RECORD}: is of another cell, {record.id}; remove it"
                    )
                if record.id not in seen:
                    seen.add(record.id)
                    merged.add(Found(results, cell.path, record))
        merged.plans.append((results, plan))


def check_inside(results: Path, path: str) -> None:
    """InputError for a cell's folder that is not under the results' own: plans may be anybody's."""
    parts = PurePosixPath(path).parts
    if parts[:1] != (store.CELLS,) or ".." in parts or "\\" in path:
        raise InputError(f"{results}: a plan names {path!r}, which is no cell's folder; remove that plan")


def _write(merged: Merged, out: Path, videos: bool, sources: Sequence[str]) -> None:
    """The mark first, so that a folder that is cut short is known as ours and can be written again."""
    places = Counter(found.path for found in merged.cells.values())
    for path, count in places.items():
        if count > 1:
            raise InputError(
                f"{path}: names {count} cells in the folders' plans; remove the plan that is wrong"
            )
    store.write_json(out / MARK, {"merged from": list(sources)})
    for found in merged.cells.values():
        _bring(found, out / found.path, videos)
    for (cell_id, device), found in merged.beside.items():
        _bring(found, store.on_device(out / merged.cells[cell_id].path, device), videos)
    former = {found.record.former_id: found for found in merged.cells.values() if found.record.former_id}
    for _, plan in sorted(merged.plans, key=lambda one: (one[1].ran, one[1].created)):
        for variant in plan.variants:
            for cell in variant.cells:
                # An older plan names the same cell by another id.
                kept = merged.cells.get(cell.id) or former.get(cell.id)
                cell.path = kept.path if kept else cell.path
        store.save_plan(out, plan)


def _bring(found: Found, target: Path, videos: bool) -> None:
    source = found.results / found.path
    if source.resolve() == target.resolve():
        return
    target.mkdir(parents=True, exist_ok=True)
    # The record comes last: with it a cell counts as finished.
    for path in sorted(source.iterdir(), key=lambda path: path.name == store.RECORD):
        if not path.is_file() or path.is_symlink() or path.name.startswith("."):
            continue
        if path.name in SMALL:
            write_whole(target / path.name, path.read_bytes())
        elif videos:
            link(path, target / path.name)


def _unlike(merged: Merged, folders: Sequence[Path]) -> Iterator[str]:
    """A line for each setting, and the revision of the code, that is not the same in all folders."""
    of_folder: dict[Path, list[Record]] = {}
    for found in [*merged.cells.values(), *merged.beside.values()]:
        of_folder.setdefault(found.results, []).append(found.record)
    for name in SAID:
        read = SETTINGS.get(name, _code)
        values = {
            folder: sorted({str(read(record)) for record in records if read(record) is not None})
            for folder, records in of_folder.items()
        }
        known = {folder: value for folder, value in values.items() if value}
        if len({tuple(value) for value in known.values()}) > 1:
            texts = "; ".join(f"{folder} {few(value)}" for folder, value in known.items())
            yield f"Not the same {name}: {texts}."


def _code(record: Record) -> str | None:
    revision = record.environment.get("git")
    changed = " with changes" if record.environment.get("dirty") else ""
    return f"{str(revision)[:10]}{changed}" if revision else None


__all__ = ["check_inside", "merge", "merge_parser"]
