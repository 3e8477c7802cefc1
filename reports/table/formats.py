"""Tables written down: text, Markdown, LaTeX, CSV."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.records.printable import printable
from reports.table.columns import Column
from reports.table.entries import (
    Entry,
    all_differences,
    compared,
    differences,
    entries,
    fitting,
    headers,
    heading,
    not_shown,
)
from reports.table.latex import COLUMN, GAP, PAGE, latex_heading, latex_table, latex_text, two_lines, width
from reports.table.ranking import MARKS
from reports.table.tables import Table
from reports.table.text import terminal_width, to_text

if TYPE_CHECKING:
    from rich.console import Console

    from reports.table.published import Block

DETAILS = "All columns, both ends of intervals, all notes"


def to_markdown(table: Table) -> str:
    """A heading, the main table, short notes, differences from the baseline; the rest in ``<details>``."""
    main = table.main()
    parts = [f"### {table.title}", "", _pipes(table, main, entries(table)), ""]
    if table.brief:
        parts += [*(f"- {note}" for note in table.brief), ""]
    if paired := compared(table, main):
        head = f"**Differences from {table.base}**, paired by clip; bold where p ≤ .05"
        parts += [head, "", _pipes(table, paired, differences(table, paired)), ""]
    parts += ["<details>", f"<summary>{DETAILS}</summary>", "", to_details(table), "</details>"]
    return "\n".join(parts) + "\n"


def to_details(table: Table) -> str:
    """Markdown: all columns with both ends of their intervals, all differences likewise, all notes."""
    from tabulate import tabulate

    parts = [_pipes(table, table.columns, entries(table, ends=True)), ""]
    if lines := all_differences(table):
        head = ["", "", f"difference from {table.base}", "n"]
        rows = [[_escaped(cell) for cell in line] for line in lines]
        parts += [tabulate(rows, head, "pipe", disable_numparse=True, colalign=["left"] * 3 + ["right"]), ""]
    if rest := [note for note in table.notes if note not in table.brief]:
        parts += [*(f"- {note}" for note in rest), ""]
    return "\n".join(parts)


def _pipes(table: Table, columns: Sequence[Column], of_rows: dict[str, dict[str, Entry]]) -> str:
    """A pipe table: the best, and differences that are beyond chance, in bold."""
    from tabulate import tabulate

    rows = [
        [_escaped(label), *(_piped(of_row.get(column.key)) for column in columns)]
        for label, of_row in of_rows.items()
    ]
    align = ["left", *["right"] * len(columns)]
    return str(tabulate(rows, ["", *headers(table, columns)], "pipe", disable_numparse=True, colalign=align))


def _piped(entry: Entry | None) -> str:
    if entry is None:
        return "-"
    value = f"**{entry.value}**" if entry.mark in ("best", "apart") else entry.value
    text = " ".join(filter(None, (MARKS.get(entry.mark), value, entry.interval)))
    return f"{text}<br>{entry.p}" if entry.p else text


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def to_latex(table: Table) -> str:
    """The main table and, below it, that of the differences; needs ``\\usepackage{booktabs}``.

    It is a ``table*`` where a column of a two-column article is too narrow; what does not fit a page's width
    is left out, the least important first, and named in the caption.
    """
    main = table.main()
    of_rows = entries(table)
    shown = fitting(table, main, lambda columns: _points(columns, of_rows) <= PAGE)
    caption = latex_text(f"{table.title[:1].upper()}{table.title[1:]}.")
    notes = [*table.brief, *filter(None, [not_shown(table, shown)])]
    texts = [_latex(table, table.name, caption, shown, of_rows, notes)]
    if paired := compared(table, main):
        changes = differences(table, paired)
        shown = fitting(table, paired, lambda columns: _points(columns, changes) <= PAGE)
        caption = latex_text(f"Differences from {table.base}, paired by clip; bold where p ≤ .05. Rows of ")
        caption += rf"Table~\ref{{tab:{table.name}}}."
        texts.append(_latex(table, f"{table.name}-differences", caption, shown, changes, ()))
    return "\n".join(texts)


def _latex(
    table: Table,
    label: str,
    caption: str,
    columns: Sequence[Column],
    of_rows: dict[str, dict[str, Entry]],
    notes: Sequence[str],
) -> str:
    rows: list[list[str]] = []
    for name, of_row in of_rows.items():
        found = [of_row.get(column.key) for column in columns]
        rows.append([latex_text(name), *(_latex_cell(entry) for entry in found)])
        if any(entry and entry.p for entry in found):
            below = (latex_text(entry.p) if entry else "" for entry in found)
            rows.append(["", *(rf"{{\scriptsize {text}}}" if text else "" for text in below)])
    headings = ["", *map(latex_heading, headers(table, columns))]
    wide = _points(columns, of_rows) > COLUMN
    return latex_table(caption, label, headings, rows, notes, wide)


def _latex_cell(entry: Entry | None) -> str:
    if entry is None:
        return "-"
    value = latex_text(entry.value)
    value = rf"\textbf{{{value}}}" if entry.mark in ("best", "apart") else value
    mark = f"{latex_text(MARKS[entry.mark])}\\," if entry.mark in MARKS else ""
    return mark + value + (rf"\,{{\scriptsize {latex_text(entry.interval)}}}" if entry.interval else "")


def _points(columns: Sequence[Column], of_rows: dict[str, dict[str, Entry]]) -> float:
    """About how wide a table is in LaTeX."""
    total = max(map(width, of_rows))
    for column in columns:
        cells = [of_row[column.key] for of_row in of_rows.values() if column.key in of_row]
        widths = [
            width(one.value) + width(one.interval, small=True) + (8 if one.mark in MARKS else 0)
            for one in cells
        ]
        total += GAP + max([*widths, *map(width, two_lines(heading(column)))])
    return total


def to_csv(made: Sequence[Table]) -> str:
    """All tables in one: plain numbers (seconds, bytes), ``_low`` and ``_high`` columns, empty where null."""
    import pandas as pd

    flat = pd.concat([table.flat() for table in made], ignore_index=True)
    flat["n"] = flat["n"].astype(int)
    return str(flat.to_csv(index=False, lineterminator="\n"))


def print_tables(made: Sequence[Table], console: Console | None = None) -> None:
    """Print tables as text, as wide as the terminal at most."""
    from rich.console import Console

    console = console or Console(width=terminal_width())
    bold = console.is_terminal and not console.is_dumb_terminal
    console.file.write(to_text(made, console.width, bold=bold))


def render(made: Sequence[Table], form: str, blocks: Sequence[Block] = ()) -> str:
    """All tables as ``md``, ``latex`` or ``csv``; ``blocks``, published tables, stand below (not in csv)."""
    if form == "csv":
        return printable(to_csv(made))
    if form == "latex":
        texts = [*map(to_latex, made), *(block.to_latex() for block in blocks)]
    else:
        texts = [*map(to_markdown, made), *(block.to_markdown() for block in blocks)]
    return printable("\n".join(texts))


__all__ = [
    "Entry",
    "entries",
    "headers",
    "print_tables",
    "render",
    "to_csv",
    "to_details",
    "to_latex",
    "to_markdown",
    "to_text",
]
