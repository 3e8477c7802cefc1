"""CLIP models: the published ones through open_clip, and the tiny one of the embedded world.

A CLIP is named ``sprites`` or ``<architecture>/<tag>`` as open_clip lists them, for instance
``ViT-B-32-quickgelu/openai``. OpenAI's weights were trained with QuickGELU (x * sigmoid(1.702 x)); open_clip
only warns when they are loaded into a GELU network, so a mismatched name is an error here.

The tiny CLIP lives in ``metrics/checkpoints/sprites_clip/``, three files that ``save_tiny_clip`` writes:

``config.json``
    ``{"embed_dim": 128, "vision_cfg": {...}, "text_cfg": {...}, "preprocess": {"mean": [3], "std": [3]}}``:
    the keyword arguments of ``open_clip.model.CLIP`` plus the normalisation of images (``tiny_config``).
``vocabulary.json``
    A list of words; a word's place is its id. It begins ``<pad>, <start>, <unk>`` and ends ``<end>``:
    open_clip pools the text at the highest id of a row (``pool_type: argmax``).
``model.safetensors``
    The state dict (bf16 on disk, float32 in memory).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import pydantic
from numpy.typing import NDArray

from datasets.errors import InputError
from datasets.weights import Weight
from metrics.features import KeptFeatures
from metrics.interface import Metric, MetricUnavailable
from metrics.weights import files_id, reachable

if TYPE_CHECKING:
    import torch
    from open_clip.model import CLIP
    from torch import Tensor

SPRITES = "sprites"
SPRITES_FOLDER = Path(__file__).parent / "checkpoints" / "sprites_clip"

_TINY_FILES = ("config.json", "vocabulary.json", "model.safetensors")
KNOWN = {
    "ViT-B-32-quickgelu/openai": (605_000_000, "MIT"),
    "ViT-L-14-quickgelu/openai": (1_710_000_000, "MIT"),
}
"""Bytes and licence (``openai/CLIP``) of published models, by name."""

_BATCH = 32
_WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")


def vocabulary_of(texts: Iterable[str]) -> list[str]:
    """The vocabulary of a world: every word of ``texts``, sorted, between the special ones."""
    words = sorted({word for text in texts for word in _WORD.findall(text.lower())})
    return ["<pad>", "<start>", "<unk>", *words, "<end>"]


class WordTokenizer:
    """Lower-cased words to ids; punctuation is dropped, an unknown word becomes ``<unk>``.

    ``vocabulary``: words by id, as ``vocabulary_of`` makes it; ValueError when the special ones are not in
    place. ``context_length`` counts ``<start>`` and ``<end>``.
    """

    def __init__(self, vocabulary: Sequence[str], context_length: int = 40) -> None:
        if list(vocabulary[:3]) != ["<pad>", "<start>", "<unk>"] or vocabulary[-1] != "<end>":
            raise ValueError("a vocabulary begins with <pad>, <start>, <unk> and ends with <end>")
        self.vocabulary = list(vocabulary)
        self.context_length = context_length
        self._ids = {word: place for place, word in enumerate(vocabulary)}

    def encode(self, text: str) -> list[int]:
        """All ids of a text, ``<start>`` and ``<end>`` included, not cut to the context."""
        ids, unknown = self._ids, self._ids["<unk>"]
        words = [ids.get(word, unknown) for word in _WORD.findall(text.lower())]
        return [ids["<start>"], *words, ids["<end>"]]

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Ids (n, context_length) int64, padded with 0; a text too long keeps its ``<end>``."""
        import torch

        rows = torch.zeros(len(texts), self.context_length, dtype=torch.long)
        for row, text in zip(rows, texts, strict=True):
            ids = self.encode(text)
            if len(ids) > self.context_length:
                ids = [*ids[: self.context_length - 1], ids[-1]]
            row[: len(ids)] = torch.tensor(ids)
        return rows


def tiny_config(vocab_size: int) -> dict[str, Any]:
    """The embedded world's CLIP: 64x64 images, 1.8 M parameters.

    Frames are read by open_clip's ModifiedResNet (the layout of CLIP's RN50: a three-layer stem, here one
    bottleneck in each of four stages, attention pooling), texts by a transformer of width 128 and two layers.
    """
    return {
        "embed_dim": 128,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "head_width": 32},
        "text_cfg": {
            "context_length": 40,
            "vocab_size": vocab_size,
            "width": 128,
            "heads": 4,
            "layers": 2,
            "pool_type": "argmax",
        },
        "preprocess": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
    }


def build_tiny_clip(config: dict[str, Any]) -> CLIP:
    """A CLIP with random weights (torch's global generator), float32, from a ``config.json``.

    ``encode_image`` takes what ``tiny_preprocess`` returns, ``encode_text`` what ``WordTokenizer`` returns.
    """
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    return CLIP(
        embed_dim=config["embed_dim"],
        vision_cfg=CLIPVisionCfg(**config["vision_cfg"]),
        text_cfg=CLIPTextCfg(**config["text_cfg"]),
        quick_gelu=config.get("quick_gelu", False),
    )


def tiny_preprocess(frames: NDArray[np.uint8], config: dict[str, Any]) -> Tensor:
    """Frames (T, H, W, 3) uint8 RGB to (T, 3, size, size) float32: bicubic, antialiased, normalised.

    The whole frame is kept, so a frame that is not square is squeezed: a crop could lose the object.
    """
    import torch
    from torch.nn.functional import interpolate

    size = config["vision_cfg"]["image_size"]
    images = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 255
    if tuple(images.shape[-2:]) != (size, size):
        images = interpolate(images, (size, size), mode="bicubic", antialias=True).clamp(0, 1)
    mean, std = (torch.tensor(config["preprocess"][key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    return (images - mean) / std


def save_tiny_clip(
    folder: Path,
    model: CLIP,
    config: dict[str, Any],
    vocabulary: Sequence[str],
    dtype: torch.dtype | None = None,
) -> None:
    """Write the three files of a tiny CLIP; weights as ``dtype`` (bfloat16 by default)."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    (folder / "vocabulary.json").write_text(json.dumps(list(vocabulary), indent=0) + "\n")
    state = {
        key: value.detach().cpu().to(dtype or torch.bfloat16).contiguous()
        for key, value in model.state_dict().items()
    }
    save_file(state, str(folder / "model.safetensors"))


@dataclass(frozen=True)
class ClipModel:
    """A loaded CLIP in float32 on the CPU. ``id`` is its name and ``weights_id``."""

    id: str
    model: Any
    preprocess: Callable[[NDArray[np.uint8]], Tensor]
    tokenize: Callable[[list[str]], Tensor]
    encode: Callable[[str], list[int]]
    context_length: int
    _kept: KeptFeatures = field(init=False, default_factory=KeptFeatures, compare=False, repr=False)

    def image_features(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Unit vectors (T, D) float32 of frames (T, H, W, 3) uint8 RGB, kept by content."""
        return self._kept.of(frames, self._read)

    def _read(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            parts = [
                self.model.encode_image(self.preprocess(frames[start : start + _BATCH]), normalize=True)
                for start in range(0, len(frames), _BATCH)
            ]
            return cast("NDArray[np.float32]", torch.cat(parts).float().numpy())

    def text_features(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors (n, D) float32 of n texts; a text longer than the context is cut."""
        import torch

        with torch.inference_mode():
            features = self.model.encode_text(self.tokenize(list(texts)), normalize=True)
            return cast("NDArray[np.float32]", features.float().numpy())

    def tokens(self, text: str) -> int:
        """Tokens of a text with start and end, before any cut to ``context_length``."""
        return len(self.encode(text))


def check_clip_name(name: str) -> None:
    """InputError unless ``name`` is ``sprites`` or a well-matched ``<architecture>/<tag>``. Loads nothing."""
    if name == SPRITES:
        return
    architecture, slash, tag = name.partition("/")
    if not (architecture and slash and tag):
        raise InputError(f"clip model '{name}': write <architecture>/<tag>, e.g. ViT-B-32-quickgelu/openai")
    if tag == "openai" and architecture.startswith("ViT-") and not architecture.endswith("-quickgelu"):
        raise InputError(
            f"clip model '{name}': OpenAI's weights need QuickGELU; use {architecture}-quickgelu/openai"
        )


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class UsesClip(Metric):
    """What every metric that reads frames through a CLIP has in common.

    ``model``: ``sprites`` or ``<architecture>/<tag>`` of open_clip. ``checkpoint``: local weights instead of
    the hub's. Figures of different models are not comparable.
    """

    name: str
    model: str
    checkpoint: str | None = None

    outside_id: ClassVar[Sequence[str]] = ("checkpoint",)

    @pydantic.field_validator("model")
    @classmethod
    def _known(cls, model: str) -> str:
        check_clip_name(model)
        return model

    def clip(self) -> ClipModel:
        """The model, loaded. Raises as ``load_clip`` does."""
        return load_clip(self.model, self.checkpoint)

    def ready(self) -> None:
        """Raises MetricUnavailable when the weights are not to be had."""
        self.clip()

    def weights_id(self) -> str:
        """Identity of the CLIP's weights; empty while they are not at hand."""
        return weights_id(self.model, self.checkpoint)

    def needed_weights(self) -> Sequence[Weight]:
        """The CLIP's."""
        return (weight(self.model, self.checkpoint),)


def load_clip(name: str, checkpoint: str | None = None) -> ClipModel:
    """Load a CLIP by name, once per process, unless its weights change.

    ``checkpoint``: a local weights file for ``<architecture>/<tag>``, or a local folder for ``sprites``,
    instead of the hub's or the package's. Raises InputError for a name or checkpoint that does not exist and
    MetricUnavailable when the weights are neither in the cache nor to be had.
    """
    check_clip_name(name)
    if name != SPRITES:
        _fetch_weights(name, checkpoint)
    return _load(name, checkpoint, weights_id(name, checkpoint))


@lru_cache(maxsize=2)
def _load(name: str, checkpoint: str | None, weights: str) -> ClipModel:
    if name == SPRITES:
        clip = _load_tiny(_tiny_folder(checkpoint), weights)
    else:
        clip = _load_open_clip(name, _fetch_weights(name, checkpoint), weights)
    # Not in the constructor: a copy that shows frames otherwise must not share them.
    clip._kept.network = clip.id if weights else ""
    return clip


def weights_id(name: str, checkpoint: str | None = None) -> str:
    """``sha256:`` and 16 hex digits of a CLIP's weights; empty while they are not at hand. Fetches nothing.

    Arguments as for ``load_clip``. The tiny CLIP's configuration and vocabulary count too.
    """
    if name == SPRITES:
        return files_id([_tiny_folder(checkpoint) / part for part in _TINY_FILES])
    if checkpoint:
        return files_id([Path(checkpoint)])
    import open_clip

    architecture, _, tag = name.partition("/")
    cached = _cached_weights(open_clip.get_pretrained_cfg(architecture, tag) or {})
    if cached is None:
        return ""
    # The hub's cache names large files by their sha256.
    blob = cached.resolve().name
    return f"sha256:{blob[:16]}" if re.fullmatch("[0-9a-f]{64}", blob) else files_id([cached])


def weight(name: str, checkpoint: str | None = None) -> Weight:
    """A CLIP's weights as a plug-in names them. Arguments as for ``load_clip``. Fetches nothing."""
    if name == SPRITES:
        own = _tiny_folder(checkpoint) / _TINY_FILES[-1]
        return Weight("CLIP of sprites", own.stat().st_size if own.is_file() else 0, "Apache-2.0", own)
    size, licence = KNOWN.get(name, (0, ""))
    if checkpoint is not None:
        return Weight(checkpoint, size, licence, Path(checkpoint) if Path(checkpoint).is_file() else None)
    import open_clip

    architecture, _, tag = name.partition("/")
    published = open_clip.get_pretrained_cfg(architecture, tag) or {}
    fetch = partial(_fetch_weights, name, None)
    return Weight(f"CLIP {name}", size, licence, _cached_weights(published), fetch)


def _tiny_folder(checkpoint: str | None) -> Path:
    return Path(checkpoint) if checkpoint else SPRITES_FOLDER


def _load_tiny(folder: Path, digest: str) -> ClipModel:
    from safetensors.torch import load_file

    missing = [part for part in _TINY_FILES if not (folder / part).exists()]
    if missing:
        raise MetricUnavailable(
            f"{folder} has no {', '.join(missing)}: "
            "reinstall the package or run python -m metrics.training.train_sprites_clip"
        )
    config = json.loads((folder / "config.json").read_text())
    vocabulary = json.loads((folder / "vocabulary.json").read_text())
    tokenizer = WordTokenizer(vocabulary, config["text_cfg"]["context_length"])
    model = build_tiny_clip(config)
    weights = load_file(str(folder / "model.safetensors"))
    model.load_state_dict({key: value.float() for key, value in weights.items()})
    return ClipModel(
        id=f"{SPRITES} {digest}",
        model=model.eval(),
        preprocess=lambda frames: tiny_preprocess(frames, config),
        tokenize=tokenizer,
        encode=tokenizer.encode,
        context_length=tokenizer.context_length,
    )


def _fetch_weights(name: str, checkpoint: str | None) -> Path:
    """The weights' file: ``checkpoint``, else the hub's, fetched if need be. Errors as of ``load_clip``."""
    import open_clip

    architecture, _, tag = name.partition("/")
    config = open_clip.get_model_config(architecture)
    published = open_clip.get_pretrained_cfg(architecture, tag)
    if config is None or not published:
        raise InputError(
            f"clip model '{name}': open_clip has no such architecture and tag (open_clip.list_pretrained())"
        )
    if published.get("quick_gelu", False) != config.get("quick_gelu", False):
        raise InputError(f"clip model '{name}': activation (QuickGELU) of architecture and weights differ")
    if checkpoint and not Path(checkpoint).is_file():
        raise InputError(f"clip checkpoint {checkpoint}: no such file")
    return Path(checkpoint) if checkpoint else _hub_weights(name, published)


def _load_open_clip(name: str, weights: Path, digest: str) -> ClipModel:
    import open_clip
    import torch
    from open_clip.tokenizer import SimpleTokenizer
    from PIL import Image

    architecture, _, tag = name.partition("/")
    published = open_clip.get_pretrained_cfg(architecture, tag)
    # The tag, not the file, knows the normalisation the weights were trained with.
    trained_with = {
        f"image_{key}": published[key]
        for key in ("mean", "std", "interpolation", "resize_mode")
        if published.get(key)
    }
    model, transform = open_clip.create_model_from_pretrained(
        architecture, pretrained=str(weights), precision="fp32", **trained_with
    )
    tokenizer = open_clip.get_tokenizer(architecture)

    def encode(text: str) -> list[int]:
        if isinstance(tokenizer, SimpleTokenizer):
            return [tokenizer.sot_token_id, *tokenizer.encode(text), tokenizer.eot_token_id]
        return [int(token) for token in tokenizer([text])[0] if token]

    return ClipModel(
        id=f"{name} {digest}",
        model=model.eval(),
        preprocess=lambda frames: torch.stack([transform(Image.fromarray(frame)) for frame in frames]),
        tokenize=tokenizer,
        encode=encode,
        context_length=model.context_length,
    )


def _cached_weights(published: dict[str, Any]) -> Path | None:
    """The weights of an open_clip tag in the hub's cache, or None."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    repository, _, filename = published.get("hf_hub", "").rpartition("/")
    if not repository:
        return None
    for candidate in (
        [filename] if filename else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
    ):
        try:
            return Path(hf_hub_download(repository, candidate, local_files_only=True))
        except LocalEntryNotFoundError:
            continue
    return None


def _hub_weights(name: str, published: dict[str, Any]) -> Path:
    """The weights of an open_clip tag: from the cache if there, else from the hub."""
    import open_clip
    from huggingface_hub import constants

    repository = published.get("hf_hub", "").rpartition("/")[0]
    if not repository:
        raise MetricUnavailable(
            f"CLIP {name} is not on the hub: give the metric's checkpoint key a local file"
        )
    cached = _cached_weights(published)
    if cached is not None:
        return cached
    remedy = f"connect once to fetch {repository}, or give the metric's checkpoint key a local file"
    if not reachable(constants.ENDPOINT):
        raise MetricUnavailable(
            f"weights of CLIP {name} are not in the hub cache and there is no network: {remedy}"
        )
    try:
        return Path(open_clip.download_pretrained(published))
    except Exception as error:
        raise MetricUnavailable(f"weights of CLIP {name} could not be fetched ({error}): {remedy}") from error
