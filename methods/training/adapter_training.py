"""What the tuning-based methods share: training an adapter on the reference clip, and sampling with it.

Training sees the reference and the method's options alone, so the adapter is one of the things a clip's
cells share (``Observer.shared``). The prompt is the empty one: a method is given the target prompt, not
what the reference shows, and training on the target prompt would bind it to the reference's appearance.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated, NamedTuple

import pydantic
from pydantic import Field

from methods.backbones.interface import Adapter, Backbone, Grid
from methods.guidance.loop import SampledMethod
from methods.interface import Observer, check_frames

if TYPE_CHECKING:
    import torch
    from torch import Generator, Tensor

# Noise levels are drawn from the backbone's own schedule of this many steps.
LEVELS = 1000


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class Training:
    """AdamW at a constant ``learning_rate`` over ``steps`` noise levels of the one clip.

    ``clip_norm``: gradients longer than this are shortened to it. ``seed`` fixes everything that is drawn.
    """

    steps: Annotated[int, Field(ge=0)]
    learning_rate: Annotated[float, Field(ge=0)]
    weight_decay: Annotated[float, Field(ge=0)]
    beta2: Annotated[float, Field(gt=0, lt=1)]
    clip_norm: Annotated[float, Field(gt=0)] | None
    seed: Annotated[int, Field(ge=0)]


class Example(NamedTuple):
    """One training step: the clip noised, (1, C, F, h, w), and the velocity to predict from it.

    ``choices`` is for what else a step draws: apart from the noise, so that it is the same for all sizes of
    latents.
    """

    step: int
    noisy: Tensor
    velocity: Tensor
    sigma: float
    timestep: Tensor
    choices: Generator


def examples(backbone: Backbone, clean: Tensor, training: Training, observer: Observer) -> Iterator[Example]:
    """The steps of a training: noise levels uniform over the backbone's schedule, with its shift."""
    import torch

    schedule = backbone.schedule(LEVELS)
    choices, noises = (torch.Generator().manual_seed(training.seed + offset) for offset in (0, 1))
    for step in range(training.steps):
        observer.step(step, training.steps)
        level = int(torch.randint(LEVELS, (), generator=choices))
        noise = torch.randn(clean.shape, generator=noises).to(clean)
        sigma = float(schedule.sigmas[level])
        noisy = backbone.add_noise(clean, noise, sigma)
        yield Example(step, noisy, noise - clean, sigma, schedule.timesteps[level], choices)


class Trainer:
    """AdamW over some parameters, one ``update`` a loss."""

    def __init__(self, training: Training, parameters: Iterable[Tensor]) -> None:
        import torch

        self._parameters = list(parameters)
        self._clip_norm = training.clip_norm
        self._optimiser = torch.optim.AdamW(
            self._parameters,
            lr=training.learning_rate,
            betas=(0.9, training.beta2),
            weight_decay=training.weight_decay,
        )

    def update(self, loss: Tensor) -> float:
        """One step down the gradient of ``loss`` (0-d). Its value; FloatingPointError when not finite."""
        import torch

        value = float(loss.detach())
        if not math.isfinite(value):
            raise FloatingPointError(f"the training loss is {value}")
        gradients = torch.autograd.grad(loss, self._parameters)
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient
        if self._clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self._parameters, self._clip_norm)
        self._optimiser.step()
        self._optimiser.zero_grad()
        return value


@contextmanager
def drawing(seed: int, device: torch.device) -> Iterator[None]:
    """Gradients on, and torch's global generators seeded; both as before afterwards."""
    import torch

    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.enable_grad():
        torch.manual_seed(seed)
        yield


def copied(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Trained parameters as they are now, out of any graph."""
    return {name: value.detach().clone() for name, value in parameters.items()}


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class AdapterMethod(SampledMethod):
    """A method that trains an adapter on the reference clip and samples with it in place.

    ``scale``: what the adapter adds is multiplied by it.
    """

    training: Training
    scale: Annotated[float, Field(ge=0)]

    @abstractmethod
    def adapter(self) -> Adapter:
        """The form of the adapter that is sampled with."""

    @abstractmethod
    def train(self, backbone: Backbone, clean: Tensor, observer: Observer) -> Mapping[str, Tensor]:
        """Its weights, after training on the clean latent (1, C, F, h, w), float32."""

    def check(self, grid: Grid, num_blocks: int) -> None:
        """InputError for clips of a single latent frame."""
        check_frames(grid)

    def transfer(
        self, backbone: Backbone, reference: Tensor, prompt: str, noise: Tensor, observer: Observer
    ) -> Tensor:
        """As ``SampledMethod.transfer``; training is a stage of its own."""
        with observer.stage("train"):
            train = partial(self.train, backbone, reference.float(), observer)
            weights = observer.shared("adapter", train)
        with backbone.adapted(self.adapter(), backbone.grid(reference), weights) as adapted:
            adapted.scale = self.scale
            return super().transfer(backbone, reference, prompt, noise, observer)


__all__ = ["AdapterMethod", "Example", "Trainer", "Training", "copied", "drawing", "examples"]
