"""How often a method calls the backbone: it runs once on a stub that computes nothing and counts."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from datasets.errors import InputError
from methods.backbones.interface import Adapted, Adapter, Backbone, Grid, Rotary, Schedule
from methods.interface import LatentMethod, Observer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

Kind = Literal["embed", "encode", "forward", "partial", "gradient", "decode"]
Output = Literal["", "queries_keys", "keys_values", "hidden_states", "velocity"]

STAGES = ("text", "encode", "train", "extract", "guide", "denoise", "decode")

DIT: tuple[Kind, ...] = ("forward", "partial", "gradient")
"""Kinds of calls that run the transformer."""


class Call(NamedTuple):
    """One way a method uses the backbone, in the observer's stage where it happens.

    ``output`` and ``block`` say where a pass stops; a velocity has no block. Empty and None for the
    other kinds. ``grid`` is the token grid of a latent smaller than the clip's, else None.
    """

    stage: str
    kind: Kind
    block: int | None = None
    output: Output = ""
    grid: Grid | None = None


class CountingBackbone(Backbone):
    """A backbone of one channel and one head that computes nothing and notes every call.

    Queries, keys and hidden states are the latent itself, so that gradients exist. ``small`` is
    the token grid it is given in place of ``real``; a latent that is smaller still is noted with
    its share of ``real``. ``calls`` are by kind, as those of other backbones; ``log`` has all of them.
    """

    heads = 1
    head_dim = 1
    recomputed = False
    compiled = False

    def __init__(
        self,
        num_blocks: int,
        stages: StageObserver,
        small: Grid | None = None,
        real: Grid | None = None,
    ) -> None:
        self.num_blocks = num_blocks
        self.calls: Counter[str] = Counter()
        self.log: Counter[Call] = Counter()
        self._small = small
        self._real = real or small
        self._stages = stages
        self._held: list[Tensor] = []

    def grid(self, latent: Tensor) -> Grid:
        return Grid(*latent.shape[2:])

    def encode(self, frames: NDArray[np.uint8]) -> Tensor:
        import torch

        self._note("encode")
        return torch.from_numpy(frames[..., 0]).float()[None, None]

    def decode(self, latent: Tensor) -> NDArray[np.uint8]:
        import numpy as np

        self._note("decode")
        return np.zeros((*latent.shape[2:], 3), np.uint8)

    def embed(self, prompts: Sequence[str]) -> Tensor:
        import torch

        self._note("embed", len(prompts))
        return torch.zeros(len(prompts), 1, 1)

    def schedule(self, steps: int) -> Schedule:
        import torch

        sigmas = torch.linspace(1, 0, steps + 1)
        return Schedule(sigmas, 1000 * sigmas[:-1])

    def add_noise(self, clean: Tensor, noise: Tensor, sigma: float) -> Tensor:
        return (1 - sigma) * clean + sigma * noise

    def predict(
        self,
        latent: Tensor,
        timestep: Tensor,
        prompt: Tensor,
        negative: Tensor | None,
        guidance_scale: float,
    ) -> Tensor:
        passes = 1 if negative is None or guidance_scale == 1 else 2
        self._note("forward", passes * latent.shape[0])
        return latent.detach() * 0

    def velocity(self, latent: Tensor, timestep: Tensor, prompt: Tensor, *, grad: bool) -> Tensor:
        if not grad:
            return self.predict(latent, timestep, prompt, None, 1.0)
        self._note("gradient", latent.shape[0], None, "velocity", self._in_real(latent))
        return self._reached(latent * 1)

    def step(self, latent: Tensor, velocity: Tensor, schedule: Schedule, index: int) -> Tensor:
        return latent + (schedule.sigmas[index + 1] - schedule.sigmas[index]) * velocity

    def queries_keys(
        self, latent: Tensor, timestep: Tensor, prompt: Tensor, block: int, *, grad: bool
    ) -> tuple[Tensor, Tensor]:
        tokens = self._tokens(latent, block, "queries_keys", grad)
        return tokens.unsqueeze(-1), tokens.unsqueeze(-1)

    def keys_values(
        self, latent: Tensor, timestep: Tensor, prompt: Tensor, block: int, *, grad: bool
    ) -> tuple[Tensor, Tensor]:
        tokens = self._tokens(latent, block, "keys_values", grad)
        return tokens.unsqueeze(-1), tokens.unsqueeze(-1)

    def hidden_states(
        self, latent: Tensor, timestep: Tensor, prompt: Tensor, block: int, *, grad: bool
    ) -> Tensor:
        return self._tokens(latent, block, "hidden_states", grad)

    def injected(self, block: int, keys: Tensor, values: Tensor) -> contextlib.AbstractContextManager[None]:
        return self._holding(keys, values)

    def rotary(self, latent: Tensor, positions: Tensor | None = None) -> Rotary:
        import torch

        tokens = latent[0, 0].numel()
        return torch.ones(tokens, 2), torch.zeros(tokens, 2)

    def rotated(self, query: Rotary, key: Rotary) -> contextlib.AbstractContextManager[None]:
        return self._holding(*query, *key)

    @contextlib.contextmanager
    def adapted(
        self, adapter: Adapter, grid: Grid, weights: Mapping[str, Tensor] | None = None
    ) -> Iterator[Adapted]:
        import torch

        fresh = {"weight": torch.zeros(1, requires_grad=True)}
        adapted = Adapted(dict(weights) if weights else fresh)
        with self._holding(*adapted.parameters.values()):
            yield adapted

    def _tokens(self, latent: Tensor, block: int, output: Output, grad: bool) -> Tensor:
        self._note("gradient" if grad else "partial", 1, block, output, self._in_real(latent))
        tokens = latent[0, 0].flatten(1).unsqueeze(-1)
        return self._reached(tokens) if grad else tokens.detach()

    @contextlib.contextmanager
    def _holding(self, *tensors: Tensor) -> Iterator[None]:
        before, self._held = self._held, [*self._held, *tensors]
        try:
            yield
        finally:
            self._held = before

    def _reached(self, values: Tensor) -> Tensor:
        """The values, with a gradient of zero with respect to what passes are given from outside."""
        for tensor in self._held:
            values = values + 0 * tensor.sum()
        return values

    def _in_real(self, latent: Tensor) -> Grid | None:
        """The part of ``real`` that a latent smaller than ``small`` stands for; None for one that is not."""
        grid = self.grid(latent)
        if self._small is None or self._real is None or grid == self._small:
            return None
        sides = zip(self._real, grid, self._small, strict=True)
        return Grid(*(round(real * here / small) for real, here, small in sides))

    def _note(
        self,
        kind: Kind,
        times: int = 1,
        block: int | None = None,
        output: Output = "",
        grid: Grid | None = None,
    ) -> None:
        self.log[Call(self._stages.current, kind, block, output, grid)] += times
        if kind in DIT:
            self.calls[kind] += times


class StageObserver(Observer):
    """Knows which stage a method is in."""

    current = "other"

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        before, self.current = self.current, name
        try:
            yield
        finally:
            self.current = before


def method_calls(method: LatentMethod, grid: Grid, num_blocks: int) -> dict[Call, int]:
    """How often a method calls the backbone, by running it on a ``CountingBackbone``.

    The token grid is the smallest the method accepts, at most ``grid``: methods call
    no more often on a larger one. Where calls depend on the data, a method's ``at_most()``
    is counted, the same method where they cost the most. Raises InputError when it accepts
    no grid.
    """
    method = method.at_most()
    log = _run_on_stub(method, _smallest_grid(method, grid, num_blocks), grid, num_blocks)
    if any(call.grid and call.grid.frames != grid.frames for call in log):
        # Of few frames a share says nothing exact: the third of five is not that of twenty-one.
        whole = _smallest_grid(method, grid, num_blocks, (grid.frames,))
        log = _run_on_stub(method, whole, grid, num_blocks)
    harness = {Call("encode", "encode"): 1, Call("decode", "decode"): 1}
    return {**log, **harness}


def _run_on_stub(method: LatentMethod, small: Grid, real: Grid, num_blocks: int) -> Counter[Call]:
    import torch

    generator = torch.Generator().manual_seed(0)
    reference, noise = (torch.randn(1, 1, *small, generator=generator) for _ in range(2))
    observer = StageObserver()
    backbone = CountingBackbone(num_blocks, observer, small, real)
    with torch.random.fork_rng(devices=[]):
        method.transfer(backbone, reference, "", noise, observer)
    return backbone.log


def _smallest_grid(method: LatentMethod, grid: Grid, num_blocks: int, frames: Sequence[int] = ()) -> Grid:
    """The first of some small grids that the method accepts, else ``grid``; InputError where it cannot be."""
    sides = (4, 6, 8, 12, 16, 24, 32)
    for count in frames or (min(2, grid.frames), grid.frames):
        for side in sides:
            candidate = Grid(count, min(side, grid.height), min(side, grid.width))
            with contextlib.suppress(InputError):
                method.check(candidate, num_blocks)
                return candidate
    method.check(grid, num_blocks)
    return grid


def describe(call: Call) -> str:
    """A call in words, without its stage."""
    whole: dict[Kind, str] = {
        "embed": "prompt embedding",
        "encode": "VAE encode",
        "decode": "VAE decode",
        "forward": "DiT forward",
    }
    if call.kind in whole:
        return whole[call.kind]
    outputs: dict[Output, str] = {
        "queries_keys": "queries and keys",
        "keys_values": "keys and values",
        "hidden_states": "hidden states",
    }
    output = outputs.get(call.output, call.output)
    where = "" if call.block is None else f" of block {call.block}"
    size = f" at {'x'.join(map(str, call.grid))}" if call.grid else ""
    return f"{call.kind}, {output}{where}{size}"


__all__ = [
    "DIT",
    "STAGES",
    "Call",
    "CountingBackbone",
    "Kind",
    "Output",
    "StageObserver",
    "describe",
    "method_calls",
]
