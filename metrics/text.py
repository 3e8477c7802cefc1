"""Text similarity: does a generation show what its prompt says?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from metrics.clip_model import UsesClip
from metrics.interface import Column, Details, MetricUnavailable, Sample, Score


@dataclass(config={"extra": "forbid"})
class ClipT(UsesClip, kind="clip_t"):
    """Mean over all frames of the raw cosine between frame and prompt (Radford et al. 2021): neither clamped
    nor times 100, in float32. Fields as in ``UsesClip``.
    """

    version: ClassVar[str] = "1"
    column = Column("Text sim.")

    def score(self, sample: Sample) -> Score:
        """Cosine of the prompt, per frame and mean; details name the model and count the prompt's tokens."""
        clip = self.clip()
        cosines = clip.image_features(sample.generated) @ clip.text_features([sample.prompt])[0]
        tokens = clip.tokens(sample.prompt)
        details: Details = {"model": clip.id, "tokens": tokens}
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
            clip = self.clip()
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
