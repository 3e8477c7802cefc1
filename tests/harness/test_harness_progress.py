"""Progress: bars on a terminal, lines in a log."""

from __future__ import annotations

import io

from rich.console import Console

from harness.cells.progress import Progress


def shown(terminal: bool) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=120, soft_wrap=True, highlight=False)
    with Progress(console) as progress:
        for index, status in enumerate(("ok", "failed", "reused")):
            progress.cell(index, 3, f"fastvmt clip[{index}]")
            progress.step(0, 2)
            progress.step(1, 2)
            progress.cell_done(status, None if status == "reused" else 1.25)
        progress.note("a line [with brackets]")
    return stream.getvalue()


def test_a_log_gets_one_line_a_cell() -> None:
    assert shown(terminal=False).splitlines() == [
        "[1/3] fastvmt clip[0]: ok in 1.2 s",
        "[2/3] fastvmt clip[1]: failed in 1.2 s",
        "[3/3] fastvmt clip[2]: reused",
        "a line [with brackets]",
    ]


def test_a_terminal_gets_bars_and_keeps_only_failures_and_notes() -> None:
    text = shown(terminal=True)
    assert "3/3" in text and "denoising" not in text.splitlines()[-1]
    assert "[2/3] fastvmt clip[1]: failed in 1.2 s" in text
    assert "clip[0]: ok" not in text
    assert "a line [with brackets]" in text
