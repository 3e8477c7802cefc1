"""Bars on a terminal, one quiet line a cell in a log. All of it goes to standard error."""

from __future__ import annotations

import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.text import Text

from harness.records.printable import printable

PHASES = {
    "start": "reading the clip",
    "load": "loading weights",
    "warm-up": "warming up",
    "encode": "encoding",
    "train": "training",
    "generate": "denoising",
    "decode": "decoding",
    "save": "writing videos",
    "score": "scoring",
}
"""What a stage of a cell is called; others are called by their names."""
ONCE = ("start", "load", "warm-up")
"""The stages that the next cell of the same variant does without."""
QUIET_S = 60.0
"""Seconds after which a log gets a line on how far the cells are."""


class Progress:
    """Shows how far a run is: ``with Progress() as progress: ...``.

    On a terminal: a bar over cells, with the time left once a cell of each variant to come has ended, and a
    line for each worker that names its phase; all gone afterwards. Elsewhere: one line a cell, when it
    ends, and one after each ``quiet`` seconds in between. ``console`` and ``quiet`` are for tests. It is
    itself what its first worker is told by.
    """

    def __init__(self, console: Console | None = None, quiet: float = QUIET_S) -> None:
        self._console = console or Console(stderr=True, soft_wrap=True, highlight=False)
        self._quiet = quiet
        self._bars: Bars | None = None
        self._cells: TaskID | None = None
        self._left: Counter[str] | None = None
        self._total = 0
        self._took: dict[str, list[float]] = {}
        self._workers: dict[int, WorkerProgress] = {}
        self._phase = "starting"
        self._said = time.monotonic()
        self._ended = threading.Event()
        self._reporter: threading.Thread | None = None

    def __enter__(self) -> Self:
        if not self._console.is_terminal:
            self._reporter = threading.Thread(target=self._report, daemon=True)
            self._reporter.start()
            return self
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            _Count(),
            TimeElapsedColumn(),
            _Left(self._left_text),
            console=self._console,
            transient=True,
        )
        self._cells = self._bars.add_task(self._phase, total=self._total or None)
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        if self._reporter is not None:
            self._reporter.join()
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def total(self, variants: Sequence[str]) -> None:
        """The variant of each cell to come, whichever job or worker it is of."""
        self._left, self._total = Counter(variants), len(variants)
        if self._bars is not None and self._cells is not None:
            self._bars.update(self._cells, total=self._total, completed=0)

    def phase(self, name: str) -> None:
        """What is done with all cells at once, before or after they are made."""
        self._phase = name
        self._workers.clear()
        if self._bars is not None and self._cells is not None:
            self._bars.update(self._cells, description=name)
            for task in self._bars.task_ids[1:]:
                self._bars.remove_task(task)

    def worker(self, number: int) -> WorkerProgress:
        """What one of several workers is told by."""
        return self._workers.setdefault(number, WorkerProgress(self))

    def cell(self, index: int, total: int, label: str, cell: object = None) -> None:
        """Cell ``index`` (0-based) of its job's ``total`` starts."""
        self.worker(0).cell(index, total, label, cell)

    def stage(self, name: str) -> None:
        """A stage of the cell begins."""
        self.worker(0).stage(name)

    def step(self, index: int, total: int) -> None:
        """Denoising step ``index`` (0-based) of ``total`` starts."""
        self.worker(0).step(index, total)

    def cell_done(self, status: str, seconds: float | None = None) -> None:
        """The cell announced last has ended: a record's status, or ``reused``."""
        self.worker(0).cell_done(status, seconds)

    def note(self, text: str) -> None:
        """One line that stays, above the bars."""
        self._said = time.monotonic()
        self._console.print(escape(printable(text)))

    def seconds_left(self) -> float | None:
        """By the median of the variant's cells so far; None while some variant to come has none."""
        if self._left is None:
            return None
        counts = {variant: count for variant, count in self._left.items() if count > 0}
        if not all(variant in self._took for variant in counts):
            return None
        medians = {variant: statistics.median(self._took[variant]) for variant in counts}
        needed = sum(count * medians[variant] for variant, count in counts.items())
        workers = list(self._workers.values())
        needed -= sum(min(one.spent, medians.get(one.variant, 0.0)) for one in workers)
        return needed / max(1, len(workers))

    def _left_text(self) -> str:
        seconds = self.seconds_left()
        if not seconds:
            return ""
        return f"about {seconds:.0f} s left" if seconds < 100 else f"about {seconds / 60:.0f} min left"

    def _report(self) -> None:
        while not self._ended.wait(self._quiet / 20):
            if time.monotonic() - self._said >= self._quiet:
                done = self._total - self._left.total() if self._left is not None else 0
                far = [f"{done}/{self._total} cells"] if self._total else []
                doing = [one.doing for one in list(self._workers.values()) if one.doing] or [self._phase]
                self.note(", ".join(filter(None, [*far, *doing, self._left_text()])))

    def _ends(self, variant: str, seconds: float | None) -> None:
        if seconds is not None:
            self._took.setdefault(variant, []).append(seconds)
        if self._left is not None:
            self._left[variant] -= 1


class WorkerProgress:
    """One worker's part of a ``Progress``.

    ``doing``: its cell and phase, empty without one; ``variant``: the cell's.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._line: TaskID | None = None
        self._where = self._label = self.doing = self.variant = ""
        self._stage = "start"
        self._since: float | None = None

    @property
    def spent(self) -> float:
        """Seconds on the present cell, without what is done once for all of its variant."""
        return 0.0 if self._since is None else time.monotonic() - self._since

    def cell(self, index: int, total: int, label: str, cell: object = None, variant: str = "") -> None:
        if self._progress._left is None:
            self._progress.total([variant] * total)
        self._where, self._label, self.variant = f"[{index + 1}/{total}]", printable(label), variant
        self._since = None
        bars, cells = self._progress._bars, self._progress._cells
        if bars is not None and cells is not None:
            bars.update(cells, description="cells")
            if self._line is None:
                self._line = bars.add_task("", total=None)
            bars.reset(self._line, total=None)
        self.stage("start")

    def stage(self, name: str) -> None:
        self._stage = name
        if self._since is None and name not in ONCE:
            self._since = time.monotonic()
        self._show(PHASES.get(name, name))

    def step(self, index: int, total: int) -> None:
        self._show(f"{PHASES.get(self._stage, self._stage)} {index + 1}/{total}", index, total)

    def cell_done(self, status: str, seconds: float | None = None) -> None:
        made = seconds is not None and status in ("ok", "unscored")
        self._progress._ends(self.variant, self.spent if made else None)
        self._since, self.doing = None, ""
        bars, cells = self._progress._bars, self._progress._cells
        if bars is not None and cells is not None and self._line is not None:
            bars.advance(cells)
            bars.remove_task(self._line)
            self._line = None
            if status in ("ok", "reused"):
                return
        took = "" if seconds is None else f" in {seconds:.1f} s"
        self.note(f"{self._where} {self._label}: {status}{took}")

    def note(self, text: str) -> None:
        self._progress.note(text)

    def _show(self, phase: str, completed: int = 0, total: int | None = None) -> None:
        self.doing = f"{self._label}: {phase}"
        if self._progress._bars is not None and self._line is not None:
            self._progress._bars.update(
                self._line, description=escape(self.doing), completed=completed, total=total
            )


class _Count(ProgressColumn):
    """How many cells of how many; the workers' lines say it in words."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.completed:.0f}/{task.total:.0f}" if task.id == 0 and task.total else "")


class _Left(ProgressColumn):
    """The time left, of the cells' bar alone."""

    max_refresh = 0.5

    def __init__(self, text: Callable[[], str]) -> None:
        super().__init__()
        self._text = text

    def render(self, task: Task) -> Text:
        return Text(self._text() if task.id == 0 else "")
