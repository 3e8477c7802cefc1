"""Text similarity: does a generation show what its prompt says?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import field_validator
from pydantic.dataclasses import dataclass

from metrics.clip_model import check_clip_name, load_clip, weights_id
from metrics.interface import MetricUnavailable, Sample, Score


@dataclass(config={"extra": "forbid"})
class ClipT:
    """Mean over all frames of the raw cosine between frame and prompt (Radford et al. 2021): neither clamped
    nor times 100, in float32.

    ``model``: ``sprites`` or ``<architecture>/<tag>`` of open_clip. ``checkpoint``: local weights instead of
    the hub's. Figures of different models are not comparable.
    """

    name: str
    model: str
    checkpoint: str | None = None

    version: ClassVar[str] = "1"
    outside_id: ClassVar[Sequence[str]] = ("checkpoint",)
    label: ClassVar[str] = "Text sim."
    unit: ClassVar[str] = ""
    higher_is_better: ClassVar[bool] = True
    uses_tracks: ClassVar[bool] = False

    @field_validator("model")
    @classmethod
    def _known(cls, model: str) -> str:
        check_clip_name(model)
        return model

    def ready(self) -> None:
        """Raises MetricUnavailable when the weights are not to be had."""
        load_clip(self.model, self.checkpoint)

    def weights_id(self) -> str:
        """Identity of the CLIP's weights; empty while they are not at hand."""
        return weights_id(self.model, self.checkpoint)

    def score(self, sample: Sample) -> Score:
        """Cosine of the prompt, per frame and mean; details name the model and count the prompt's tokens."""
        clip = load_clip(self.model, self.checkpoint)
        cosines = clip.image_features(sample.generated) @ clip.text_features([sample.prompt])[0]
        tokens = clip.tokens(sample.prompt)
        details: dict[str, float | int | str] = {"model": clip.id, "tokens": tokens}
        if tokens > clip.context_length:
            details["truncated_to"] = clip.context_length
        return Score(float(cosines.mean()), per_frame=tuple(cosines.tolist()), details=details)

    def levels(self, samples: Iterable[Sample]) -> dict[str, float]:
        """Both from true clips, each once, never from generations.

        ``true``: mean cosine of reference frames with their own caption. ``chance``: with the captions of the
        other clips (every different text once). ``pairs``: mismatched pairs averaged. Empty without captions.
        """
        images: dict[str, tuple[str, NDArray[np.float32]]] = {}
        try:
            clip = load_clip(self.model, self.checkpoint)
        except MetricUnavailable:
            return {}
        for sample in samples:
            if sample.caption is not None and sample.clip not in images:
                # A mean of cosines is the cosine with the mean feature, left unnormalised.
                images[sample.clip] = sample.caption, clip.image_features(sample.reference).mean(0)
        if not images:
            return {}
        captions = list(dict.fromkeys(caption for caption, _ in images.values()))
        cosines = np.stack([image for _, image in images.values()]) @ clip.text_features(captions).T
        own = np.array([[caption == other for other in captions] for caption, _ in images.values()])
        levels = {"true": float(cosines[own].mean()), "pairs": float((~own).sum())}
        if (~own).any():
            levels["chance"] = float(cosines[~own].mean())
        return levels
