"""Tables written down: terminal, Markdown, LaTeX, CSV."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from harness.records.printable import printable
from reports.columns import COUNT, Column
from reports.latex import latex_heading, latex_table, latex_text
from reports.numbers import digits_of, number_text, points_text, scale, shown_unit
from reports.ranking import TIES
from reports.rows import failures
from reports.tables import Table, tables

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

    from harness.records.record import Plan


class Entry(NamedTuple):
    """A number as it is written, its interval (or few clips' values, or nothing) and its mark."""

    value: str
    interval: str
    mark: str


def headers(table: Table) -> list[str]:
    """Column headings: label, unit, and an arrow towards the better end."""
    found = []
    for column in table.columns:
        unit = shown_unit(column)
        arrow = {True: " ↑", False: " ↓", None: ""}[column.higher_is_better]
        found.append(f"{column.label}{f' ({unit})' if unit else ''}{arrow}")
    return found


def entries(table: Table) -> dict[str, dict[str, Entry]]:
    """Row's label -> column's key -> its number as text; ``-`` where there is none."""
    found: dict[str, dict[str, Entry]] = {label: {} for label in table.numbers}
    for column in table.columns:
        by = scale(column)
        digits = digits_of(column, [of_row[column.key].value / by for of_row in table.numbers.values()])
        few = min(digits, 3)
        for label, of_row in table.numbers.items():
            number = of_row[column.key]
            value, low, high = (part / by for part in number[:3])
            ended = table.failed[label]
            # A row that failed for one reason throughout says it in place of its numbers.
            nothing = next(iter(ended)) if len(ended) == 1 and not of_row[COUNT.key].value else "-"
            interval = points_text([point / by for point in number.points], few)
            if math.isfinite(low) and math.isfinite(high):
                interval = f"[{number_text(low, few)}, {number_text(high, few)}]"
            if column == COUNT and ended:
                interval = f"({failures(ended)})"
            text = number_text(value, digits) if math.isfinite(value) else nothing
            found[label][column.key] = Entry(text, interval, table.marks[label][column.key])
    return found


def to_markdown(table: Table) -> str:
    """A heading, a pipe table (best bold, second underlined) and the notes as a list."""
    from tabulate import tabulate

    wrap = {"best": "**{}**", "second": "<u>{}</u>", "": "{}"}
    wrap |= {mark: f"{{}} {tie}" for mark, tie in TIES.items()}
    rows = []
    for label, of_row in entries(table).items():
        row = [label.replace("|", "\\|")]
        for entry in of_row.values():
            text = wrap[entry.mark].format(entry.value)
            row.append(f"{text} {entry.interval}" if entry.interval else text)
        rows.append(row)
    body = tabulate(
        rows,
        headers=["", *headers(table)],
        tablefmt="pipe",
        disable_numparse=True,
        colalign=["left", *["right"] * len(table.columns)],
    )
    return "\n".join([f"### {table.title}", "", body, "", *(f"- {note}" for note in table.notes)]) + "\n"


def to_latex(table: Table) -> str:
    """A ``table`` environment with booktabs rules, as wide as the text at most, notes below.

    Needs ``\\usepackage{booktabs,graphicx}``.
    """
    import pandas as pd

    wrap = {"best": r"\textbf{%s}", "second": r"\underline{%s}", "": "%s"}
    wrap |= {mark: f"%s$^{{{tie}}}$" for mark, tie in TIES.items()}
    rows: dict[str, list[str]] = {}
    for label, of_row in entries(table).items():
        rows[latex_text(label)] = [wrap[entry.mark] % latex_text(entry.value) for entry in of_row.values()]
        below = [latex_text(entry.interval) for entry in of_row.values()]
        if any(below):
            # An empty name of its own: pandas' rows are told apart by theirs.
            rows["{}" * (len(rows) + 1)] = [rf"{{\scriptsize {text}}}" if text else "" for text in below]
    headings = [latex_heading(text) for text in headers(table)]
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=headings)
    return latex_table(table.title, frame, table.notes)


def to_csv(made: Sequence[Table]) -> str:
    """All tables in one: plain numbers (seconds, bytes), ``_low`` and ``_high`` columns, empty where null."""
    import pandas as pd

    flat = pd.concat([table.flat() for table in made], ignore_index=True)
    flat["n"] = flat["n"].astype(int)
    return str(flat.to_csv(index=False, lineterminator="\n"))


def to_rich(table: Table, columns: Sequence[Column]) -> RichTable:
    """Columns of the table for a terminal: best bold, second underlined, the interval under its value."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    made = RichTable(title=printable(table.title), box=box.SIMPLE_HEAVY, title_justify="left")
    made.add_column("", no_wrap=True)
    for column, heading in zip(table.columns, headers(table), strict=True):
        if column in columns:
            made.add_column(printable(heading), justify="right", overflow="fold")
    styles = {"best": "bold", "second": "underline"}
    for label, of_row in entries(table).items():
        row = [Text(printable(label))]
        for entry in (of_row[column.key] for column in columns):
            text = Text(entry.value, style=styles.get(entry.mark, ""))
            if entry.mark in TIES:
                text = Text.assemble(text, f" {TIES[entry.mark]}")
            row.append(Text.assemble(text, f"\n{entry.interval}") if entry.interval else text)
        made.add_row(*row)
    return made


def _parts(table: Table, console: Console) -> list[RichTable]:
    """The table, in parts of some columns each where whole numbers need more than the terminal's width."""
    unbound = console.options.update_width(1000)
    columns: list[Column] = []
    made = []
    for column in table.columns:
        needed = console.measure(to_rich(table, [*columns, column]), options=unbound).minimum
        if columns and needed > console.width:
            made.append(to_rich(table, columns))
            columns = []
        columns.append(column)
    return [*made, to_rich(table, columns)]


def print_plans(
    results: Path, plans: Sequence[Plan], console: Console | None = None, everything: bool = False
) -> None:
    """Print the plans' tables and notes; off a terminal as wide as they need."""
    from rich.console import Console
    from rich.text import Text

    console = console or Console(highlight=False)
    for table in tables(results, plans, everything):
        if console.is_terminal:
            console.print(*_parts(table, console))
        else:
            made = to_rich(table, table.columns)
            needed = console.measure(made, options=console.options.update_width(1000)).maximum
            Console(file=console.file, width=needed, highlight=False).print(made)
        for note in table.notes:
            console.print(Text(f"  {printable(note)}"), soft_wrap=True)


def render(made: Sequence[Table], form: str, published: bool = False) -> str:
    """All tables as ``md``, ``latex`` or ``csv``; ``published`` puts the paper's own below (not in csv)."""
    if form == "csv":
        return printable(to_csv(made))
    write = {"md": to_markdown, "latex": to_latex}[form]
    texts_ = [write(table) for table in made]
    if published:
        from reports.published import blocks

        texts_ += [block.to_markdown() if form == "md" else block.to_latex() for block in blocks()]
    return printable("\n".join(texts_))
