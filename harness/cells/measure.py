"""Timing and watching one cell: stages, memory, energy, calls, warm-up, repeats."""

from __future__ import annotations

import hashlib
import json
import random
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from harness.records.record import Memory, Timing
from methods.interface import Observer

if TYPE_CHECKING:
    from torch import Tensor

    from methods.backbones.interface import Backbone
    from methods.interface import LatentMethod

Value = TypeVar("Value")
TraceRow = dict[str, float | int | str | bool]


class StopWarmup(BaseException):
    """Ends a warm-up after its denoising steps. No ``Exception``, so that no method swallows it."""


def cell_seed(clip: str, prompt: str, seed: int) -> int:
    """A 63-bit seed from (clip, prompt, seed), the same on every machine and for every method."""
    digest = hashlib.sha256(json.dumps([clip, prompt, seed]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def initial_noise(clip: str, prompt: str, seed: int, shape: Sequence[int]) -> Tensor:
    """Standard normal noise of ``shape``, float32, CPU, keyed by (clip, prompt, seed).

    All methods start from it, so that they differ only in what they do with it.
    """
    import torch

    generator = torch.Generator("cpu").manual_seed(cell_seed(clip, prompt, seed))
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float32)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds every global generator (Python, NumPy, torch) and restores its state afterwards.

    A cell's result must not depend on which cells ran before it in this process,
    else a run that was killed and started again would end differently.
    """
    import torch

    python_state, numpy_state = random.getstate(), np.random.get_state()
    # A run on the CPU shall not start CUDA just to save its generators.
    started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = range(torch.cuda.device_count()) if started else ()
    try:
        with torch.random.fork_rng(devices):
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def reset_process_peak() -> bool:
    """Lower VmHWM to the present resident size; False where the kernel does not allow it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def process_peak() -> int | None:
    """Peak resident bytes of this process since the last reset (VmHWM), None where unknown."""
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found.group(1)) * 1024 if found else None


def gpu_energy(device: str) -> float | None:
    """Joules the GPU has used since its driver was loaded (NVML), None where it cannot be had.

    Needs CUDA, the optional nvidia-ml-py, and a GPU with the counter (Volta or later).
    """
    if not device.startswith("cuda"):
        return None
    try:
        import pynvml
        import torch

        # By UUID: NVML's numbering ignores CUDA_VISIBLE_DEVICES.
        uuid = str(torch.cuda.get_device_properties(torch.device(device)).uuid)
        pynvml.nvmlInit()
        try:
            handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid.removeprefix('GPU-')}")
            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000
        finally:
            pynvml.nvmlShutdown()
    except Exception:
        return None


def _larger(a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else max(a, b)


@dataclass
class Shared:
    """What the cells of one clip share: values that depend on the reference alone, each computed once.

    ``seconds`` by stage and ``calls`` of the backbone are what that took; they are nobody's share.
    """

    values: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)


class Meter(Observer):
    """Times stages, keeps each stage's peak memory and the trace, and moves the step bar.

    ``stages``: seconds by stage, summed over its entries. ``memory``: peaks by
    stage; ``allocated`` and ``reserved`` are torch's CUDA counters (None on a
    CPU), ``process`` is VmHWM (None where it cannot be reset). With
    ``stop_after`` it raises StopWarmup when that many steps have run. With
    ``shared`` what depends on the reference alone is computed once; its time
    (``apart``, seconds) and its calls, taken out of ``calls``, are not this cell's.
    """

    def __init__(
        self,
        device: str = "cpu",
        on_step: Callable[[int, int], None] | None = None,
        stop_after: int | None = None,
        shared: Shared | None = None,
        calls: Counter[str] | None = None,
        on_stage: Callable[[str], None] | None = None,
    ) -> None:
        self.apart = 0.0
        self._on_stage = on_stage
        self._shared = shared
        self._calls: Counter[str] = Counter() if calls is None else calls
        self.stages: dict[str, float] = {}
        self.memory: dict[str, Memory] = {}
        self.rows: list[TraceRow] = []
        self._device = device
        self._cuda = device.startswith("cuda")
        self._on_step = on_step
        self._steps_left = stop_after
        self._inside: str | None = None

    def clock(self) -> float:
        """Seconds now, once all work queued on the device is done."""
        if self._cuda:
            import torch

            torch.cuda.synchronize(torch.device(self._device))
        return time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what happens inside; RuntimeError when stages are nested."""
        if self._inside is not None:
            raise RuntimeError(f"stage {name!r} starts inside stage {self._inside!r}: stages do not nest")
        self._inside = name
        if self._on_stage is not None:
            self._on_stage(name)
        resettable = self._reset_peaks()
        started, apart = self.clock(), self.apart
        try:
            yield
        finally:
            self._inside = None
            spent = self.clock() - started - (self.apart - apart)
            self.stages[name] = self.stages.get(name, 0.0) + spent
            self._keep_peaks(name, resettable)

    def step(self, index: int, total: int) -> None:
        # Counted here: a method that starts from a noised reference begins at a later index.
        if self._steps_left is not None:
            if self._steps_left <= 0:
                raise StopWarmup
            self._steps_left -= 1
        if self._on_step is not None:
            self._on_step(index, total)

    def shared(self, name: str, compute: Callable[[], Value]) -> Value:
        if self._shared is None:
            return compute()
        if name not in self._shared.values:
            started, before = self.clock(), Counter(self._calls)
            self._shared.values[name] = compute()
            seconds, stage = self.clock() - started, self._inside or "other"
            self.apart += seconds
            self._shared.seconds[stage] = self._shared.seconds.get(stage, 0.0) + seconds
            self._shared.calls += self._calls - before
            self._calls.clear()
            self._calls.update(before)
        return cast("Value", self._shared.values[name])

    def trace(self, **values: float | int | str | bool) -> None:
        self.rows.append(dict(values))

    def _reset_peaks(self) -> bool:
        if self._cuda:
            import torch

            torch.cuda.reset_peak_memory_stats(torch.device(self._device))
        return reset_process_peak()

    def _keep_peaks(self, name: str, resettable: bool) -> None:
        peak = Memory(process=process_peak() if resettable else None)
        if self._cuda:
            import torch

            device = torch.device(self._device)
            peak.allocated = int(torch.cuda.max_memory_allocated(device))
            peak.reserved = int(torch.cuda.max_memory_reserved(device))
        self.memory[name] = merge(self.memory.get(name, Memory()), peak)


def merge(a: Memory, b: Memory) -> Memory:
    """The larger of two peaks, field by field; None counts as unknown."""
    return Memory(
        allocated=_larger(a.allocated, b.allocated),
        reserved=_larger(a.reserved, b.reserved),
        process=_larger(a.process, b.process),
    )


@dataclass
class Measured:
    """A generated video and what it cost. ``frames``: (T, H, W, 3) uint8 RGB of the first run."""

    frames: NDArray[np.uint8]
    timing: Timing
    memory: dict[str, Memory] = field(default_factory=dict)
    energy: float | None = None
    calls: dict[str, int] = field(default_factory=dict)
    trace: list[TraceRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def _require_finite(latent: Tensor, what: str) -> None:
    import torch

    if not bool(torch.isfinite(latent).all()):
        raise FloatingPointError(f"{what} holds NaN or infinite values")


def generate(
    backbone: Backbone,
    method: LatentMethod,
    reference: NDArray[np.uint8],
    clip: str,
    prompt: str,
    seed: int,
    meter: Meter,
) -> NDArray[np.uint8]:
    """Reference frames in RAM to generated frames in RAM: encode, transfer, decode.

    Where ``meter`` ends a warm-up, what is decoded is the reference. Raises FloatingPointError when a latent
    is not finite, ValueError when the decoded frames do not fit the reference.
    """
    with meter.stage("encode"):
        clean = meter.shared("latent", lambda: backbone.encode(reference))
    _require_finite(clean, "the reference's latent")
    noise = initial_noise(clip, prompt, seed, clean.shape).to(clean.device)
    try:
        latent = method.transfer(backbone, clean, prompt, noise, meter)
    except StopWarmup:
        latent = clean
    _require_finite(latent, "the generated latent")
    with meter.stage("decode"):
        frames = backbone.decode(latent)
    if frames.dtype != np.uint8 or frames.shape != reference.shape:
        raise ValueError(
            f"decoded frames are {frames.dtype} {frames.shape}, the reference is uint8 {reference.shape}"
        )
    return frames


def warm_up(
    backbone: Backbone,
    method: LatentMethod,
    reference: NDArray[np.uint8],
    clip: str,
    prompt: str,
    seed: int,
    device: str,
    steps: int,
) -> None:
    """Encode, ``steps`` denoising steps of the method, decode: no timing shall pay for first calls."""
    meter = Meter(device, stop_after=steps)
    with seeded(cell_seed(clip, prompt, seed)):
        generate(backbone, method, reference, clip, prompt, seed, meter)


def measure(
    backbone: Backbone,
    method: LatentMethod,
    reference: NDArray[np.uint8],
    clip: str,
    prompt: str,
    seed: int,
    *,
    device: str = "cpu",
    repeats: int = 1,
    on_step: Callable[[int, int], None] | None = None,
    on_stage: Callable[[str], None] | None = None,
    shared: Shared | None = None,
) -> Measured:
    """Generate one video ``repeats`` times and report medians.

    With ``shared`` the reference's latent and features are taken from there, or
    put there; what they cost is in no stage, no total and no call of the cell.

    ``total`` runs from the reference's frames in RAM to uint8 frames in RAM. The
    calls and the trace are the first run's, a peak is the highest of all runs.
    Raises FloatingPointError when a latent is not finite, ValueError when the
    decoded frames do not fit the reference; whatever else the method raises.
    """
    values: list[dict[str, float]] = []
    energies: list[float | None] = []
    memory: dict[str, Memory] = {}
    first: Measured | None = None
    different = 0
    for _ in range(repeats):
        backbone.calls.clear()
        meter = Meter(device, on_step, shared=shared, calls=backbone.calls, on_stage=on_stage)
        with seeded(cell_seed(clip, prompt, seed)):
            joules = gpu_energy(device)
            started = meter.clock()
            frames = generate(backbone, method, reference, clip, prompt, seed, meter)
            total = meter.clock() - started - meter.apart
            after = gpu_energy(device)
        # Of the energy nobody can say which part was spent on what is shared.
        unknown = joules is None or after is None or meter.apart
        energies.append(None if unknown else cast("float", after) - cast("float", joules))
        values.append({**meter.stages, "total": total})
        for name, peak in meter.memory.items():
            memory[name] = merge(memory.get(name, Memory()), peak)
        if first is None:
            calls = {name: int(count) for name, count in backbone.calls.items()}
            first = Measured(frames, Timing(), calls=calls, trace=meter.rows)
        elif not np.array_equal(first.frames, frames):
            different += 1
    if first is None:
        raise ValueError("measure.repeats must be at least 1")
    if different:
        first.notes.append(f"{different} of {repeats - 1} repeats gave other frames than the first run")
    first.timing = _timing(values)
    first.memory = memory
    if shared is not None:
        first.timing.amortised = dict(shared.seconds)
    measured = [value for value in energies if value is not None]
    first.energy = statistics.median(measured) if len(measured) == repeats else None
    return first


def _timing(values: list[dict[str, float]]) -> Timing:
    stages = {name: statistics.median([run.get(name, 0.0) for run in values]) for name in values[0]}
    total = stages.pop("total")
    return Timing(stages=stages, total=total, repeats=len(values), values=values)
