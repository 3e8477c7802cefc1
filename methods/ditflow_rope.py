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
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

import pydantic

from methods.backbones.interface import Backbone, Rotary
from methods.ditflow import DiTFlow
from methods.guidance.loop import Moment, compressed_schedule, fixed_noise, sample
from methods.guidance.rotary_guidance import descend
from methods.interface import Observer

if TYPE_CHECKING:
    from torch import Tensor

# For queries and for keys.
Tables: TypeAlias = tuple[Rotary, Rotary]


@pydantic.dataclasses.dataclass(config={"extra": "forbid"}, kw_only=True)
class DiTFlowRope(DiTFlow, kind="ditflow_rope"):
    """DiTFlow with optimised rotary tables; ``conf/method/ditflow_rope.yaml`` says what each key is."""

    tables: Literal["own", "shared"]
    source_prompt: str

    version: ClassVar[str] = "1"
    needs: ClassVar[Sequence[str]] = ("rotary",)

    def transfer(
        self, backbone: Backbone, reference: Tensor, prompt: str, noise: Tensor, observer: Observer
    ) -> Tensor:
        """From the reference's clean latent and noise, (1, C, F, h, w) each, to the final latent."""
        import torch

        guided = self.optimiser.guided_steps(self.steps)
        reference = reference.float()
        kept: list[Tables] = []
        if self.tables == "shared" and guided:
            with observer.stage("guide"):
                kept = observer.shared("tables", partial(self.optimised, backbone, reference, observer))
        signal: Tensor | None = None
        tables: Tables | None = None

        @contextmanager
        def around(moment: Moment) -> Iterator[None]:
            nonlocal signal, tables
            if moment.index >= guided:
                yield
                return
            if self.tables == "own" and signal is None:
                empty = moment.negative
                if self.negative_prompt:
                    with observer.stage("text"):
                        empty = backbone.embed([""])
                with observer.stage("extract"):
                    at_zero = torch.zeros_like(moment.timestep)
                    extract = partial(self.extract, backbone, reference, at_zero, empty, grad=False)
                    signal = observer.shared("reference", extract)
            with self.injected(backbone, reference, noise, moment, observer):
                if self.tables == "shared":
                    tables = kept[moment.index]
                else:
                    with observer.stage("guide"):
                        tables = self.improved(backbone, moment, signal, tables, observer)
                with backbone.rotated(*tables):
                    yield

        return sample(backbone, reference, prompt, noise, observer, self.sampling(), around=around)

    def improved(
        self,
        backbone: Backbone,
        moment: Moment,
        signal: Tensor,
        tables: Tables | None,
        observer: Observer,
    ) -> Tables:
        """Tables after the inner iterations of a guided step, from ``tables`` or the backbone's own."""
        import torch

        if tables is None:
            own = backbone.rotary(moment.latent)
            tables = (own, own)
        flat = [table.detach().float().clone().requires_grad_() for pair in tables for table in pair]
        query, key = (flat[0], flat[1]), (flat[2], flat[3])

        def losses() -> dict[str, Tensor]:
            generated = self.extract(backbone, moment.latent, moment.timestep, moment.prompt, grad=True)
            return self.losses(generated, signal)

        options = self.optimiser
        adam = torch.optim.AdamW(flat, weight_decay=options.weight_decay)
        held = partial(backbone.rotated, query, key)
        descend(adam, flat, held, losses, options, moment.index, self.steps, observer)
        return (query[0].detach(), query[1].detach()), (key[0].detach(), key[1].detach())

    def optimised(self, backbone: Backbone, reference: Tensor, observer: Observer) -> list[Tables]:
        """Tables of every guided step, on the CPU, optimised along a sampling of ``source_prompt``.

        It starts from a fixed noise and ends with the last guided step. Nothing is differentiated
        but the tables; ``observer`` gets rows of the trace, no stage and no step.
        """
        import torch

        found: list[Tables] = []
        tables: Tables | None = None
        schedule = compressed_schedule(backbone, self.steps, self.start.strength)
        latent = noise = fixed_noise(reference)
        with torch.no_grad():
            if self.start.strength is not None:
                latent = backbone.add_noise(reference, noise, float(schedule.sigmas[0]))
            prompt, negative, empty = backbone.embed([self.source_prompt, self.negative_prompt, ""]).split(1)
            at_zero = torch.zeros_like(schedule.timesteps[0])
            signal = self.extract(backbone, reference, at_zero, empty, grad=False)
            for index in range(self.optimiser.guided_steps(self.steps)):
                timestep, sigma = schedule.timesteps[index], float(schedule.sigmas[index])
                moment = Moment(index, timestep, sigma, latent, prompt, negative)
                with self.injected(backbone, reference, noise, moment, Observer()):
                    tables = self.improved(backbone, moment, signal, tables, observer)
                    with backbone.rotated(*tables):
                        velocity = backbone.predict(latent, timestep, prompt, negative, self.guidance_scale)
                latent = backbone.step(latent, velocity, schedule, index)
                (a, b), (c, d) = tables
                found.append(((a.cpu(), b.cpu()), (c.cpu(), d.cpu())))
        return found


__all__ = ["DiTFlowRope"]
