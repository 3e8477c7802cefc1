"""What a method and a backbone promise each other and the harness."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import (
    TYPE_CHECKING,
    ClassVar,
    Literal,
    NamedTuple,
    Protocol,
    TypeAlias,
    TypeVar,
    runtime_checkable,
)

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

Value = TypeVar("Value")

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


class Adapted(Protocol):
    """An adapter that is in place.

    ``parameters``: its float32 weights by name, on the backbone's device. ``scale`` may be set at any
    time: what the adapter adds is multiplied by it, and at 0 it might as well not be there.
    """

    parameters: Mapping[str, Tensor]
    scale: float


class Observer:
    """What a method tells whoever watches it. This one listens to nothing.

    The harness passes a subclass that times stages, draws a progress bar and
    writes ``trace.json``.
    """

    def stage(self, name: str) -> AbstractContextManager[object]:
        """Time what happens inside. Names: text, encode, train, extract, guide, denoise, decode.

        Stages do not nest.
        """
        return nullcontext()

    def step(self, index: int, total: int) -> None:
        """Step ``index`` (0-based) of ``total`` is about to start: of denoising, or of training."""

    def shared(self, name: str, compute: Callable[[], Value]) -> Value:
        """What depends on the reference and the method's options alone, by a name of its own.

        The harness may compute it once and hand it to all cells of a clip.
        """
        return compute()

    def trace(self, **values: float | int | str | bool) -> None:
        """Append one row to the trace (losses, gradient norms and similarities)."""


class Backbone(Protocol):
    """A loaded video diffusion transformer. Latents are float32, normalised, (1, C, F, h, w).

    Context managers hold for the passes made inside them, nest, and put back what they found.
    ``calls`` counts, since its last ``clear()``: ``forward`` (whole DiT forwards,
    one per batch element, so a CFG prediction counts 2), ``partial`` (partial
    forwards without gradient), ``gradient`` (partial or whole forwards followed
    by a backward pass).
    """

    num_blocks: int
    heads: int
    head_dim: int
    calls: Counter[str]

    def grid(self, latent: Tensor) -> Grid: ...

    def encode(self, frames: NDArray[np.uint8]) -> Tensor:
        """(T, H, W, 3) uint8 RGB to a normalised latent (the VAE's mode, no sampling)."""
        ...

    def decode(self, latent: Tensor) -> NDArray[np.uint8]: ...

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Prompt embeddings (n, tokens, width)."""
        ...

    def schedule(self, steps: int) -> Schedule: ...

    def add_noise(self, clean: Tensor, noise: Tensor, sigma: float) -> Tensor:
        """(1 - sigma) clean + sigma noise."""
        ...

    def predict(
        self,
        latent: Tensor,
        timestep: Tensor,
        prompt: Tensor,
        negative: Tensor | None,
        guidance_scale: float,
    ) -> Tensor:
        """Velocity with classifier-free guidance (none when the scale is 1 or negative is None)."""
        ...

    def velocity(self, latent: Tensor, timestep: Tensor, prompt: Tensor, *, grad: bool) -> Tensor:
        """Velocity of one prompt at full depth, without classifier-free guidance.

        With ``grad`` the result is differentiable, as in ``queries_keys``.
        """
        ...

    def step(self, latent: Tensor, velocity: Tensor, schedule: Schedule, index: int) -> Tensor:
        """One Euler step from ``sigmas[index]`` to ``sigmas[index + 1]``, in float32."""
        ...

    def queries_keys(
        self, latent: Tensor, timestep: Tensor, prompt: Tensor, block: int, *, grad: bool
    ) -> tuple[Tensor, Tensor]:
        """Self-attention queries and keys of ``block`` after RoPE, each (F, S, heads, head_dim).

        The forward pass stops there. With ``grad`` the result is differentiable
        with respect to ``latent`` (never the weights).
        """
        ...

    def hidden_states(
        self, latent: Tensor, timestep: Tensor, prompt: Tensor, block: int, *, grad: bool
    ) -> Tensor:
        """Output of ``block``, (F, S, width); the forward pass stops there."""
        ...

    def keys_values(
        self, latent: Tensor, timestep: Tensor, prompt: Tensor, block: int, *, grad: bool
    ) -> tuple[Tensor, Tensor]:
        """Self-attention keys (after RoPE) and values of ``block``'s video tokens, as ``queries_keys``."""
        ...

    def injected(self, block: int, keys: Tensor, values: Tensor) -> AbstractContextManager[None]:
        """Inside, the video tokens' keys and values in ``block``'s self-attention are these.

        Shapes and meaning as ``keys_values`` returns them: keys are not turned again. They hold for
        every pass and every batch element (both sides of classifier-free guidance), and gradients
        reach them. What ``queries_keys`` and ``keys_values`` return of ``block`` itself stays the
        latent's own.
        A backward pass belongs inside too: recomputed blocks would otherwise run without them.
        """
        ...

    def rotary(self, latent: Tensor, positions: Tensor | None = None) -> Rotary:
        """The rotary tables of a latent's video tokens: cos and sin, each (F * S, head_dim), float32.

        ``positions`` (F * S, 3): the frame, row and column of each token in tokens, whole or not;
        None: where they are, ``methods.rotary.token_positions``. Differentiable with respect to it.
        Components 2i and 2i + 1 of a query or key, (a, b), become
        (a cos[2i] - b sin[2i], b cos[2i + 1] + a sin[2i + 1]); as returned, both entries of a pair
        are the same. InputError on a backbone without rotary embedding.
        """
        ...

    def rotated(self, query: Rotary, key: Rotary) -> AbstractContextManager[None]:
        """Inside, the self-attention of every block turns video queries and keys by these tables.

        As ``rotary`` returns them; of any values, and any floating dtype. They hold for every pass,
        and with ``grad`` gradients reach them, also where the latent needs none. A backward pass
        belongs inside too, as in ``injected``; the two nest in either order.
        """
        ...

    def adapted(
        self, adapter: Adapter, grid: Grid, weights: Mapping[str, Tensor] | None = None
    ) -> AbstractContextManager[Adapted]:
        """Inside, every pass goes through ``adapter`` as well; afterwards all is as before, to the bit.

        Without ``weights`` it is fresh (drawn from torch's global generator, and of no effect yet) and
        trainable: ``velocity(grad=True)`` is then differentiable with respect to its ``parameters``.
        With ``weights``, named as they were, it is frozen. ``grid``: the token grid of the clip; except
        with ``LowRank``, latents of another size are a ValueError. Adapters may be nested.
        """
        ...


class BackboneConfig(Protocol):
    """A backbone plug-in before loading: a pydantic dataclass whose fields are its YAML keys.

    One that cannot offer all operations of ``Backbone`` names those it cannot in ``lacks``.
    """

    name: str
    height: int
    width: int
    version: ClassVar[str]
    outside_id: ClassVar[Sequence[str]]

    @property
    def num_blocks(self) -> int: ...

    @property
    def own_world_only(self) -> bool:
        """True for the embedded world, whose backbone knows nothing of real footage."""
        ...

    @property
    def untrained(self) -> bool:
        """True for ``weights=random``: quality metrics are then null."""
        ...

    def check(self, frames: int, device: str) -> Grid:
        """The token grid of a clip; InputError for sizes, weights or devices it cannot use."""
        ...

    def identity(self) -> str:
        """Identity of the weights: ``sha256:...`` of files, ``hub:repo@revision``, ``random:seed``."""
        ...

    def load(self, device: str) -> Backbone: ...


class Method(Protocol):
    """A method plug-in: a pydantic dataclass whose fields are its YAML keys.

    ``version`` changes when its code changes the output. With ``uses_backbone``
    False ``transfer`` is never called: it is a ``VideoProgram`` or has ``FinishedVideos``.
    A method names in ``needs`` the operations of ``Backbone`` that not every one offers (``rotary``).
    """

    name: str
    version: ClassVar[str]
    outside_id: ClassVar[Sequence[str]]
    uses_backbone: ClassVar[bool]

    def check(self, grid: Grid, num_blocks: int) -> None:
        """Raises InputError when it cannot work on this token grid."""
        ...

    def transfer(
        self, backbone: Backbone, reference: Tensor, prompt: str, noise: Tensor, observer: Observer
    ) -> Tensor:
        """From the reference's clean latent and the initial noise to the final latent."""
        ...


class FinishedVideos(Protocol):
    """A method that hands over videos made elsewhere (``uses_backbone`` False)."""

    def listed(self) -> list[tuple[str, str, int]]:
        """Clip, prompt and seed of every video there should be."""
        ...

    def missing(self, clip: str, prompt: str, seed: int) -> str | None:
        """Why there is no video for this cell, or None when there is one."""
        ...

    def content(self, clip: str, prompt: str, seed: int) -> str:
        """sha256 hex digest of the video file: it enters the cell id."""
        ...

    def video(self, clip: str, prompt: str, seed: int) -> tuple[NDArray[np.uint8], float | None]:
        """Frames (T, H, W, 3) uint8 RGB as stored, and the seconds they took, if known."""
        ...


class VideoRequest(NamedTuple):
    """One video that a ``VideoProgram`` is asked for.

    ``reference``: frames (T, H, W, 3) uint8 RGB, ``fps`` of them a second, ``caption`` what they
    show, if known. ``device``: the harness's (``cpu``, ``cuda``, ``cuda:1``). ``folder``: where the
    program's files of this cell belong; it need not exist.
    """

    clip: str
    reference: NDArray[np.uint8]
    fps: float
    caption: str | None
    prompt: str
    seed: int
    device: str
    folder: Path


@runtime_checkable
class VideoProgram(Protocol):
    """A method that makes its videos by itself, pixels to pixels (``uses_backbone`` False)."""

    def identity(self) -> dict[str, str]:
        """What, beside the configuration, determines the video; it enters the cell id.

        Raises InputError when the program cannot be run at all.
        """
        ...

    def make(self, request: VideoRequest) -> tuple[NDArray[np.uint8], float]:
        """Frames (T, H, W, 3) uint8 RGB, as many as the reference has, and the seconds it took.

        Raises TimeoutError when it took too long, any other exception when it failed.
        """
        ...


__all__ = [
    "Adapted",
    "Adapter",
    "Backbone",
    "BackboneConfig",
    "FinishedVideos",
    "Grid",
    "LowRank",
    "Method",
    "MotionEmbedding",
    "Observer",
    "Rotary",
    "Schedule",
    "TemporalConvolution",
    "VideoProgram",
    "VideoRequest",
]
