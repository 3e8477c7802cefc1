"""Tables written down: terminal, Markdown, LaTeX, CSV."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from reports.columns import Column, _digits, _number
from reports.latex import _stacked, latex_table, latex_text
from reports.ranking import TIES
from reports.rows import _finite, failures
from reports.tables import Table, tables

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console
    from rich.table import Table as RichTable

    from harness.records.record import Plan


def _scale(table: Table, column: Column) -> tuple[float, str]:
    """What to divide by, and the unit to show: bytes become GB or MB (powers of ten)."""
    if column.unit != "B":
        return 1.0, column.unit
    largest = table.values[column.key].max(skipna=True)
    return (1e9, "GB") if _finite(largest) and largest >= 1e9 else (1e6, "MB")


def headers(table: Table) -> list[str]:
    """Column headings: label, unit, and an arrow towards the better end."""
    found = []
    for column in table.columns:
        unit = _scale(table, column)[1]
        arrow = {True: " ↑", False: " ↓", None: ""}[column.higher_is_better]
        found.append(f"{column.label}{f' ({unit})' if unit else ''}{arrow}")
    return found


def texts(table: Table) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Values and intervals as text, same shape as ``table.values``; ``-`` and nothing where there is none."""
    values, intervals = table.values.astype(object), table.values.astype(object)
    for column in table.columns:
        by, _ = _scale(table, column)
        numbers = table.values[column.key] / by
        digits = 0 if column.key == "n" else _digits(column, numbers)
        for label in table.values.index:
            ended = table.failed.get(str(label), Counter())
            # A row that failed for one reason throughout says it in place of its numbers.
            nothing = next(iter(ended)) if len(ended) == 1 and not table.values.at[label, "n"] else "-"
            value = numbers.at[label]
            low, high = table.lows.at[label, column.key] / by, table.highs.at[label, column.key] / by
            values.at[label, column.key] = _number(value, digits) if _finite(value) else nothing
            few = min(digits, 3)
            intervals.at[label, column.key] = (
                f"[{_number(low, few)}, {_number(high, few)}]" if _finite(low) and _finite(high) else ""
            )
            if column.key == "n" and ended:
                intervals.at[label, column.key] = f"({failures(ended)})"
    return values, intervals


def ranks(table: Table) -> pd.DataFrame:
    """``best``, ``second``, ``tied`` (for best), ``tied second`` or nothing for each number.

    A number is best when the paired 95 % interval of its difference from every other row's excludes
    0, else it is tied with those it cannot be told from; the second likewise among the others.
    Nothing with fewer than two clips in common, and between rows of other sizes, weights or, for
    time and memory, devices. Forward-equivalents are counts, and compared as they are shown.
    """
    return table.marks


def _cells(table: Table, best: str, second: str, between: str = " ") -> list[list[str]]:
    """Rows of text: label, then value and interval, the value wrapped by its rank."""
    values, intervals = texts(table)
    marks = ranks(table)
    wrap = {"best": best, "second": second, "": "{}"} | {mark: f"{{}} {tie}" for mark, tie in TIES.items()}
    rows = []
    for label in table.values.index:
        row = [str(label)]
        for column in table.columns:
            text = wrap[marks.at[label, column.key]].format(values.at[label, column.key])
            interval = intervals.at[label, column.key]
            row.append(f"{text}{between}{interval}" if interval else text)
        rows.append(row)
    return rows


def to_markdown(table: Table) -> str:
    """A heading, a pipe table (best bold, second underlined) and the notes as a list."""
    from tabulate import tabulate

    rows = [[row[0].replace("|", "\\|"), *row[1:]] for row in _cells(table, "**{}**", "<u>{}</u>")]
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

    values, intervals = texts(table)
    marks = ranks(table)
    before = {"best": r"\textbf{%s}", "second": r"\underline{%s}", "": "%s"}
    before |= {mark: f"%s$^{{{tie}}}$" for mark, tie in TIES.items()}
    rows: dict[str, list[str]] = {}
    for label in values.index:
        rows[latex_text(str(label))] = [
            before[marks.at[label, key]] % latex_text(values.at[label, key]) for key in values.columns
        ]
        below = [latex_text(intervals.at[label, key]) for key in values.columns]
        if any(below):
            # An empty name of its own: pandas' rows are told apart by theirs.
            rows["{}" * (len(rows) + 1)] = [rf"{{\scriptsize {text}}}" if text else "" for text in below]
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=[_stacked(text) for text in headers(table)])
    return latex_table(table.title, frame, table.notes)


def to_csv(made: Sequence[Table]) -> str:
    """All tables in one: plain numbers (seconds, bytes), ``_low`` and ``_high`` columns, empty where null."""
    import pandas as pd

    flat = pd.concat([table.flat() for table in made], ignore_index=True)
    flat["n"] = flat["n"].astype(int)
    return str(flat.to_csv(index=False, lineterminator="\n"))


def to_rich(table: Table) -> RichTable:
    """The table for a terminal: best bold, second underlined, the interval under its value."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    made = RichTable(title=table.title, box=box.SIMPLE_HEAVY, title_justify="left")
    made.add_column("", no_wrap=True)
    for heading in headers(table):
        made.add_column(heading, justify="right", overflow="fold")
    values, intervals = texts(table)
    marks = ranks(table)
    styles = {"best": "bold", "second": "underline"}
    for label in values.index:
        row = [Text(str(label))]
        for column in table.columns:
            mark = marks.at[label, column.key]
            text = Text(values.at[label, column.key], style=styles.get(mark, ""))
            if mark in TIES:
                text = Text.assemble(text, f" {TIES[mark]}")
            interval = intervals.at[label, column.key]
            row.append(Text.assemble(text, f"\n{interval}") if interval else text)
        made.add_row(*row)
    return made


def print_plans(
    results: Path, plans: Sequence[Plan], console: Console | None = None, everything: bool = False
) -> None:
    """Print the plans' tables and notes; off a terminal as wide as they need."""
    from rich.console import Console
    from rich.text import Text

    console = console or Console(highlight=False)
    for table in tables(results, plans, everything):
        made = to_rich(table)
        if console.is_terminal:
            console.print(made)
        else:
            needed = console.measure(made, options=console.options.update_width(1000)).maximum
            Console(file=console.file, width=needed, highlight=False).print(made)
        for note in table.notes:
            console.print(Text(f"  {note}"), soft_wrap=True)


def render(made: Sequence[Table], form: str, published: bool = False) -> str:
    """All tables as ``md``, ``latex`` or ``csv``; ``published`` puts the paper's own below (not in csv)."""
    if form == "csv":
        return to_csv(made)
    write = {"md": to_markdown, "latex": to_latex}[form]
    texts_ = [write(table) for table in made]
    if published:
        from reports.published import blocks

        texts_ += [block.to_markdown() if form == "md" else block.to_latex() for block in blocks()]
    return "\n".join(texts_)
