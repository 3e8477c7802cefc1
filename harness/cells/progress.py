"""Bars on a terminal, one quiet line a cell in a log. All of it goes to standard error."""

from __future__ import annotations

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

from harness.records.printable import printable


class Progress:
    """Shows how far a run is: ``with Progress() as progress: ...``.

    On a terminal: a bar over cells with the time left and one over denoising steps for each worker, all
    gone afterwards. Elsewhere: one line a cell, when it ends. ``console`` is for tests. It is itself
    what its first worker is told by.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, soft_wrap=True, highlight=False)
        self._bars: Bars | None = None
        self._cells: TaskID | None = None
        self._all: int | None = None
        self._workers: dict[int, WorkerProgress] = {}

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
            self._cells = self._bars.add_task("cells", total=self._all)
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

    def total(self, cells: int) -> None:
        """So many cells in all, whichever job or worker they are of."""
        self._all = cells
        if self._bars is not None and self._cells is not None:
            self._bars.update(self._cells, total=cells)

    def worker(self, number: int) -> WorkerProgress:
        """What one of several workers is told by."""
        return self._workers.setdefault(number, WorkerProgress(self, number))

    def cell(self, index: int, total: int, label: str, cell: object = None) -> None:
        """Cell ``index`` (0-based) of its job's ``total`` starts."""
        self.worker(0).cell(index, total, label, cell)

    def stage(self, name: str) -> None:
        """A stage of the cell begins."""

    def step(self, index: int, total: int) -> None:
        """Denoising step ``index`` (0-based) of ``total`` starts."""
        self.worker(0).step(index, total)

    def cell_done(self, status: str, seconds: float | None = None) -> None:
        """The cell announced last has ended: a record's status, or ``reused``."""
        self.worker(0).cell_done(status, seconds)

    def note(self, text: str) -> None:
        """One line that stays, above the bars."""
        self._console.print(escape(printable(text)))


class WorkerProgress:
    """One worker's part of a ``Progress``."""

    def __init__(self, progress: Progress, number: int) -> None:
        self._progress, self._number = progress, number
        self._steps: TaskID | None = None
        self._where = self._label = ""

    def cell(self, index: int, total: int, label: str, cell: object = None) -> None:
        label = printable(label)
        self._where, self._label = f"[{index + 1}/{total}]", label
        bars, cells = self._progress._bars, self._progress._cells
        if bars is not None and cells is not None:
            bars.update(cells, description=escape(label))
            if self._progress._all is None:
                bars.update(cells, total=total, completed=index)
            if self._steps is None:
                self._steps = bars.add_task("denoising", total=None, visible=False)
            bars.reset(self._steps, description="denoising", visible=False)

    def stage(self, name: str) -> None:
        pass

    def step(self, index: int, total: int) -> None:
        bars = self._progress._bars
        if bars is not None and self._steps is not None:
            bars.update(self._steps, total=total, completed=index, visible=True)

    def cell_done(self, status: str, seconds: float | None = None) -> None:
        bars, cells = self._progress._bars, self._progress._cells
        if bars is not None and cells is not None and self._steps is not None:
            bars.advance(cells)
            bars.update(self._steps, visible=False)
            if status in ("ok", "reused"):
                return
        took = "" if seconds is None else f" in {seconds:.1f} s"
        self.note(f"{self._where} {self._label}: {status}{took}")

    def note(self, text: str) -> None:
        self._progress.note(text)
