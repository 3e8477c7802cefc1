"""CoTracker3 (Karaev et al. 2024), loaded through torch.hub at a pinned commit. Optional.

Its code and weights are CC BY-NC 4.0 (``facebookresearch/co-tracker``); nothing of it ships here.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from datasets.hashing import file_sha256
from datasets.weights import Weight
from metrics.interface import MetricUnavailable, Tracker, Tracks
from metrics.trackers.starts import start_points
from metrics.weights import files_id

HUB = "facebookresearch/co-tracker"
WEIGHTS_URL = "https://huggingface.co/facebook/cotracker3/resolve/main/scaled_offline.pth"
SIZE, LICENCE = 101_900_000, "CC BY-NC 4.0"
WEIGHTS_SHA256 = "2670d4562ed69326dda775a26e54883925cd11b6fc9b24cb7aa9f8078bce7834"


@dataclass(config={"extra": "forbid"})
class CoTracker3(Tracker, kind="cotracker3"):
    """The offline model, asked for a regular grid of points in several frames, tracked both ways.

    ``grid``: points a side. ``starts``: frames in which a grid begins. ``commit``: of
    ``facebookresearch/co-tracker``. ``repository``: a local clone to use instead. ``checkpoint``: a local
    ``scaled_offline.pth``. ``device``: ``auto`` takes CUDA where there is one. The points are given as
    queries, so the model adds its 6x6 support grid with and without a mask.
    """

    name: str
    grid: Annotated[int, Field(ge=2, le=256)] = 30
    starts: Annotated[int, Field(ge=1)] = 3
    commit: Annotated[str, Field(pattern="^[0-9a-f]{40}$")] = "82e02e8029753ad4ef13cf06be7f4fc5facdda4d"
    repository: str | None = None
    checkpoint: str | None = None
    device: str = "auto"

    version: ClassVar[str] = "2"
    outside_id: ClassVar[Sequence[str]] = ("repository", "checkpoint", "device")
    runs: ClassVar[Sequence[str]] = ("cotracker",)

    def ready(self) -> None:
        """Raises MetricUnavailable when code or weights cannot be had."""
        # Not on the GPU: a tracker lying there would count in the memory of the cells to come.
        model = _load(self.commit, self.repository, self.checkpoint, "cpu")
        if isinstance(model, str):
            raise MetricUnavailable(model)

    def weights_id(self) -> str:
        """Identity of the weights and of a local clone's code; empty while a local file is not at hand."""
        weights = files_id([Path(self.checkpoint)]) if self.checkpoint else f"sha256:{WEIGHTS_SHA256[:16]}"
        if self.repository is None or not weights:
            return weights
        clone = Path(self.repository)
        code = files_id([clone / "hubconf.py", *sorted(clone.glob("cotracker/**/*.py"))])
        return f"{weights} code {code}" if code else ""

    def needed_weights(self) -> Sequence[Weight]:
        """Those of the offline model."""
        path = Path(self.checkpoint) if self.checkpoint else _file()
        fetch = None if self.checkpoint else _fetch
        return (Weight("facebook/cotracker3", SIZE, LICENCE, path if path.is_file() else None, fetch),)

    def track(self, frames: NDArray[np.uint8], masks: NDArray[np.bool_] | None = None) -> Tracks:
        """See ``Tracker.track``. Raises MetricUnavailable when code or weights cannot be had."""
        import torch

        points, start = start_points(frames, self.grid, self.starts, masks)
        if not len(points):
            return Tracks(np.empty((len(frames), 0, 2), np.float32), np.empty((len(frames), 0), bool), start)
        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        model = _load(self.commit, self.repository, self.checkpoint, device)
        if isinstance(model, str):
            raise MetricUnavailable(model)
        video = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)[None].float().to(device)
        queries = torch.from_numpy(np.concatenate([start[:, None].astype(np.float32), points], 1))
        with torch.inference_mode():
            # Without it the model follows a point only from its frame on.
            found, visible = model(video, queries=queries[None].to(device), backward_tracking=True)
        return Tracks(found[0].float().cpu().numpy(), visible[0].cpu().numpy().astype(bool), start)


@lru_cache(maxsize=1)
def _load(commit: str, repository: str | None, checkpoint: str | None, device: str) -> Any:
    """The predictor, or the reason why there is none; a failure is remembered, not tried again per cell."""
    import torch

    remedy = (
        "connect once, or set tracker.repository to a clone and tracker.checkpoint to scaled_offline.pth, "
        "or use tracker=dis"
    )
    load: Any = torch.hub.load  # untyped
    try:
        model = load(
            repository or f"{HUB}:{commit}",
            "cotracker3_offline",
            source="local" if repository else "github",
            pretrained=False,
            # Asked for by `runs`, before anything is fetched.
            trust_repo=True,
            skip_validation=True,
            verbose=False,
        )
        weights = Path(checkpoint) if checkpoint else _fetch()
        if checkpoint is None and file_sha256(weights) != WEIGHTS_SHA256:
            return (
                f"tracker cotracker3: {weights} is not the known scaled_offline.pth; delete it and run again"
            )
        state = torch.load(weights, map_location="cpu", weights_only=True)
        model.model.load_state_dict(state.get("model", state))
        return model.to(device).eval()
    except Exception as error:
        return f"tracker cotracker3 cannot be loaded ({type(error).__name__}: {error}): {remedy}"


def _file() -> Path:
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints" / "scaled_offline.pth"


def _fetch() -> Path:
    import torch

    path = _file()
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(WEIGHTS_URL, str(path), progress=sys.stderr.isatty())
    return path
