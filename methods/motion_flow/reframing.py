"""A reference's motion, shifted, scaled or warped to another frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pydantic
from numpy.typing import NDArray
from pydantic import Field

from datasets.errors import InputError
from methods.backbones.interface import Grid
from methods.guidance.loop import Start

if TYPE_CHECKING:
    from torch import Tensor


Point = tuple[float, float]


Matrix = NDArray[np.float64]


# Points this close to the horizon of a perspective, or beyond it, are in no frame.
HORIZON = 1e-9


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class Reframing:
    """Where the reference's frame goes: scaled about its centre, then its corners moved, then shifted.

    ``shift``: rows and columns, as shares of the frame's height and width; positive is down and right.
    ``scale``: factor of lengths. ``corners``: where the frame's top left, top right, bottom right and
    bottom left go, (row, column) in shares of the frame, so that (0, 0) and (1, 1) are its own; null
    leaves them.
    """

    shift: Point = (0.0, 0.0)
    scale: Annotated[float, Field(gt=0)] = 1.0
    corners: tuple[Point, Point, Point, Point] | None = None

    def homography(self, height: int, width: int) -> Matrix:
        """(3, 3) float64: where (row, column, 1) of the reference goes, in homogeneous coordinates."""
        size = np.array([height, width], float)
        scaled = np.diag([self.scale, self.scale, 1.0])
        scaled[:2, 2] = (1 - self.scale) * (size - 1) / 2
        shifted = np.eye(3)
        shifted[:2, 2] = self.shift * size
        if self.corners is None:
            return shifted @ scaled
        import cv2

        own = np.array([(0, 0), (0, 1), (1, 1), (1, 0)])
        both = [(np.array(corners) * size - 0.5).astype(np.float32) for corners in (own, self.corners)]
        return shifted @ cv2.getPerspectiveTransform(*both) @ scaled


def check_reframing(reframing: Reframing, grid: Grid, start: Start) -> None:
    """InputError for corners that fold the frame, a warp that leaves nothing in it, and an SDEdit start."""
    if reframing.corners is not None:
        sides = np.diff([*reframing.corners, *reframing.corners[:2]], axis=0)
        turns = sides[:-1, 0] * sides[1:, 1] - sides[:-1, 1] * sides[1:, 0]
        if (np.abs(turns) < 1e-6).any() or len({*np.sign(turns)}) > 1:
            raise InputError(
                f"method.reframing.corners={[list(corner) for corner in reframing.corners]} are no convex "
                "quadrilateral; give top left, top right, bottom right, bottom left as (row, column)"
            )
    matrix = reframing.homography(grid.height, grid.width)
    if not sources(matrix, grid.height, grid.width)[1].any():
        raise InputError("method.reframing moves the whole reference out of the frame; shift less")
    if start.strength is not None and not np.array_equal(matrix, np.eye(3)):
        raise InputError(
            f"method.start.strength={start.strength} starts from the reference as it was framed; "
            "with a reframing set method.start.strength=null"
        )


def project(matrix: Any, points: Any) -> tuple[Any, Any]:
    """Where a homography (3, 3) takes points (..., 2), and which (...) lie before its horizon.

    Both arrays of NumPy, or both of PyTorch.
    """
    homogeneous = points @ matrix[:, :2].T + matrix[:, 2]
    depth = homogeneous[..., 2]
    return homogeneous[..., :2] / depth[..., None].clip(min=HORIZON), depth > HORIZON


def sources(matrix: Matrix, height: int, width: int) -> tuple[Matrix, NDArray[np.bool_]]:
    """Where each token of the reframed frame was, (S, 2) row-major, and whether in the frame, (S,)."""
    tokens = np.indices((height, width)).reshape(2, -1).T.astype(float)
    where, visible = project(np.linalg.inv(matrix), tokens)
    inside = (where >= -0.5 - 1e-6) & (where <= np.array([height, width]) - 0.5 + 1e-6)
    return where, visible & inside.all(1)


def interpolation(where: Matrix, height: int, width: int) -> Matrix:
    """(S, S) weights that read a field on the tokens, by linear interpolation, at positions (S, 2).

    Beyond the outermost token centres the field goes on as it is there. Rows sum to 1.
    """
    rows, columns = (
        np.clip(1 - np.abs(where[:, axis, None].clip(0, size - 1) - np.arange(size)), 0, None)
        for axis, size in enumerate((height, width))
    )
    weights: Matrix = rows[:, :, None] * columns[:, None, :]
    return weights.reshape(len(where), -1)


def warp_features(features: Tensor, reframing: Reframing, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Features (F, S, ...) on the token grid, reframed, and which tokens (S,) bool have any.

    The identity gives back ``features`` itself.
    """
    import torch

    matrix = reframing.homography(height, width)
    where, valid = sources(matrix, height, width)
    seen = torch.from_numpy(valid).to(features.device)
    if np.array_equal(matrix, np.eye(3)):
        return features, seen
    weights = torch.from_numpy(interpolation(where, height, width)).to(features)
    return torch.einsum("ts,fs...->ft...", weights, features), seen


def warp_displacement(
    displacement: Tensor, reframing: Reframing, height: int, width: int
) -> tuple[Tensor, Tensor]:
    """Displacements (P, S, 2) in tokens, reframed, and which tokens (S,) bool have any.

    What was at p and went to p + d is at H(p) and goes to H(p + d), at most to the frame's border. The
    identity gives back ``displacement`` itself.
    """
    import torch

    matrix = reframing.homography(height, width)
    where, valid = sources(matrix, height, width)
    seen = torch.from_numpy(valid).to(displacement.device)
    if np.array_equal(matrix, np.eye(3)):
        return displacement, seen
    weights, forward, before, tokens, border = (
        torch.from_numpy(array).to(displacement.device)
        for array in (
            interpolation(where, height, width),
            matrix,
            where,
            np.indices((height, width)).reshape(2, -1).T.astype(float),
            np.array([height - 1.0, width - 1.0]),
        )
    )
    after, visible = project(forward, before + weights @ displacement.double())
    after = torch.minimum(after.clamp(min=0), border)
    return (after - tokens).to(displacement.dtype), seen & visible.all(0)
