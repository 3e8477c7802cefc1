"""DiTFlow by its rotary tables: the loss of ``methods/ditflow.py``, the latent left alone.

Paper and code as there; ``guidance_step`` with ``mode="rope"`` of ditflow/ditflow:motion_guidance.py.
As theirs: tables (cos and sin) for queries and tables for keys, the same for all blocks, are
optimised from the backbone's own by Adam at each guided step, carried from one to the next, and
dropped after the last; the tables of each step serve a new prompt without optimisation.

Where this differs, beside what ``methods/ditflow.py`` lists:

* Reuse is an option, not a folder that a former run left. With ``tables: shared`` they are optimised
  along a sampling of ``source_prompt`` from a fixed noise, so that they depend on the reference and
  the options alone, in whatever order cells run. They are taken through ``Observer.shared``: with
  ``measure.amortise=true`` once a clip, and its further prompts pay for sampling only.
* Where theirs, on CogVideoX-2B, optimises additive position embeddings, there are no tables: bad input.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

import pydantic

from methods.backbones.interface import Rotary
from methods.ditflow import DiTFlow
from methods.guidance.loop import Hook, SamplingRun, every_pass, fixed_noise
from methods.guidance.rotary_guidance import descend
from methods.interface import Observer

if TYPE_CHECKING:
    from torch import Tensor

# For queries and for keys.
Tables: TypeAlias = tuple[Rotary, Rotary]


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class DiTFlowRope(DiTFlow, kind="ditflow_rope"):
    """DiTFlow with optimised rotary tables; ``conf/method/ditflow_rope.yaml`` says what each key is."""

    tables: Literal["own", "shared"]
    source_prompt: str

    version: ClassVar[str] = "2"
    needs: ClassVar[Sequence[str]] = ("rotary",)

    def hook(self) -> Hook:
        return RotaryGuidance(self)

    def read(self, run: SamplingRun, empty: Tensor) -> Tensor:
        """The reference's displacements, from its clean latent at timestep 0 with the empty prompt."""
        import torch

        at_zero = torch.zeros_like(run.timestep(0))
        return self.extract(run.backbone, run.reference, at_zero, empty, grad=False)

    def improved(
        self, run: SamplingRun, index: int, latent: Tensor, signal: Tensor, tables: Tables | None
    ) -> Tables:
        """Tables after the inner iterations of a guided step, from ``tables`` or the backbone's own."""
        import torch

        if tables is None:
            own = run.backbone.rotary(latent)
            tables = (own, own)
        flat = [table.detach().float().clone().requires_grad_() for pair in tables for table in pair]
        query, key = (flat[0], flat[1]), (flat[2], flat[3])

        def losses() -> dict[str, Tensor]:
            generated = self.extract(run.backbone, latent, run.timestep(index), run.prompt, grad=True)
            return self.losses(generated, signal)

        adam = torch.optim.AdamW(flat, weight_decay=self.optimiser.weight_decay)
        rotated = partial(run.backbone.rotated, query, key)
        descend(run, index, self.optimiser, adam, flat, rotated, losses)
        return (query[0].detach(), query[1].detach()), (key[0].detach(), key[1].detach())

    def optimised(self, run: SamplingRun) -> list[Tables]:
        """Tables of every guided step, on the CPU, optimised along a sampling of ``source_prompt``.

        It starts from a fixed noise and ends with the last guided step. Nothing is differentiated
        but the tables; the observer gets rows of the trace, no stage and no step.
        """
        backbone = run.backbone
        latent = noise = fixed_noise(run.reference)
        if self.start.strength is not None:
            latent = backbone.add_noise(run.reference, noise, run.sigma(0))
        prompt, negative, empty = backbone.embed([self.source_prompt, self.negative_prompt, ""]).chunk(3)
        source = replace(
            run, observer=TraceOnly(run.observer), noise=noise, start=latent, prompt=prompt, negative=negative
        )
        signal, velocity = self.read(source, empty), every_pass(source)
        kept: list[Tables] = []
        tables: Tables | None = None
        for index in range(self.optimiser.guided_steps(self.steps)):
            with self.injected(source, index):
                tables = self.improved(source, index, latent, signal, tables)
                with backbone.rotated(*tables):
                    latent = backbone.step(latent, velocity(index, latent), source.schedule, index)
            (a, b), (c, d) = tables
            kept.append(((a.cpu(), b.cpu()), (c.cpu(), d.cpu())))
        return kept


class RotaryGuidance(Hook):
    """Guided steps run with optimised tables, and with the reference's keys and values."""

    def __init__(self, method: DiTFlowRope) -> None:
        self._method = method
        self._signal: Tensor
        self._tables: Tables | None = None
        self._shared: list[Tables]

    def guided_steps(self, steps: int) -> int:
        return self._method.optimiser.guided_steps(steps)

    def begin(self, run: SamplingRun) -> None:
        """Optimises the tables of all steps where they are shared; else reads the reference."""
        if self._method.tables == "shared":
            with run.observer.stage("guide"):
                self._shared = run.observer.shared("tables", partial(self._method.optimised, run))
            return
        empty = run.embed_empty()
        with run.observer.stage("extract"):
            self._signal = run.observer.shared("reference", partial(self._method.read, run, empty))

    @contextmanager
    def around(self, run: SamplingRun, index: int, latent: Tensor) -> Iterator[None]:
        with self._method.injected(run, index):
            if self._method.tables == "shared":
                tables = self._shared[index]
            else:
                with run.observer.stage("guide"):
                    tables = self._method.improved(run, index, latent, self._signal, self._tables)
                self._tables = tables
            with run.backbone.rotated(*tables):
                yield


class TraceOnly(Observer):
    """Passes on the rows of the trace, and nothing else."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def trace(self, **values: float | int | str | bool) -> None:
        self._observer.trace(**values)


__all__ = ["DiTFlowRope"]
