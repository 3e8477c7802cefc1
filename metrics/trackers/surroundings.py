"""What points look like in the frame they begin in, and where and how deformed that is seen again.

Surroundings are weighted by how alike they are to the point's own colour, so that an object's points are
not judged by the background beside them (Yoon and Kweon, "Adaptive support-weight approach for correspondence
search", PAMI 2006). They are fitted by an affine map, inverse compositional (Baker and Matthews,
"Lucas-Kanade 20 years on", IJCV 2004).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Indices = NDArray[np.intp]

REACH, GAP = 6, 2
"""Surroundings are every other pixel of a square that reaches so far from the point."""
ALIKE_COLOUR = 20.0
"""Standard deviation, in grey levels, of the Gaussian of a pixel's difference from the point's own colour."""
STIFFNESS = 20.0, 200.0
"""Added to the fit's normal equations for its shift and its deformation, in squared grey levels (a pixel):
without texture nothing is moved or turned."""
FITS = 3
"""Steps of the fit."""
FURTHEST = 4.0
"""A fit that ends further away, in pixels, is another place's."""
LARGEST = 5.0
"""An area grows or shrinks by this factor at most."""


def sample(field: Floats, points: Floats) -> Floats:
    """Bilinear values (N, C) of a field (H, W, C) at points (N, 2) x, y; beyond the border, the border's."""
    import cv2

    # remap refuses maps wider than 32767; one row per point keeps any number of points legal.
    maps = np.ascontiguousarray(points, np.float32)
    rows = [
        cv2.remap(field, part[:, :1], part[:, 1:], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        for part in np.array_split(maps, len(maps) // 30_000 + 1)
    ]
    return np.asarray(np.concatenate(rows), np.float32).reshape(len(points), -1)


def lattice() -> Floats:
    """Offsets (K, 2) of the surroundings' pixels from the point; the middle one is 0."""
    offset = np.arange(-REACH, REACH + 1, GAP, dtype=np.float32)
    return np.stack(np.meshgrid(offset, offset), -1).reshape(-1, 2)


@dataclass(frozen=True)
class Places:
    """Where points may be: ``at`` (N, 2), their surroundings mapped by ``affine`` (N, 2, 2), float32."""

    at: Floats
    affine: Floats

    def where(self, better: NDArray[np.bool_], other: Places) -> Places:
        """The other's places where ``better`` (N,) holds, else these."""
        return Places(
            np.where(better[:, None], other.at, self.at),
            np.where(better[:, None, None], other.affine, self.affine),
        )

    def some(self, which: Indices) -> Places:
        return Places(self.at[which], self.affine[which])


@dataclass(frozen=True)
class Surroundings:
    """``colours`` (N, K, 3) and ``weights`` (N, K) of what is around points.

    ``slopes`` (N, 3 K, 6), weighted, and ``inverse`` (N, 6, 6) are the fit's normal equations.
    """

    colours: Floats
    weights: Floats
    slopes: Floats
    inverse: Floats

    @staticmethod
    def of(image: Floats, points: Floats) -> Surroundings:
        """Of points (N, 2) in an image (H, W, 3) float32."""
        import cv2

        offsets = lattice()
        places = (points[:, None] + offsets).reshape(-1, 2)
        shape = (len(points), len(offsets), 3)
        colours = sample(image, places).reshape(shape)
        apart = np.abs(colours - colours[:, len(offsets) // 2, None]).mean(-1)
        near = np.exp(-(offsets**2).sum(-1) / (2 * (0.75 * REACH) ** 2))
        weights = near * (np.exp(-((apart / ALIKE_COLOUR) ** 2) / 2) + 1e-3)
        weights = np.asarray(weights / weights.sum(1, keepdims=True), np.float32)
        gradient = [
            sample(np.asarray(cv2.Sobel(image, cv2.CV_32F, *order, scale=1 / 8), np.float32), places)
            for order in ((1, 0), (0, 1))
        ]
        x, y = (offsets[:, axis, None] for axis in (0, 1))
        gradient = [part.reshape(shape) for part in gradient]
        slopes = np.stack([*gradient, *(part * along for part in gradient for along in (x, y))], -1)
        weighted = slopes * weights[..., None, None]
        normal = np.einsum("nkci,nkcj->nij", weighted, slopes, optimize=True)
        stiff = np.array([STIFFNESS[0]] * 2 + [STIFFNESS[1] * REACH**2] * 4, np.float32)
        inverse = np.linalg.inv(normal + np.diag(stiff))
        return Surroundings(colours, weights, weighted.reshape(len(points), -1, 6), inverse)

    def some(self, which: Indices) -> Surroundings:
        """Those of some of the points."""
        return Surroundings(self.colours[which], self.weights[which], self.slopes[which], self.inverse[which])

    def difference(self, image: Floats, places: Places) -> Floats:
        """Colours (N, K, 3) at places of an image, less these."""
        around = places.at[:, None] + lattice() @ places.affine.transpose(0, 2, 1)
        return sample(image, around.reshape(-1, 2)).reshape(self.colours.shape) - self.colours

    def mean(self, difference: Floats) -> Floats:
        """Weighted mean (N,) of a difference's absolute grey levels."""
        return np.asarray((np.abs(difference).mean(-1) * self.weights).sum(1))

    def unlike(self, image: Floats, places: Places) -> Floats:
        """How different (N,), in grey levels, each point's place in an image looks."""
        return self.mean(self.difference(image, places))

    def fitted(self, image: Floats, places: Places) -> tuple[Places, Floats]:
        """The places near by, moved and deformed, that look most alike, and how different (N,) they look."""
        tried, best = places, places
        difference = self.difference(image, places)
        least = self.mean(difference)
        for _ in range(FITS):
            pull = np.einsum("nki,nk->ni", self.slopes, difference.reshape(len(least), -1))
            step = np.einsum("nij,nj->ni", self.inverse, pull)
            deformed = np.eye(2, dtype=np.float32) + step[:, 2:].reshape(-1, 2, 2).clip(-0.3, 0.3)
            affine = tried.affine @ np.linalg.inv(deformed)
            tried = Places(tried.at - np.einsum("nij,nj->ni", affine, step[:, :2]), affine)
            difference = self.difference(image, tried)
            now = self.mean(difference)
            area = np.abs(np.linalg.det(affine))
            near = np.linalg.norm(tried.at - places.at, axis=1) < FURTHEST
            better = (now < least) & near & (area > 1 / LARGEST) & (area < LARGEST)
            best, least = best.where(better, tried), np.where(better, now, least)
        return best, least
