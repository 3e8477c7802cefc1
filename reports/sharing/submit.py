"""Results packed into one file for others: ``python -m reports submit RESULTS --out FILE``."""

from __future__ import annotations

import argparse
import hashlib
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from datasets.errors import InputError
from datasets.files import size_text, write_whole
from harness.command.terminal import tell
from harness.records import store
from harness.records.hidden import Hidden, folders
from reports.output import write_out
from reports.sharing.merge import check_inside
from reports.sharing.submission import NAME, TABLES, cell_path, incomplete, pack, to_json, unpack
from reports.table.formats import render
from reports.table.rows import find_plans, plural
from reports.table.tables import tables

if TYPE_CHECKING:
    from harness.records.record import Plan


def submit_parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m reports submit", description="Packs results into one file for `reports board`."
    )
    made.add_argument("results", type=Path, help="the results folder of `python -m harness`")
    made.add_argument(
        "--out", type=Path, required=True, metavar="FILE.zip", help="the file; its name is the submission's"
    )
    for name in ("plan", "experiment"):
        made.add_argument(
            f"--{name}", nargs="+", default=[], metavar="NAME", action="extend", help="only these"
        )
    return made


def submit(arguments: Sequence[str]) -> int:
    """Pack a results folder, and read the file back. InputError where a cell is not run or not readable."""
    given = submit_parser().parse_args(arguments)
    name = given.out.stem
    if given.out.suffix != ".zip" or not re.fullmatch(NAME, name):
        raise InputError(f"--out {given.out}: name a file NAME.zip, NAME of letters, digits, spaces and .+-")
    plans = find_plans(given.results, given.plan, given.experiment)
    files = _files(given.results, plans)
    data = pack(name, files | _tables(files))
    write_out(data, given.out)
    with tempfile.TemporaryDirectory(prefix="vmtbench-") as folder:
        hidden = unpack(given.out, Path(folder)).hidden
    cells = sum(path.startswith(store.CELLS) for path in files)
    tell(
        f"{given.out}: {plural(cells, 'cell')} of {plural(len(plans), 'plan')}, {size_text(len(data))}, "
        f"sha256 {hashlib.sha256(data).hexdigest()}"
    )
    if hidden:
        tell(f"a value is hidden in {plural(hidden, 'record')}: nobody can compute their ids again")
    return 0


def _files(results: Path, plans: Sequence[Plan]) -> dict[str, bytes]:
    """The plans and records as they are packed. InputError, a line for each kind of cell that is missing."""
    clean = Hidden(folders=folders(results, None))
    files: dict[str, bytes] = {}
    faults: dict[str, list[str]] = {}
    for plan in plans:
        for variant in plan.variants:
            for cell in variant.cells:
                check_inside(results, cell.path)
                where = f"{variant.label} {cell.clip} seed {cell.seed}"
                try:
                    record = store.load_record(results / cell.path)
                except FileNotFoundError:
                    faults.setdefault("is not run", []).append(where)
                    continue
                except (OSError, ValueError) as error:
                    faults.setdefault(f"has a record that cannot be read ({error})", []).append(where)
                    continue
                if cell.id not in (record.id, record.former_id):
                    faults.setdefault(f"has the record of another cell, {record.id}", []).append(where)
                    continue
                if fault := incomplete(record):
                    faults.setdefault(fault, []).append(where)
                cell.id, cell.path = record.id, cell_path(record.id)
                clean.record(record)
                if record.error is not None:
                    record.error.traceback = ""
                files[f"{cell.path}/{store.RECORD}"] = to_json(record.model_dump(mode="json", by_alias=True))
        dumped = clean.plan(plan).model_dump(mode="json", by_alias=True)
        files[f"{store.PLANS}/{store.safe(plan.name)}.json"] = to_json(dumped)
    if faults:
        lines = [
            f"{results}: {cells[0]}{f' and {len(cells) - 1} more' if len(cells) > 1 else ''}: {fault}"
            for fault, cells in faults.items()
        ]
        raise InputError("; ".join(lines) + "; run the command of its plan again, or name others by --plan")
    return files


def _tables(files: dict[str, bytes]) -> dict[str, bytes]:
    """The tables of what is packed, made from that alone."""
    with tempfile.TemporaryDirectory(prefix="vmtbench-") as name:
        folder = Path(name)
        for path, data in files.items():
            write_whole(folder / path, data)
        return tables_of(folder, find_plans(folder))


def tables_of(folder: Path, plans: Sequence[Plan]) -> dict[str, bytes]:
    """The tables of unpacked files, by the names of theirs."""
    made = tables(folder, plans)
    return {name: render(made, name.rpartition(".")[2]).encode(errors="backslashreplace") for name in TABLES}


__all__ = ["submit", "submit_parser", "tables_of"]
