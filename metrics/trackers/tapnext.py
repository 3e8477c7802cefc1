"""TAPNext (Zholus et al., "TAPNext: Tracking Any Point as Next Token Prediction", ICCV 2025). Optional.

Code and weights are Apache-2.0; nothing of them ships here. Spoken to as in
``google-deepmind/tapnet:tapnet/tapnext/tapnext_torch.py`` and ``colabs/torch_tapnext_demo.ipynb``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from datasets.weights import Weight
from metrics.interface import MetricUnavailable, Tracker, Tracks
from metrics.trackers.starts import start_points
from metrics.weights import files_id

COMMIT = "c2cbab81cc06092b5f05bfe2da7bfec54e2079c9"
WEIGHTS_URL = "https://storage.googleapis.com/dm-tapnet/tapnext/bootstapnext_ckpt.npz"
SIDE = 256
"""Height and width of what the model sees, in pixels."""
REMEDY = (
    f"pip install einops 'tapnet @ git+https://github.com/google-deepmind/tapnet@{COMMIT}', fetch "
    f"{WEIGHTS_URL} and name the file in tracker.checkpoint, or use tracker=dis"
)


@dataclass(config={"extra": "forbid"})
class TapNext(Tracker, kind="tapnext"):
    """TAPNext, frame by frame, from a regular grid of points in several frames, both ways in time.

    It only looks ahead, so the frames before a start are shown to it backwards. ``grid``: points a side.
    ``starts``: frames in which a grid begins. ``checkpoint``: a local ``bootstapnext_ckpt.npz`` (or
    ``tapnext_ckpt.npz``). ``device``: ``auto`` takes CUDA where there is one.
    """

    name: str
    grid: Annotated[int, Field(ge=2, le=256)] = 30
    starts: Annotated[int, Field(ge=1)] = 3
    checkpoint: str | None = None
    device: str = "auto"

    version: ClassVar[str] = "1"
    outside_id: ClassVar[Sequence[str]] = ("checkpoint", "device")

    def ready(self) -> None:
        """Raises MetricUnavailable when code or weights are not at hand."""
        # Not on the GPU: a tracker lying there would count in the memory of the cells to come.
        self._model("cpu")

    def weights_id(self) -> str:
        """Identity of the weights and of the installed code; empty while either is not at hand."""
        code = _code()
        weights = files_id([Path(self.checkpoint)]) if self.checkpoint else ""
        found = files_id(code) if code else ""
        return f"{weights} code {found}" if weights and found else ""

    def needed_weights(self) -> Sequence[Weight]:
        """Those of BootsTAPNext, to be given by hand."""
        path = Path(self.checkpoint) if self.checkpoint else None
        at_hand = path if path is not None and path.is_file() else None
        return (Weight("bootstapnext_ckpt.npz", 0, "Apache-2.0", at_hand),)

    def track(self, frames: NDArray[np.uint8], masks: NDArray[np.bool_] | None = None) -> Tracks:
        """See ``Tracker.track``. Raises MetricUnavailable when code or weights are not at hand."""
        points, start = start_points(frames, self.grid, self.starts, masks)
        found = np.repeat(points[None], len(frames), 0)
        visible = np.ones(found.shape[:2], bool)
        for begun in np.unique(start):
            own = start == begun
            for way in (slice(begun, None), slice(begun, None, -1)):
                if len(frames[way]) > 1:
                    places, seen = self._onward(frames[way], points[own])
                    found[way, own], visible[way, own] = places, seen
            found[begun, own], visible[begun, own] = points[own], True
        return Tracks(found, visible, start)

    def _onward(
        self, frames: NDArray[np.uint8], points: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Points (N, 2) of the first frame followed through all: (T, N, 2) and visibility (T, N)."""
        import torch
        import torch.nn.functional as F

        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        model = self._model(device)
        # The model's pixel centres lie at halves, ours at integers; it speaks of rows first.
        scale = SIDE / torch.tensor([frames.shape[1], frames.shape[2]])
        rows_columns = (torch.from_numpy(points).flip(-1) + 0.5) * scale
        queries = torch.cat([torch.zeros(len(points), 1), rows_columns], -1)[None].to(device)
        places, seen, state = [], [], None
        with torch.inference_mode():
            for frame in frames:
                pixels = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None].float()
                image = F.interpolate(pixels, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
                image = image.permute(0, 2, 3, 1)[None].to(device) / 127.5 - 1
                asked = {"query_points": queries} if state is None else {"state": state}
                tracks, _, visible, state = model(video=image, **asked)
                places.append((tracks[0, 0].float().cpu() / scale - 0.5).flip(-1).numpy())
                seen.append((visible[0, 0, :, 0] > 0).cpu().numpy())
        return np.stack(places), np.stack(seen)

    def _model(self, device: str) -> Any:
        model = _load(self.checkpoint, device)
        if isinstance(model, str):
            raise MetricUnavailable(model)
        return model


def _code() -> list[Path]:
    """The model's files in the installed package; none where it is not installed."""
    try:
        spec = find_spec("tapnet.tapnext")
    except ModuleNotFoundError:
        return []
    folders = list(spec.submodule_search_locations or []) if spec else []
    return [path for folder in folders for path in sorted(Path(folder).glob("*.py"))]


@lru_cache(maxsize=1)
def _load(checkpoint: str | None, device: str) -> Any:
    """The model, or the reason why there is none; a failure is remembered, not tried again per cell."""
    if checkpoint is None:
        return f"tracker tapnext has no weights: {REMEDY}"
    try:
        from tapnet.tapnext.tapnext_torch import TAPNext
        from tapnet.tapnext.tapnext_torch_utils import restore_model_from_jax_checkpoint

        model = restore_model_from_jax_checkpoint(TAPNext(image_size=(SIDE, SIDE)), checkpoint)
        return model.to(device).eval()
    except Exception as error:
        return f"tracker tapnext cannot be loaded ({type(error).__name__}: {error}): {REMEDY}"
