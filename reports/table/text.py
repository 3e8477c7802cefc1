"""Tables as plain text, no line wider than asked for; what does not fit is named."""

from __future__ import annotations

import io
import shutil
import textwrap
from collections.abc import Iterator, Sequence
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
    heading,
    not_shown,
)
from reports.table.headline import headline
from reports.table.ranking import MARKS
from reports.table.tables import Table

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table as Grid
    from rich.text import Text

    from reports.table.published import Block

LABEL, LONGEST = 28, 40
"""Characters of a row's label to a line, and cells of a line that holds a longer word."""
BOLD = ("best", "apart")
"""Marks that are bold, too."""
Cells = dict[str, list["Text"]]


def terminal_width() -> int:
    """``COLUMNS``, else the terminal's, else 80."""
    return shutil.get_terminal_size((80, 24)).columns


def to_text(
    tables: Sequence[Table],
    columns: int,
    details: bool = False,
    bold: bool = False,
    blocks: Sequence[Block] = (),
) -> str:
    """Tables below each other, lines of at most ``columns`` characters; ``bold`` with a terminal's codes."""
    from rich.console import Console
    from rich.text import Text

    out = io.StringIO()
    console = Console(file=out, width=columns, force_terminal=bold, highlight=False, legacy_windows=False)
    for table in tables:
        console.print(*_table(table, console, details), sep="\n")
    for block in blocks:
        rows = {row[0]: [Text(cell) for cell in row[1:]] for row in block.rows}
        console.print(Text(block.title, "bold"), "")
        for part in _parts(console, block.headings[1:], rows):
            console.print(part, "")
        console.print(_list(block.notes))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def _table(table: Table, console: Console, details: bool) -> Iterator[RenderableType]:
    from rich.text import Text

    def grid(columns: Sequence[Column], of_rows: dict[str, dict[str, Entry]]) -> Grid:
        return _grid(*_of_entries(columns, of_rows))

    main, numbers = table.main(), entries(table)
    shown = fitting(table, main, lambda columns: _fits(console, grid(columns, numbers)))
    yield Text(printable(table.title), "bold")
    yield ""
    yield grid(shown, numbers)
    yield ""
    if said := headline(table):
        yield Text(printable(said))
        yield ""
    if paired := compared(table, main):
        changes = differences(table, paired)
        paired = fitting(table, paired, lambda columns: _fits(console, grid(columns, changes)))
        yield Text(printable(f"Differences from {table.base}, paired by clip"), "bold")
        yield ""
        yield grid(paired, changes)
        yield ""
    lines = list(table.brief)
    if not details:
        rest = "All columns, both ends of intervals and all notes: --details."
        lines.append(f"{not_shown(table, shown)} {rest}".strip())
    yield _list(lines)
    if details:
        yield from _details(table, console)


def _details(table: Table, console: Console) -> Iterator[RenderableType]:
    """All columns with both ends of intervals, all differences, all notes."""
    from rich.text import Text

    ends = entries(table, ends=True)
    headings, cells = _of_entries(table.columns, ends)
    yield Text("All columns", "bold")
    yield ""
    for part in _parts(console, headings, cells):
        yield part
        yield ""
    if table.differences:
        yield Text(printable(f"Differences from {table.base}, both ends"), "bold")
        yield ""
        for line in all_differences(table):
            yield Text(printable(f"{line[0]}: {line[1]} {line[2]}, n {line[3]}"))
        yield ""
    yield Text("Notes", "bold")
    yield ""
    yield _list([note for note in table.notes if note not in table.brief])


def _fits(console: Console, grid: Grid) -> bool:
    return console.measure(grid, options=console.options.update_width(10_000)).maximum <= console.width


def _of_entries(columns: Sequence[Column], of_rows: dict[str, dict[str, Entry]]) -> tuple[list[str], Cells]:
    """Headings, and a row's label -> its cells."""
    nothing = Entry("-", "", "")
    rows = {
        label: [_cell(of_row.get(column.key, nothing)) for column in columns]
        for label, of_row in of_rows.items()
    }
    return [heading(column) for column in columns], rows


def _cell(entry: Entry) -> Text:
    from rich.text import Text

    words = " ".join(filter(None, (MARKS.get(entry.mark), entry.value, entry.interval)))
    text = Text(words, "bold" if entry.mark in BOLD else "")
    return Text.assemble(text, f"\n{entry.p}") if entry.p else text


def _grid(headings: Sequence[str], rows: Cells) -> Grid:
    """A table that is as narrow as its cells; headings break at words."""
    from rich import box
    from rich.cells import chop_cells
    from rich.table import Table as Grid
    from rich.text import Text

    made = Grid(box=box.SIMPLE, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    made.add_column("", overflow="fold")
    for place, text in enumerate(headings):
        lines = [line for row in rows.values() for line in row[place].plain.splitlines()]
        word = max(map(len, text.replace(" ↑", "+↑").replace(" ↓", "+↓").split()))
        room = max([word, 6, *map(len, lines)])
        # Only plain blanks break a line: an arrow stays with the word before it.
        whole = printable(text).replace(" ↑", "\N{NO-BREAK SPACE}↑").replace(" ↓", "\N{NO-BREAK SPACE}↓")
        head = "\n".join(textwrap.wrap(whole, room)).replace("\N{NO-BREAK SPACE}", " ")
        made.add_column(Text(head), justify="right", overflow="fold")
    for label, cells in rows.items():
        words = textwrap.wrap(printable(label), LABEL, break_long_words=False)
        # A longer word would leave no room for the columns; wide characters take two cells.
        lines = [part for line in words for part in chop_cells(line, LONGEST)]
        made.add_row(Text("\n".join(lines) or " "), *cells)
    return made


def _parts(console: Console, headings: Sequence[str], rows: Cells) -> Iterator[Grid]:
    """All columns, in grids below each other of as many columns as fit."""

    def grid(first: int, last: int) -> Grid:
        return _grid(headings[first:last], {label: cells[first:last] for label, cells in rows.items()})

    first = 0
    for last in range(1, len(headings) + 1):
        if last == len(headings) or not _fits(console, grid(first, last + 1)):
            yield grid(first, last)
            first = last


def _list(lines: Sequence[str]) -> Grid:
    from rich.table import Table as Grid
    from rich.text import Text

    made = Grid.grid(padding=(0, 1))
    made.add_column()
    made.add_column(overflow="fold")
    for line in lines:
        made.add_row("-", Text(printable(line)))
    made.add_row("", "")
    return made


__all__ = ["terminal_width", "to_text"]
