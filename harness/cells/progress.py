"""Bars on a terminal, one quiet line a cell in a log. All of it goes to standard error."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

from harness.text import printable


class Progress:
    """Shows how far a run is: ``with Progress() as progress: ...``.

    On a terminal: a bar over cells with the time left and one over denoising steps, both
    gone afterwards. Elsewhere: one line a cell, when it ends. ``console`` is for tests.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, soft_wrap=True, highlight=False)
        self._bars: Bars | None = None
        self._cells: TaskID | None = None
        self._steps: TaskID | None = None
        self._where = ""
        self._label = ""
        self._total = 0
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bars = Bars(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._cells = self._bars.add_task("cells", total=None)
            self._steps = self._bars.add_task("steps", total=None, visible=False)
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def cell(self, index: int, total: int, label: str) -> None:
        """Cell ``index`` (0-based) of ``total`` starts."""
        label = printable(label)
        self._where, self._label, self._total = f"[{index + 1}/{total}]", label, total
        if self._bars is not None and self._cells is not None and self._steps is not None:
            self._bars.update(self._cells, description=escape(label), total=total, completed=index)
            self._bars.reset(self._steps, description="denoising", visible=False)

    def step(self, index: int, total: int) -> None:
        """Denoising step ``index`` (0-based) of ``total`` starts."""
        if self._bars is not None and self._steps is not None:
            self._bars.update(self._steps, total=total, completed=index, visible=True)

    def cell_done(self, status: str, seconds: float | None = None) -> None:
        """The cell announced last has ended: a record's status, or ``reused``."""
        if self._bars is not None and self._cells is not None and self._steps is not None:
            self._bars.advance(self._cells)
            self._bars.update(self._steps, visible=False)
            if status in ("ok", "reused"):
                return
        took = "" if seconds is None else f" in {seconds:.1f} s"
        self.note(f"{self._where} {self._label}: {status}{took}")

    def note(self, text: str) -> None:
        """One line that stays, above the bars."""
        self._console.print(escape(printable(text)))
