"""A static leaderboard of submissions: ``python -m reports board FILES... --out DIR``.

One page of one table for each table of a protocol, its rows from all files. Each file is checked before
anything is written (``reports.sharing.submission``).
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets.errors import InputError
from datasets.files import sweep, write_whole
from harness.command.terminal import tell
from harness.protocol.stated import stated_tables
from reports.output import writing
from reports.sharing.submission import Submission, unpack
from reports.sharing.submit import tables_of
from reports.site import GENERATOR, TEMPLATES, check_ours, environment, script_hash
from reports.table.columns import COUNT, Column, Number
from reports.table.formats import entries, headers
from reports.table.protocol import closest, departures
from reports.table.rows import SETTINGS, Group, Row, groups, plural
from reports.table.tables import Table, tables

if TYPE_CHECKING:
    from harness.records.record import Plan


def board_parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m reports board", description="A static leaderboard of submissions, each checked."
    )
    made.add_argument("files", type=Path, nargs="+", metavar="FILE.zip", help="`python -m reports submit`'s")
    made.add_argument("--out", type=Path, required=True, metavar="DIR", help="the page's folder")
    return made


@dataclass(frozen=True)
class Standing:
    """A row of a submission in a section. ``departs``: the points in which, none where it follows it."""

    submission: str
    label: str
    table: Table
    departs: list[str]
    row: Row


@dataclass(frozen=True)
class Section:
    """The rows of a protocol's table, or of a dataset and backbone that no protocol covers."""

    title: str
    protocol: bool
    standings: list[Standing]


def board(arguments: Sequence[str]) -> int:
    """Check the files and write the page. InputError, a line for each file that is refused."""
    given = board_parser().parse_args(arguments)
    check_ours(given.out)
    with tempfile.TemporaryDirectory(prefix="vmtbench-") as folder:
        found = _unpack(given.files, Path(folder))
        sections = _sections(found)
        html = _html(found, sections)
    with writing(given.out):
        sweep(given.out)
        write_whole(given.out / "index.html", html.encode(errors="backslashreplace"))
    rows = sum(len(section.standings) for section in sections)
    tell(f"{given.out / 'index.html'}: {plural(rows, 'row')} of {plural(len(found), 'submission')}")
    return 0


def _unpack(files: Sequence[Path], folder: Path) -> list[Submission]:
    """All files, checked. InputError, a line for each fault."""
    found: dict[str, Submission] = {}
    named: dict[str, Path] = {}
    faults = []
    for number, path in enumerate(files):
        try:
            one = unpack(path, folder / str(number))
        except InputError as error:
            faults.append(str(error))
            continue
        if one.name in found:
            other = named[one.name]
            faults.append(
                f"{path}: is named {one.name!r}, as {other} is; pack one of them again as another NAME.zip"
            )
        found.setdefault(one.name, one)
        named.setdefault(one.name, path)
    if faults:
        raise InputError("\nerror: ".join(faults))
    return list(found.values())


def _sections(submissions: Sequence[Submission]) -> list[Section]:
    """The rows of all submissions by the protocol's table they are compared with; those of none last."""
    of_protocol: dict[str, list[Standing]] = {name: [] for name in stated_tables()}
    others: dict[str, list[Standing]] = {}
    for one in submissions:
        for experiment, plans in _by_protocol(one).items():
            for group, table in zip(
                groups(one.folder, plans), tables(one.folder, plans, everything=True), strict=True
            ):
                made = list(_standings(one, experiment, group, table))
                where = of_protocol if experiment else others
                where.setdefault(experiment or table.title, []).extend(made)
    named = [Section(name, True, rows) for name, rows in of_protocol.items() if rows]
    return named + [Section(title, False, rows) for title, rows in others.items()]


def _by_protocol(one: Submission) -> dict[str, list[Plan]]:
    """The plans with the variants that are compared with each table of a protocol; under "" with none."""
    compared: dict[str, str] = {}
    for group in groups(one.folder, one.plans):
        for row in group.rows:
            table = closest(row)
            for _, variant in row.parts:
                compared.setdefault(variant.config_id, table.experiment if table else "")
    found: dict[str, list[Plan]] = {}
    for experiment in dict.fromkeys(compared.values()):
        for plan in one.plans:
            kept = [variant for variant in plan.variants if compared.get(variant.config_id) == experiment]
            if kept:
                part = plan.model_copy(update={"variants": kept})
                found.setdefault(experiment, []).append(part)
    return found


def _standings(one: Submission, experiment: str, group: Group, table: Table) -> Iterator[Standing]:
    for row in group.rows:
        found = departures(row, stated_tables()[experiment]) if experiment else []
        yield Standing(one.name, row.label, table, found, row)


def _joined(section: Section) -> Table:
    """One table of a section's rows, that numbers be written alike; without marks, which compare pairs."""
    columns: dict[str, Column] = {}
    for standing in section.standings:
        shown = {column.key: column for column in standing.table.columns if _shown(standing, column)}
        columns = {**shown, **columns} if len(shown) > len(columns) else {**columns, **shown}
    ordered = [*(column for column in columns.values() if column.key != COUNT.key), COUNT]
    numbers, failed = {}, {}
    for place, standing in enumerate(section.standings):
        known = standing.table.numbers[standing.label]
        numbers[str(place)] = {column.key: known.get(column.key, Number()) for column in ordered}
        failed[str(place)] = standing.table.failed.get(standing.label, Counter())
    return Table(
        backbone="",
        dataset=section.title,
        columns=tuple(ordered),
        numbers=numbers,
        marks={place: dict.fromkeys(of_row, "") for place, of_row in numbers.items()},
        notes=[],
        config_ids=(),
        failed=failed,
    )


def _shown(standing: Standing, column: Column) -> bool:
    """Primary columns; what is over a row of the submission's own is not compared with others'."""
    return column.primary and column.key != "speedup"


def _first(table: Table) -> Column:
    """The column by which rows are ordered at first: the first that sees motion."""
    return next((column for column in table.columns if column.sees_motion), table.columns[0])


def _section(section: Section) -> dict[str, Any]:
    """A section for the template; rows that follow the protocol come before others, the best first."""
    table = _joined(section)
    texts = entries(table)
    by = _first(table)
    sign = -1 if by.higher_is_better else 1

    def place(key: str) -> tuple[bool, bool, float]:
        value = table.numbers[key][by.key].value
        return bool(section.standings[int(key)].departs), not math.isfinite(value), sign * value

    rows = [
        {
            "label": section.standings[int(key)].label,
            "submission": section.standings[int(key)].submission,
            "departs": section.standings[int(key)].departs,
            "cells": [
                {
                    "value": texts[key][column.key].value,
                    "interval": texts[key][column.key].interval,
                    "number": table.numbers[key][column.key].value,
                }
                for column in table.columns
            ],
        }
        for key in sorted(table.numbers, key=place)
    ]
    columns = [
        {"heading": heading, "lower": column.higher_is_better is False, "first": column == by}
        for heading, column in zip(headers(table), table.columns, strict=True)
    ]
    stated = stated_tables().get(section.title) if section.protocol else None
    return {
        "title": section.title,
        "stated": stated,
        "columns": columns,
        "rows": rows,
        "notes": list(_unlike(section)),
    }


def _unlike(section: Section) -> Iterator[str]:
    """A line for each setting that the protocol leaves open and that is not the same in all submissions."""
    for name in ("weights", "device", "threads"):
        values: dict[str, set[str]] = {}
        for standing in section.standings:
            values.setdefault(standing.submission, set()).update(standing.row.setting(SETTINGS[name]))
        known = {one: ", ".join(sorted(found)) for one, found in values.items() if found}
        if len(set(known.values())) > 1:
            yield f"Not the same {name}: {'; '.join(f'{one} {text}' for one, text in known.items())}."


def _about(one: Submission) -> dict[str, Any]:
    """What the page says of a submission."""
    rows = [row for group in groups(one.folder, one.plans) for row in group.rows]
    records = [record for row in rows for record in row.records.values()]
    code = sorted(
        {str(record.environment.get("git"))[:10] for record in records if record.environment.get("git")}
    )
    changed = any(record.environment.get("dirty") for record in records)
    packed = {name: (one.folder / name).read_bytes() for name in ("tables.md", "tables.csv")}
    notes = []
    if one.hidden:
        notes.append(f"{plural(one.hidden, 'record')} hide a value: their ids were not computed again")
    if changed:
        notes.append("made by code with changes that no revision holds")
    if packed != tables_of(one.folder, one.plans):
        notes.append(
            "its own tables are other than those made here: another version of the program packed it"
        )
    return {
        "name": one.name,
        "sha256": one.sha256,
        "records": len(records),
        "devices": _devices(rows),
        "code": code,
        "notes": notes,
    }


def _devices(rows: Sequence[Row]) -> list[str]:
    return sorted({device for row in rows for device in row.setting(SETTINGS["device"])})


def _contents(submissions: Sequence[Submission]) -> list[str]:
    """A line for each clip of one name whose frames are not the same in all submissions that hold it."""
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for one in submissions:
        seen: set[tuple[str, str, str]] = set()
        for plan in one.plans:
            for variant in plan.variants:
                seen |= {
                    (variant.dataset_id or variant.dataset, cell.clip, cell.content)
                    for cell in variant.cells
                    if cell.content
                }
        for asked, clip, content in sorted(seen):
            found.setdefault((asked, clip), {}).setdefault(content, []).append(one.name)
    made = []
    for (_, clip), contents in found.items():
        if len(contents) > 1:
            whose = " than in ".join(", ".join(names) for names in contents.values())
            made.append(f"The reference {clip} has other frames in {whose}.")
    return made


def _html(submissions: Sequence[Submission], sections: Sequence[Section]) -> str:
    style = "".join((TEMPLATES / name).read_text() for name in ("page.css", "board.css"))
    script = (TEMPLATES / "board.js").read_text()
    return (
        environment()
        .get_template("board.html")
        .render(
            generator=GENERATOR,
            style=style,
            script=script,
            script_hash=script_hash(script),
            sections=[_section(section) for section in sections],
            submissions=[_about(one) for one in submissions],
            contents=_contents(submissions),
        )
    )


__all__ = ["board", "board_parser"]
