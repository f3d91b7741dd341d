"""How far the scene reaches: the frame of a picture, its floor and its ceiling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from runtime.arrays import Array
from runtime.pictures.shapes import Shapes

STRAYS = (0.3, 99.7)  # percentiles between which the bulk of the points lies
MARGIN = 1.0  # of the cloud's extent: a layout that reaches further is cut off by the frame
CEILING = 0.08  # the uppermost part of a room's height
CROWDED = 0.04  # share of the points that a ceiling has at least


@dataclass(frozen=True, slots=True)
class Space:
    """Corners of the scene's box in metres, and the height below which nothing hides the room."""

    low: Array  # [3]
    high: Array  # [3]
    cut: float  # points above it belong to the ceiling; infinity where there is none

    @property
    def span(self) -> float:
        """The longest horizontal edge, in metres."""
        return float((self.high - self.low)[:2].max())

    @property
    def center(self) -> Array:
        return (self.low + self.high) / 2

    def beyond(self, corners: Array) -> bool:
        """Whether a shape with these corners [8, 3] reaches out of the frame."""
        slack = 0.02 * (self.high - self.low)
        return bool((corners < self.low - slack).any() or (corners > self.high + slack).any())


def space_of(points: Array, layouts: Sequence[Shapes]) -> Space:
    """The box around the bulk of points [N, 3] and the layouts. A layout far outside of the cloud does not make the
    scene a dot: it is cut off."""
    corners = np.concatenate([np.empty((0, 3)), *(layout.corners for layout in layouts)])
    if len(points):
        low, high = np.percentile(points, STRAYS, axis=0)
        reach = MARGIN * max(float((high - low).max()), 1e-6)
        corners = np.clip(corners, low - reach, high + reach)
        corners = np.concatenate([corners, [low, high]])
    if not len(corners):
        corners = np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    low, high = corners.min(axis=0), corners.max(axis=0)
    least = max(1e-3 * float((high - low).max()), 1e-9 * float(np.abs(corners).max()), 1e-6)
    thin = high - low < least  # a flat scene still has a frame
    low, high = np.where(thin, low - least, low), np.where(thin, high + least, high)
    return Space(low, high, _ceiling(points))


def _ceiling(points: Array) -> float:
    if not len(points):
        return float("inf")
    heights = points[:, 2]
    low, high = np.percentile(heights, STRAYS)
    cut = float(high - CEILING * (high - low))
    return cut if (heights > cut).mean() > CROWDED else float("inf")
