"""Progress: bars on a terminal, lines in a log."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from harness.cells.progress import Progress


def console(stream: io.StringIO, terminal: bool) -> Console:
    return Console(file=stream, force_terminal=terminal, width=120, soft_wrap=True, highlight=False)


def shown(terminal: bool) -> str:
    stream = io.StringIO()
    with Progress(console(stream, terminal)) as progress:
        for index, status in enumerate(("ok", "failed", "reused")):
            progress.cell(index, 3, f"fastvmt clip[{index}]")
            progress.stage("generate")
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


@pytest.mark.parametrize("terminal", [False, True])
def test_the_phase_of_each_worker_is_named(terminal: bool) -> None:
    stream = io.StringIO()
    with Progress(console(stream, terminal), quiet=0.02) as progress:
        progress.total(["0", "1"])
        time.sleep(0.2)
        for number, label in enumerate(("none x", "fastvmt x")):
            progress.worker(number).cell(0, 1, label, variant=str(number))
        for stage, phase in (("load", "loading weights"), ("score", "scoring")):
            progress.worker(1).stage(stage)
            time.sleep(0.2)
            assert f"fastvmt x: {phase}" in stream.getvalue()
        progress.worker(0).stage("generate")
        progress.worker(0).step(8, 10)
        time.sleep(0.2)
        assert "none x: denoising 9/10" in stream.getvalue()
        for number in (0, 1):
            progress.worker(number).cell_done("ok", 1.0)
        progress.phase("measuring levels")
        time.sleep(0.2)
    text = stream.getvalue()
    assert "starting" in text and "measuring levels" in text and "2/2" in text


def test_a_log_that_says_enough_gets_no_further_lines() -> None:
    stream = io.StringIO()
    with Progress(console(stream, False), quiet=60) as progress:
        progress.cell(0, 1, "fastvmt x")
        time.sleep(0.1)
    assert stream.getvalue() == ""


def test_the_time_left_is_that_of_cells_of_the_same_variant_and_of_no_other() -> None:
    with Progress(console(io.StringIO(), False)) as progress:
        progress.total(["none"] * 2 + ["fastvmt"] * 3)
        assert progress.seconds_left() is None
        made(progress, "none", 0.05)
        assert progress.seconds_left() is None, "no cell of fastvmt has ended"
        made(progress, "fastvmt", 0.2, loading=0.5)
        left = progress.seconds_left()
        assert left is not None and 0.45 <= left < 0.75, "none once, fastvmt twice, loading not at all"
        made(progress, "none", 0.05)
        made(progress, "fastvmt", 0.2)
        progress.worker(0).cell(4, 5, "fastvmt x", variant="fastvmt")
        before = progress.seconds_left()
        progress.worker(0).stage("generate")
        time.sleep(0.1)
        after = progress.seconds_left()
        assert before is not None and after is not None and 0 < after <= before - 0.1


def test_several_workers_share_the_time_left() -> None:
    with Progress(console(io.StringIO(), False)) as progress:
        progress.total(["none"] * 10)
        made(progress, "none", 0.1)
        alone = progress.seconds_left()
        progress.worker(1).cell(1, 10, "none y", variant="none")
        both = progress.seconds_left()
        assert alone is not None and both == pytest.approx(alone / 2)


def made(progress: Progress, variant: str, seconds: float, loading: float = 0.0) -> None:
    worker = progress.worker(0)
    worker.cell(0, 1, f"{variant} x", variant=variant)
    worker.stage("load")
    time.sleep(loading)
    worker.stage("generate")
    time.sleep(seconds)
    worker.cell_done("ok", loading + seconds)
