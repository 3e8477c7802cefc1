"""What a backbone promises methods and the harness."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeAlias

from datasets.errors import InputError
from datasets.plugin import Plugin

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor


# cos and sin of a rotary position embedding, each (F * S, head_dim): see ``Backbone.rotary``.
Rotary: TypeAlias = "tuple[Tensor, Tensor]"


class Grid(NamedTuple):
    """The token grid of a latent: latent frames, rows and columns of tokens."""

    frames: int
    height: int
    width: int


class Schedule(NamedTuple):
    """``sigmas`` (steps + 1,), last one 0; ``timesteps`` (steps,); both float32, CPU."""

    sigmas: Tensor
    timesteps: Tensor


Part = Literal["self_attention", "cross_attention", "feed_forward"]


@dataclass(frozen=True)
class LowRank:
    """LoRA (arXiv 2106.09685) of ``rank`` on the linear maps of these parts of every block, scaling 1.

    A part that a backbone does not have is left out. ``dropout`` is active only while it is trained.
    ``parameters`` are named as diffusers saves them.
    """

    parts: tuple[Part, ...]
    rank: int
    dropout: float = 0.0


@dataclass(frozen=True)
class MotionEmbedding:
    """Vectors added to what self-attention takes its queries, keys and values from, in every block.

    ``parameters``: ``blocks.<i>.queries_keys`` (F, C), one vector a frame, for queries and keys;
    ``blocks.<i>.values`` (h, w, C), one a place, or (F, h, w, C) with ``value_frames``. They start at 0.
    """

    value_frames: bool = False


@dataclass(frozen=True)
class TemporalConvolution:
    """Beside self-attention, in every block: convolutions along time, place by place, added to its output.

    ``parameters``: ``blocks.<i>.down`` (width, C, kernel), standard normal; then GELU; then
    ``blocks.<i>.up`` (C, width, kernel), which starts at 0. ``kernel`` is odd; there is no bias.
    """

    width: int
    kernel: int = 3


Adapter = LowRank | MotionEmbedding | TemporalConvolution


class Adapted:
    """An adapter that is in place.

    ``parameters``: its float32 weights by name, on the backbone's device. ``scale`` may be set at any
    time: what the adapter adds is multiplied by it, and at 0 it might as well not be there. ``rescale``
    is told of it.
    """

    def __init__(
        self, parameters: Mapping[str, Tensor], rescale: Callable[[float], None] | None = None
    ) -> None:
        self.parameters = parameters
        self._scale = 1.0
        self._rescale = rescale

    @property
    def scale(self) -> float:
        return self._scale

    @scale.setter
    def scale(self, value: float) -> None:
        self._scale = value
        if self._rescale is not None:
            self._rescale(value)


class Backbone(ABC):
    """A loaded video diffusion transformer. Latents are float32, normalised, (1, C, F, h, w).

    Context managers hold for the passes made inside them, nest, and put back what they found.
    ``calls`` counts, since its last ``clear()``: ``forward`` (whole DiT forwards,
    one per batch element, so a CFG prediction counts 2), ``partial`` (partial
    forwards without gradient), ``gradient`` (partial or whole forwards followed
    by a backward pass). ``recomputed``: a backward pass so far has recomputed blocks; ``compiled``: blocks
    are compiled.

    What is not abstract may be left out: ``keys_values``, ``injected``, ``rotary``, ``rotated`` and
    ``adapted`` then raise InputError. ``BackboneConfig.lacks`` says so before loading.
    """

    num_blocks: int
    heads: int
    head_dim: int
    calls: Counter[str]
    recomputed: bool = False
    compiled: bool = False

    @abstractmethod
    def grid(self, latent: Tensor) -> Grid:
        """The token grid of a latent."""

    @abstractmethod
    def encode(self, frames: NDArray[np.uint8]) -> Tensor:
        """(T, H, W, 3) uint8 RGB to a normalised latent (the VAE's mode, no sampling)."""

    @abstractmethod
    def decode(self, latent: Tensor) -> NDArray[np.uint8]:
        """A normalised latent to (T, H, W, 3) uint8 RGB, rounded and clamped."""

    @abstractmethod
    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Prompt embeddings (n, tokens, width)."""

    def prompt_tokens(self, prompt: str) -> int | None:
        """Tokens of a prompt before any cut to what ``embed`` reads; None where nothing counts them."""
        return None

    @abstractmethod
    def schedule(self, steps: int) -> Schedule:
        """The noise levels and timesteps of so many denoising steps."""

    @abstractmethod
    def predict(
        self,
        latent: Tensor,
        timestep: Tensor,
        prompt: Tensor,
        negative: Tensor | None,
        guidance_scale: float,
    ) -> Tensor:
        """Velocity with classifier-free guidance (none when the scale is 1 or negative is None)."""

    @abstractmethod
    def velocity(self, latent: Tensor, timestep: Tensor, prompt: Tensor, *, grad: bool) -> Tensor:
        """Velocity of one prompt at full depth, without classifier-free guidance.

        With ``grad`` the result is differentiable, as in ``queries_keys``, and with respect to whatever
        takes part in the pass inside a context manager of this backbone.
        """

    @abstractmethod
    def queries_keys(
        self, latent: Tensor, timestep: Tensor, prompt: Tensor, block: int, *, grad: bool
    ) -> tuple[Tensor, Tensor]:
        """Self-attention queries and keys of ``block`` after RoPE, each (F, S, heads, head_dim).

        The forward pass stops there. With ``grad`` the result is differentiable
        with respect to ``latent`` (never the weights).
        """

    @abstractmethod
    def hidden_states(
        self, latent: Tensor, timestep: Tensor, prompt: Tensor, block: int, *, grad: bool
    ) -> Tensor:
        """Output of ``block``, (F, S, width); the forward pass stops there."""

    def add_noise(self, clean: Tensor, noise: Tensor, sigma: float) -> Tensor:
        """(1 - sigma) clean + sigma noise."""
        return (1 - sigma) * clean + sigma * noise

    def step(self, latent: Tensor, velocity: Tensor, schedule: Schedule, index: int) -> Tensor:
        """One Euler step from ``sigmas[index]`` to ``sigmas[index + 1]``, in float32."""
        size = schedule.sigmas[index + 1] - schedule.sigmas[index]
        return latent.float() + size.to(latent.device) * velocity.float()

    def keys_values(
        self, latent: Tensor, timestep: Tensor, prompt: Tensor, block: int, *, grad: bool
    ) -> tuple[Tensor, Tensor]:
        """Self-attention keys (after RoPE) and values of ``block``'s video tokens, as ``queries_keys``."""
        raise self._not_offered("keys_values")

    def injected(self, block: int, keys: Tensor, values: Tensor) -> AbstractContextManager[None]:
        """Inside, the video tokens' keys and values in ``block``'s self-attention are these.

        Shapes and meaning as ``keys_values`` returns them: keys are not turned again. They hold for
        every pass and every batch element (both sides of classifier-free guidance), and gradients
        reach them. What ``queries_keys`` and ``keys_values`` return of ``block`` itself stays the
        latent's own.
        A backward pass belongs inside too: recomputed blocks would otherwise run without them.
        """
        raise self._not_offered("injected")

    def rotary(self, latent: Tensor, positions: Tensor | None = None) -> Rotary:
        """The rotary tables of a latent's video tokens: cos and sin, each (F * S, head_dim), float32.

        ``positions`` (F * S, 3): the frame, row and column of each token in tokens, whole or not;
        None: where they are, as ``token_positions`` gives them. Differentiable with respect to it.
        Components 2i and 2i + 1 of a query or key, (a, b), become
        (a cos[2i] - b sin[2i], b cos[2i + 1] + a sin[2i + 1]); as returned, both entries of a pair
        are the same. InputError on a backbone without rotary embedding.
        """
        raise self._not_offered("rotary")

    def rotated(self, query: Rotary, key: Rotary) -> AbstractContextManager[None]:
        """Inside, the self-attention of every block turns video queries and keys by these tables.

        As ``rotary`` returns them; of any values, and any floating dtype. They hold for every pass,
        and with ``grad`` gradients reach them, also where the latent needs none. A backward pass
        belongs inside too, as in ``injected``; the two nest in either order.
        """
        raise self._not_offered("rotated")

    def adapted(
        self, adapter: Adapter, grid: Grid, weights: Mapping[str, Tensor] | None = None
    ) -> AbstractContextManager[Adapted]:
        """Inside, every pass goes through ``adapter`` as well; afterwards all is as before, to the bit.

        Without ``weights`` it is fresh (drawn from torch's global generator, and of no effect yet) and
        trainable: ``velocity(grad=True)`` is then differentiable with respect to its ``parameters``.
        With ``weights``, named as they were, it is frozen. ``grid``: the token grid of the clip; except
        with ``LowRank``, latents of another size are a ValueError. Adapters may be nested.
        """
        raise self._not_offered("adapted")

    def _not_offered(self, operation: str) -> InputError:
        return InputError(
            f"backbone: {type(self).__name__} offers no {operation!r}; use another backbone or another method"
        )


class BackboneConfig(Plugin):
    """A backbone plug-in before loading.

    ``own_world_only``: it knows the embedded world alone, nothing of real footage. ``dtype``: the precision
    of the transformer. ``checkpoint``: whether blocks are recomputed in a backward pass. ``max_tokens``:
    the length of a prompt's embedding. ``sampler``: what takes a denoising step, as tables name it.
    ``most_frames``: the longest clip it is made for, which ``frames=auto`` takes.
    """

    sampler: ClassVar[str] = ""

    height: int
    width: int
    max_tokens: int
    own_world_only: bool = False
    most_frames: int = 81
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    checkpoint: bool | Literal["auto"] = False

    @property
    @abstractmethod
    def num_blocks(self) -> int:
        """Blocks of the transformer."""

    @property
    def lacks(self) -> Sequence[str]:
        """Operations of ``Backbone`` that it does not offer."""
        return ()

    @property
    def untrained(self) -> bool:
        """True for ``weights=random``: quality metrics are then null."""
        return False

    @abstractmethod
    def grid(self, frames: int) -> Grid:
        """The token grid of a clip; InputError for sizes it cannot take. Needs no weights."""

    @abstractmethod
    def check(self, frames: int, device: str) -> Grid:
        """The token grid of a clip; InputError for sizes, weights or devices it cannot use."""

    @abstractmethod
    def identity(self) -> str:
        """Identity of the weights: ``sha256:...`` of files, ``hub:repo@revision``, ``random:seed``."""

    @abstractmethod
    def load(self, device: str) -> Backbone:
        """The backbone on ``device``, its weights frozen."""

    def attention_shape(self) -> tuple[int, int]:
        """Heads of a block's self-attention, and the width of one; InputError where unknown.

        Needs no weights.
        """
        raise InputError(
            f"backbone.name={self.name}: its attention's heads are unknown; use backbone=wan2.1-1.3b"
        )

    def latent_shape(self, frames: int) -> tuple[int, int, int, int, int]:
        """Shape (1, C, F, h, w) of the latent of a clip. InputError on a backbone without a cost model."""
        raise self._without_cost_model()

    def meta(self) -> Any:
        """The backbone on the meta device with its networks, for counting; InputError as ``latent_shape``."""
        raise self._without_cost_model()

    def _without_cost_model(self) -> InputError:
        return InputError(f"backbone.name={self.name}: this backbone has no cost model; use action=run")


def token_positions(grid: Grid, device: torch.device | str = "cpu") -> Tensor:
    """Frame, row and column of every token, (F * S, 3) float32, frame-major, then row by row."""
    import torch

    axes = [torch.arange(size, dtype=torch.float32, device=device) for size in grid]
    return torch.cartesian_prod(*axes)
