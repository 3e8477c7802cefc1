"""``action=amf``: what attention motion flow costs as a loop, dense and windowed.

One run on one machine, on random queries and keys of the size that method, backbone and frames
ask for: seconds of the forward and the backward pass (medians), and the most memory they need
beyond their input. Each goes from queries and keys to guidance's two losses, towards a reference that
stands still, and to their gradient. Needs no weights. The loop (``harness/actions/amf_loop.py``) works as
FastVMT's release does and gives the same motion as ``window``.
"""

from __future__ import annotations

import ctypes
import gc
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from datasets.errors import InputError
from harness.cells.environment import device_model
from harness.cells.job import Job, Needs
from harness.cells.measure import process_peak, reset_process_peak
from harness.command.interface import Action, Prepared
from methods.fastvmt import FastVMT

if TYPE_CHECKING:
    from torch import Tensor


OPERATIONS = ("loop", "dense", "window")


class Size(NamedTuple):
    """Tokens of a frame are ``height`` x ``width``; ``channels`` is the width of a head."""

    frames: int
    height: int
    width: int
    channels: int
    span: int
    window: int
    tile: tuple[int, int]
    temperature: float


class Measured(NamedTuple):
    """Seconds, peak bytes beyond the input (None where unknown), and the sum of both losses."""

    operation: str
    forward: float
    backward: float
    memory: int | None
    loss: float


def size_of(job: Job) -> Size:
    """The size that the job's method, backbone and frames ask for; InputError where there is none."""
    method = job.method
    if not isinstance(method, FastVMT):
        raise InputError(f"method.name={method.name}: it has no attention motion flow; use method=fastvmt")
    grid = job.backbone.grid(job.frames)
    method.check(grid, job.backbone.num_blocks)
    if grid.height % method.tile[0] or grid.width % method.tile[1]:
        raise InputError(
            f"method.tile={list(method.tile)}: the loop of action=amf needs tiles that divide the "
            f"{grid.height}x{grid.width} token grid; set method.tile"
        )
    channels = job.backbone.attention_shape()[1]
    return Size(*grid, channels, method.span, method.window, method.tile, method.temperature)


def operation(name: str, size: Size) -> Callable[[Tensor, Tensor], Tensor]:
    """The function of one of OPERATIONS from queries and keys (F, S, C) to the sum of both losses."""
    from harness.actions.amf_loop import extract_motion_by_loop
    from methods.motion_flow.flow import amf_loss, extract_motion
    from methods.motion_flow.pairs import frame_pairs
    from methods.motion_flow.window_loss import window_loss

    options: dict[str, Any] = {"temperature": size.temperature, "span": size.span}
    options |= {"window": size.window, "tile": size.tile}

    def losses(queries: Tensor, keys: Tensor) -> Tensor:
        pairs = frame_pairs(len(queries), size.span)
        still = queries.new_zeros(len(pairs.source), size.height * size.width, 2)
        if name == "loop":
            motion = extract_motion_by_loop(queries, keys, size.height, size.width, **options)
        else:
            motion = extract_motion(
                queries[:, :, None],
                keys[:, :, None],
                size.height,
                size.width,
                extractor="dense" if name == "dense" else "window",
                reduction="head_mean",
                with_window_keys=True,
                **options,
            )
        window: Any = motion.window_keys
        total: Tensor = amf_loss(motion.displacement, still, pairs.weight) + window_loss(window, pairs)
        return total

    return losses


def measure(size: Size, repeats: int, device: str) -> list[Measured]:
    """Time all operations and watch their memory, on standard normal queries and keys of a fixed seed.

    They take turns, so that what else the machine does slows all of them alike.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    shape = (2, size.frames, size.height * size.width, size.channels)
    queries, keys = torch.randn(shape, generator=generator).to(device)
    runs = {name: operation(name, size) for name in OPERATIONS}
    memory, loss = {}, {}
    for name, run in runs.items():
        # Whatever a library sets up once is set up on the first pair.
        _once(run, queries[:2], keys[:2], device)
        peak = PeakMemory(device)
        loss[name] = _once(run, queries, keys, device)[2]
        memory[name] = peak.extra()
    turns = [{name: _once(run, queries, keys, device) for name, run in runs.items()} for _ in range(repeats)]
    return [
        Measured(
            name,
            statistics.median(turn[name][0] for turn in turns),
            statistics.median(turn[name][1] for turn in turns),
            memory[name],
            loss[name],
        )
        for name in OPERATIONS
    ]


def _once(
    run: Callable[[Tensor, Tensor], Tensor], queries: Tensor, keys: Tensor, device: str
) -> tuple[float, float, float]:
    """Seconds forward, seconds backward, and the loss."""
    inputs = [one.detach().requires_grad_() for one in (queries, keys)]
    started = _clock(device)
    loss = run(*inputs)
    middle = _clock(device)
    loss.backward()  # type: ignore[no-untyped-call]
    return middle - started, _clock(device) - middle, float(loss.detach())


def _clock(device: str) -> float:
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize(torch.device(device))
    return time.perf_counter()


class PeakMemory:
    """The most memory needed since this was made, beyond what was in use then: bytes, None where unknown.

    On a CPU it is the process' resident memory, as the kernel saw it at its largest.
    """

    def __init__(self, device: str) -> None:
        self._cuda = device.startswith("cuda")
        gc.collect()
        if self._cuda:
            import torch

            torch.cuda.reset_peak_memory_stats()
            self._before: int | None = torch.cuda.memory_allocated()
            return
        # Memory freed but kept by the C library would hide as much of what is used next.
        if platform.libc_ver()[0] == "glibc":
            ctypes.CDLL(None).malloc_trim(0)
        self._before = process_peak() if reset_process_peak() else None

    def extra(self) -> int | None:
        if self._cuda:
            import torch

            peak: int | None = torch.cuda.max_memory_allocated()
        else:
            peak = process_peak()
        return None if peak is None or self._before is None else peak - self._before


def lines(size: Size, measured: list[Measured], repeats: int, device: str) -> list[str]:
    """The table, one line for each operation, under what was measured and where."""
    import torch

    loop = measured[0]
    total = loop.forward + loop.backward
    text = [
        f"attention motion flow of {size.frames} frames of {size.height}x{size.width} tokens, "
        f"{size.channels} channels: span {size.span}, window {size.window}, "
        f"tiles {size.tile[0]}x{size.tile[1]}",
        f"{device_model(device)}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"median of {repeats}, float32",
        f"  {'operation':<10} {'forward s':>10} {'backward s':>11} {'speed-up':>9} "
        f"{'memory MiB':>11} {'of loop':>8} {'loss':>12}",
    ]
    for one in measured:
        faster = f"{total / (one.forward + one.backward):.1f}x"
        memory = "?" if one.memory is None else f"{one.memory / 2**20:.0f}"
        share = "?" if not (one.memory and loop.memory) else f"{one.memory / loop.memory:.0%}"
        text.append(
            f"  {one.operation:<10} {one.forward:>10.4f} {one.backward:>11.4f} {faster:>9} "
            f"{memory:>11} {share:>8} {one.loss:>12.6g}"
        )
    return text


def print_amf(job: Job) -> None:
    """Measure the three operations and print their table."""
    size = size_of(job)
    print("\n".join(lines(size, measure(size, job.repeats, job.device), job.repeats, job.device)))


@dataclass
class PrintAmf(Action):
    """Prints time and memory of attention motion flow as a loop, dense and windowed."""

    name: str
    needs = Needs(device=True)

    def prepare(self, job: Job) -> Prepared:
        size_of(job)
        return Prepared(job)

    def act(self, prepared: Sequence[Prepared], arguments: Sequence[str] = ()) -> int:
        for one in prepared:
            print_amf(one.job)
        return 0


__all__ = [
    "PrintAmf",
    "OPERATIONS",
    "Measured",
    "PeakMemory",
    "Size",
    "lines",
    "measure",
    "print_amf",
    "size_of",
]
