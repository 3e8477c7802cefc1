"""MTBench: DeT's 100 clips of DAVIS and YouTube-VOS, five prompts each, with masks and tracks.

Shi et al., "Decouple and Track" (DeT), ICCV 2025 (arXiv:2503.17350). A clip's folder, as
``Shi-qingyu/DeT:data`` has three of them: ``videos/<clip>.mp4``, ``masks/<clip>/00000.png``...,
``trajectories/<clip>.pth``, ``eval_prompts.txt`` (a prompt a line) and ``prompts.txt`` (the caption).
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from datasets.errors import InputError
from datasets.hashing import file_sha256
from datasets.interface import Prompt
from datasets.media import images
from datasets.media.frame_files import junk
from datasets.tracked import Entry, TrackedFootage, Tracks, checked_tracks

PROMPTS = "eval_prompts.txt"
CLUSTERS = range(2, 7)
FLOOR = 0.5
"""Silhouette above which tracks are several clusters: "reasonable structure" to Kaufman and Rousseeuw,
*Finding Groups in Data*, 1990. Points spread evenly over one object reach about .4 as they lie."""
_STARTS = 8


@dataclass(config={"extra": "forbid"})
class MTBench(TrackedFootage, kind="mtbench"):
    """Clips of ``root``, or of ``MTBench`` in it, at most 49 frames of each.

    The mask is that of the first frame, what exceeds half of white. Masks are numbered as the clip that the
    video was made from, so that no other is known to belong to a frame. The stratum ``clusters`` is the
    number of clusters of the tracks. The paper calls clips easy, medium and hard by such a number; where it
    is stored is not known. Other fields as in ``Footage``.
    """

    name: str = "mtbench"

    longest: ClassVar[int] = 49
    source: ClassVar[str] = (
        "MTBench (Shi et al., DeT, ICCV 2025, arXiv:2503.17350; hub QingyuShi/MTBench): "
        "no licence was found; footage of DAVIS and YouTube-VOS"
    )

    def entries(self) -> Mapping[str, Entry | str]:
        """Every folder of ``root``; InputError where none has prompts."""
        root = self.home()
        if (root / PROMPTS).is_file():
            raise InputError(f"dataset.root={root}: is one clip's folder; set dataset.root={root.parent}")
        root = root / "MTBench" if (root / "MTBench").is_dir() else root
        folders = [path for path in sorted(root.iterdir()) if path.is_dir() and not junk(path)]
        if not any((folder / PROMPTS).is_file() for folder in folders):
            first = folders[0].name if folders else "<clip>"
            raise InputError(
                f"{root / first / PROMPTS}: missing, and so in every folder of dataset.root={root}; "
                "name the folder of MTBench's clips (hub QingyuShi/MTBench)"
            )
        return {folder.name: _entry(folder) for folder in folders}

    def read_mask(self, path: Path) -> images.Mask:
        """(H, W) bool: half of white or more, as the masks' edges are smooth."""
        return np.asarray(images.read_image(path).max(axis=-1) > 127)

    def read_tracks(self, entry: Entry, size: tuple[int, int]) -> Tracks | None:
        """Tracks in pixels; the file has them in shares of width and height, also beyond 1."""
        if entry.tracks is None:
            return None
        height, width = size
        return _loaded(entry.tracks) * np.array([width, height, 1], np.float32)

    def strata(self, entry: Entry, size: tuple[int, int]) -> Mapping[str, str]:
        """``clusters``, where there are tracks."""
        if entry.tracks is None:
            return {}
        return {"clusters": str(_clusters_of(entry.tracks, file_sha256(entry.tracks), size))}


def clusters(tracks: Tracks, seed: int = 0) -> int:
    """How many clusters (T, N, 3) tracks form: of k-means for 2 to 6, the one of the best mean silhouette.

    1 where none exceeds ``FLOOR``. Each track is one point of 2T coordinates, in pixels.
    """
    from scipy.spatial.distance import cdist

    points = tracks[..., :2].transpose(1, 0, 2).reshape(tracks.shape[1], -1).astype(float)
    apart = cdist(points, points)
    most = min(len(np.unique(points, axis=0)), len(points) - 1)
    scores = {k: _silhouette(apart, _k_means(points, k, seed)) for k in CLUSTERS if k <= most}
    best = max(scores, key=lambda k: scores[k], default=1)
    return best if scores.get(best, 0.0) > FLOOR else 1


def _k_means(points: NDArray[np.float64], k: int, seed: int) -> NDArray[np.intp]:
    """Labels of the tightest of several k-means from other starts; zeros where all lost a cluster."""
    from scipy.cluster.vq import ClusterError, kmeans2

    labels, least = np.zeros(len(points), np.intp), np.inf
    for start in range(_STARTS):
        rng = np.random.default_rng([seed, k, start])
        try:
            centres, found = kmeans2(points, k, iter=50, minit="++", missing="raise", seed=rng)
        except ClusterError:
            continue
        spread = float(((points - centres[found]) ** 2).sum())
        if spread < least:
            labels, least = found, spread
    return labels


def _silhouette(apart: NDArray[np.float64], labels: NDArray[np.intp]) -> float:
    """Mean silhouette (Rousseeuw 1987) from distances (N, N); a point alone counts 0, as does one cluster."""
    members = labels == np.unique(labels)[:, None]
    if len(members) < 2:
        return 0.0
    sums, sizes = apart @ members.T, members.sum(axis=1)
    own = members.T
    within = sums[own] / np.maximum(sizes[own.argmax(axis=1)] - 1, 1)
    beyond = np.where(own, np.inf, sums / sizes).min(axis=1)
    widest = np.maximum(within, beyond)
    alone = sizes[own.argmax(axis=1)] == 1
    values = np.divide(beyond - within, widest, out=np.zeros_like(widest), where=(widest > 0) & ~alone)
    return float(values.mean())


@lru_cache(maxsize=1024)
def _clusters_of(path: Path, sha256: str, size: tuple[int, int]) -> int:
    return clusters(_loaded(path) * np.array([size[1], size[0], 1], np.float32))


def _loaded(path: Path) -> Tracks:
    import torch

    try:
        tensor = torch.load(path, map_location="cpu", weights_only=True)
        tracks = np.asarray(torch.as_tensor(tensor).detach().float())
    except (OSError, RuntimeError, ValueError, TypeError, EOFError, LookupError, pickle.PickleError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{path}: cannot be read as tracks ({said}); replace it, or remove it to run the clip without"
        ) from error
    return checked_tracks(path, tracks)


def _entry(folder: Path) -> Entry | str:
    name = folder.name
    prompts = _lines(folder / PROMPTS)
    film = folder / "videos" / f"{name}.mp4"
    if not prompts:
        return f"has no {PROMPTS}" if not (folder / PROMPTS).is_file() else f"has nothing in {PROMPTS}"
    if not film.is_file():
        return f"has no videos/{film.name}"
    mask, tracks = folder / "masks" / name / "00000.png", folder / "trajectories" / f"{name}.pth"
    return Entry(
        film,
        tuple(Prompt(text) for text in dict.fromkeys(prompts)),
        next(iter(_lines(folder / "prompts.txt")), None),
        mask if mask.is_file() else None,
        tracks if tracks.is_file() else None,
    )


def _lines(path: Path) -> Sequence[str]:
    """The lines of a text that are not empty, stripped; none without the file."""
    try:
        text = path.read_text("utf-8-sig")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); write it as UTF-8 text") from error
    return [line.strip() for line in text.splitlines() if line.strip()]
