"""The video of one cell: made on the backbone, or without it, and brought to the reference's size."""

from __future__ import annotations

import gc
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from datasets.errors import InputError
from harness.cells import environment, measure
from harness.cells.beside import brought_beside
from harness.cost.meta import with_checkpoint
from harness.cost.model import cell_flops
from harness.records import store
from harness.records.record import COMPILED, CUT, RECOMPUTED, Flops, Record, Timing
from methods.interface import LatentMethod, VideoMethod, VideoRequest

if TYPE_CHECKING:
    from datasets.interface import Clip
    from harness.cells.job import Job
    from harness.cells.plan import Cell
    from harness.cells.run import Shows
    from harness.records.runs import Run
    from methods.backbones.interface import Backbone


@dataclass
class Loaded:
    """The loaded backbone, kept from job to job as long as they want the same one.

    ``seconds`` is what loading it took; ``error`` why that failed.
    """

    backbone: Backbone | None = None
    seconds: float | None = None
    error: Exception | None = None
    key: str | None = None

    def get(self, job: Job, weights: Any) -> Backbone:
        """The job's backbone, loaded when a cell first needs it, after the one before was released.

        ``weights`` is their identity. A load that failed is not tried again for every cell.
        """
        key = json.dumps([job.node("backbone"), job.device, weights], sort_keys=True)
        if key != self.key:
            self.backbone = self.seconds = self.error = None
            self.key = key
            free_memory(job.device)
        if self.error is not None:
            raise self.error
        if self.backbone is None:
            started = time.perf_counter()
            try:
                self.backbone = job.backbone.load(job.device)
            except InputError:
                raise
            except Exception as error:
                self.error = error
                raise
            self.seconds = time.perf_counter() - started
        return self.backbone


@dataclass
class Session:
    """What one job's cells share in one process. ``scorer``: another process scores
    their videos. ``check`` raises Lost when the present cell is another's."""

    job: Job
    progress: Shows
    load_clip: Callable[[str], Clip]
    loaded: Loaded
    run: Run
    scorer: bool = False
    check: Callable[[], None] = lambda: None
    surroundings: dict[str, Any] | None = None
    warmed: set[tuple[int, ...]] = field(default_factory=set)
    shared: tuple[str, measure.Shared] | None = None

    def of_clip(self, name: str) -> measure.Shared | None:
        """What the cells of this clip share; the clip before is forgotten. None unless asked for."""
        if not self.job.amortise:
            return None
        if self.shared is None or self.shared[0] != name:
            self.shared = (name, measure.Shared())
        return self.shared[1]

    def environment(self) -> dict[str, Any]:
        """What the records say of this machine."""
        if self.surroundings is None:
            self.surroundings = environment.describe(self.job.device)
            if not self.job.method.made_here:
                # Finished videos were made elsewhere, on a device nobody told us.
                self.surroundings["device"] = None
            self.surroundings["scoring"] = "beside" if self.scorer else "after"
            if self.job.workers > 1:
                # Other workers shared this one's processor: its times are not those of a machine of its own.
                self.surroundings["workers"] = self.job.workers
        return dict(self.surroundings)


def from_backbone(
    session: Session, method: LatentMethod, cell: Cell, clip: Clip, record: Record
) -> tuple[NDArray[np.uint8], list[measure.TraceRow]]:
    """A video that the method makes on the backbone, and its trace; what it cost goes into the record."""
    job = session.job
    session.progress.stage("load")
    backbone = session.loaded.get(job, cell.identity["backbone"]["weights"])
    words = (cell.clip.name, cell.prompt.text, cell.seed)
    record.timing = Timing(load=session.loaded.seconds, warmup_steps=job.warmup_steps, repeats=job.repeats)
    if job.warmup_steps > 0 and clip.frames.shape not in session.warmed:
        session.progress.stage("warm-up")
        measure.warm_up(backbone, method, clip.frames, *words, device=job.device, steps=job.warmup_steps)
        session.warmed.add(clip.frames.shape)
    session.progress.stage("generate")
    measured = measure.measure(
        backbone,
        method,
        clip.frames,
        *words,
        device=job.device,
        repeats=job.repeats,
        on_step=session.progress.step,
        on_stage=_phases(session.progress.stage),
        shared=session.of_clip(cell.clip.name),
    )
    record.timing = measured.timing.model_copy(
        update={"load": session.loaded.seconds, "warmup_steps": job.warmup_steps}
    )
    record.memory, record.energy, record.calls = measured.memory, measured.energy, measured.calls
    record.notes.extend(measured.notes)
    config = job.backbone
    tokens = backbone.prompt_tokens(cell.prompt.text)
    if tokens is not None and tokens > config.max_tokens:
        record.notes.append(f"{CUT}{tokens} tokens, the backbone reads {config.max_tokens}")
    record.generated, record.sampler = record.reference, config.sampler or None
    if backbone.recomputed and config.checkpoint == "auto":
        config = with_checkpoint(config, True)
        record.notes.append(RECOMPUTED)
    if backbone.compiled:
        record.notes.append(COMPILED)
    record.flops = cell_flops(config, method, len(clip.frames), measured.calls, encoded=not job.amortise)
    return measured.frames, measured.trace


def _phases(tell: Callable[[str], None]) -> Callable[[str], None]:
    """Told of a method's stages, it tells of the phases; those of a denoising step are one, ``generate``."""
    last = "generate"

    def stage(name: str) -> None:
        nonlocal last
        phase = name if name in ("encode", "train", "decode") else "generate"
        if phase != last:
            tell(phase)
        last = phase

    return stage


def from_pixels(job: Job, method: VideoMethod, cell: Cell, clip: Clip, record: Record) -> NDArray[np.uint8]:
    """A video made without the backbone, brought beside its reference.

    Its time is that of the whole program, or what a finished video is said to have taken.
    """
    request = VideoRequest(
        clip=cell.clip.name,
        reference=clip.frames,
        fps=clip.info.fps,
        caption=clip.info.caption,
        prompt=cell.prompt.text,
        seed=cell.seed,
        device=job.device,
        folder=(job.results / cell.path / store.PROGRAM).absolute(),
        times=clip.times,
    )
    repeats = job.repeats if method.made_here else 1
    frames, seconds = method.video(request)
    timed, different = [seconds], 0
    for _ in range(repeats - 1):
        again, seconds = method.video(request)
        timed.append(seconds)
        different += not np.array_equal(frames, again)
    known = [seconds for seconds in timed if seconds is not None]
    # The time of some runs is not that of all.
    total = statistics.median(known) if len(known) == repeats else None
    record.timing = Timing(total=total)
    record.flops = Flops(reason=method.uncounted)
    if method.made_here:
        values = [{"total": seconds} for seconds in known]
        record.timing = Timing(total=total, repeats=repeats, values=values)
        record.notes.append(
            "the time is the whole program's: its start and the loading of its weights are in it"
        )
        if different:
            record.notes.append(f"{different} of {repeats - 1} repeats gave other frames than the first run")
    return brought_beside(frames, method.times(request), clip, record)


def free_memory(device: str) -> None:
    """Give back what a failed cell held, else the next one runs out of memory too."""
    gc.collect()
    if device.startswith("cuda"):
        import torch

        torch.cuda.empty_cache()


__all__ = ["Loaded", "Session", "free_memory", "from_backbone", "from_pixels"]
