"""Fewer passes of the transformer while denoising: skipped unconditional passes, reused velocities.

Both stand outside the transformer, on velocities alone, so that they fit every backbone, are
counted pass by pass, and leave no state behind; diffusers' caching hooks work inside its blocks
instead.

* Skipped unconditional passes: the difference of conditional and unconditional velocity changes
  little between steps, so an old one serves (the guidance cache of FasterCache, arXiv:2410.19355);
  outside an interval of noise levels guidance helps little and is left out (limited interval
  guidance, arXiv:2404.07724).
* Reused velocities: where the velocity changes little no pass runs. TeaCache (arXiv:2411.19108)
  and EasyCache (arXiv:2507.02860) predict that change; ours takes EasyCache's prediction. Holding
  a velocity is a longer Euler step; carrying it on along a straight line is the two-step
  Adams-Bashforth rule, or TaylorSeer's first order (arXiv:2503.06923) on the output.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

import pydantic
from pydantic import Field

from methods.guidance.loop import SamplingRun, Velocities, Velocity, every_pass

if TYPE_CHECKING:
    from torch import Tensor

Share = Annotated[float, Field(ge=0, le=1)]


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class Unconditional:
    """When the unconditional pass of classifier-free guidance runs.

    In the first ``first`` of the steps always; from there at every ``every``-th step at which the
    conditional one runs, and the last difference of the two serves in between. ``within``: lowest
    and highest noise level (sigma) with guidance; outside, the conditional velocity stands alone.
    """

    every: Annotated[int, Field(ge=1)] = 1
    first: Share = 0.0
    within: tuple[Share, Share] = (0.0, 1.0)


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class Caching:
    """How many steps a velocity serves, between the shares ``first`` and ``last`` of the steps.

    ``threshold`` null: ``every`` steps. Else at most ``every``, and only while its predicted
    relative change stays below ``threshold``: the change of the latent since, times the change of
    velocity per change of latent between the last two computed steps, over the size of the velocity
    (mean absolute values). ``order`` 0 holds the velocity; 1 carries it on linearly in sigma
    through the last two computed.
    """

    every: Annotated[int, Field(ge=1)] = 1
    first: Share = 0.0
    last: Share = 1.0
    order: Literal[0, 1] = 1
    threshold: Annotated[float, Field(gt=0)] | None = None


def passes(unconditional: Unconditional, caching: Caching) -> Velocities:
    """The passes that the options leave; with both off, exactly those of plain sampling."""
    if unconditional.every == 1 and unconditional.within == (0.0, 1.0):
        guided: Velocities = every_pass
    else:
        guided = partial(guided_passes, unconditional)
    return guided if caching.every == 1 else partial(cached_passes, caching, guided)


def guided_passes(options: Unconditional, run: SamplingRun) -> Velocity:
    """Classifier-free guidance, cond + (scale - 1) (cond - uncond), whose difference may be an old one."""
    always = options.first * run.steps - 1e-9
    scale = run.guidance_scale
    low, high = options.within
    difference: Tensor | None = None
    served = 0

    def velocity(index: int, latent: Tensor) -> Tensor:
        nonlocal difference, served
        timestep = run.timestep(index)
        conditional = run.backbone.predict(latent, timestep, run.prompt, None, 1.0)
        if scale == 1 or not low <= run.sigma(index) <= high:
            return conditional
        if difference is None or index < always or served >= options.every:
            difference = conditional - run.backbone.predict(latent, timestep, run.negative, None, 1.0)
            served = 0
        served += 1
        return conditional + (scale - 1) * difference

    return velocity


def cached_passes(options: Caching, computed: Velocities, run: SamplingRun) -> Velocity:
    """The velocities of ``computed`` where ``options`` asks for them, those reused elsewhere."""
    compute = computed(run)
    sigmas = run.schedule.sigmas.tolist()
    known: list[tuple[int, Tensor, Tensor]] = []  # step, latent, velocity of the last two computed
    served = 0

    def serves(index: int, latent: Tensor) -> bool:
        inside = options.first * run.steps - 1e-9 <= index < options.last * run.steps - 1e-9
        if not inside or not known or served >= options.every:
            return False
        if options.threshold is None:
            return True
        return len(known) == 2 and predicted_change(known[0][1:], known[1][1:], latent) < options.threshold

    def velocity(index: int, latent: Tensor) -> Tensor:
        nonlocal served
        if serves(index, latent):
            served += 1
            if options.order == 0 or len(known) < 2:
                return known[-1][2]
            (before, _, earlier), (last, _, later) = known
            ahead: float = (sigmas[index] - sigmas[last]) / (sigmas[last] - sigmas[before])
            return later + ahead * (later - earlier)
        found = compute(index, latent)
        known[:] = [*known[-1:], (index, latent, found)]
        served = 1
        return found

    return velocity


def predicted_change(earlier: tuple[Tensor, Tensor], later: tuple[Tensor, Tensor], latent: Tensor) -> float:
    """Relative change of the velocity at ``latent`` since ``later``, from two (latent, velocity) pairs."""

    def size(values: Tensor) -> float:
        return float(values.abs().mean())

    moved = size(later[0] - earlier[0])
    if moved == 0:
        return float("inf")
    rate = size(later[1] - earlier[1]) / moved
    return rate * size(latent - later[0]) / max(size(later[1]), 1e-12)


__all__ = ["Caching", "Unconditional", "passes"]
