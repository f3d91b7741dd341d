"""The points behind the lines: thinned, pale enough to draw on, sorted so that the upper ones cover the lower."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.ndimage import distance_transform_edt, maximum_filter

from runtime.arrays import Array
from runtime.pictures import style
from runtime.pictures.space import Space
from runtime.points import PointCloud

MOST = 500_000  # points of a picture; more would only cover each other
CELL = 1.5  # pixels of the picture to a cell
COARSE = 8  # cells; where a point lies among as many, a surface is taken to be
RADIUS = (1.0, 9.0)  # cells: how far points may be taken to be apart
THIN = 30  # percent of these squares that hold fewer points
DISC, GAP = 0.45, 1.4  # a disc's radius and the widest gap that is closed, by the distance between points
PALE = 0.40  # share of white in every colour
GREYS = (0.45, 0.86)  # from the floor to the ceiling, where a cloud has no colours


@dataclass(frozen=True, slots=True)
class Dots:
    """points [N, 3] float64 in metres, colors [N, 3] float64 in 0 .. 1."""

    points: Array
    colors: Array

    def take(self, rows: Array) -> Dots:
        return Dots(self.points[rows], self.colors[rows])


def dots_of(cloud: PointCloud | None, space: Space) -> Dots:
    """The cloud's points within the space, below the ceiling, in their own colours or in greys by height."""
    if cloud is None or not len(cloud):
        return Dots(np.empty((0, 3)), np.empty((0, 3)))
    inside = ((cloud.points >= space.low) & (cloud.points <= space.high)).all(axis=1)
    cloud = cloud.take(inside & (cloud.points[:, 2] < space.cut))
    colors = _greys(cloud.points[:, 2], space) if cloud.colors is None else np.clip(cloud.colors, 0.0, 1.0)
    return Dots(cloud.points, PALE + (1.0 - PALE) * colors)


def _greys(heights: Array, space: Space) -> Array:
    share = (heights - space.low[2]) / (space.high - space.low)[2]
    return np.repeat((GREYS[0] + (GREYS[1] - GREYS[0]) * share)[:, None], 3, axis=1)


def draw_dots(ax: Any, places: Array, colors: Array, order: Array) -> None:
    """Paint places [N, 2] into the picture as one image; where points overlap, that of highest `order` [N] is seen.

    Called when the limits stand. A point is a disc that grows with the distance between points, so that surfaces look
    closed; a small gap takes the colour of the nearest point.
    """
    if not len(places):
        return
    low, high = np.array([ax.get_xlim(), ax.get_ylim()]).T
    pixels = ax.get_window_extent().size * style.DPI / ax.figure.dpi
    cell = float((high - low).max() / pixels.max() * CELL)
    shape = np.ceil((high - low) / cell).astype(int)
    columns, rows = np.clip(np.floor((places - low) / cell).astype(int), 0, shape - 1).T
    radius = float(np.clip(_spacing(columns, rows), *RADIUS))
    upward = np.argsort(order, kind="stable")
    rank = np.full((shape[1], shape[0]), -1)  # of the highest point, by its place in `upward`
    rank[rows[upward], columns[upward]] = np.arange(len(upward))
    rank = maximum_filter(rank, footprint=_disc(DISC * radius), mode="constant", cval=-1)
    gap, nearest = distance_transform_edt(rank < 0, return_indices=True)
    closed = distance_transform_edt(gap <= GAP * radius) > GAP * radius  # gaps, but no rim around what is there
    image = np.zeros((*rank.shape, 4))
    image[..., :3] = colors[upward[rank[tuple(nearest)]]]
    image[..., 3] = closed | (rank >= 0)
    extent = (low[0], low[0] + cell * shape[0], low[1], low[1] + cell * shape[1])
    ax.imshow(image, extent=extent, origin="lower", interpolation="nearest", aspect="equal", zorder=1)


def _spacing(columns: Array, rows: Array) -> float:
    """How many cells points are apart where they lie rather thinly: edge-on walls are dense, and say nothing."""
    _, counts = np.unique(np.stack([columns, rows]) // COARSE, axis=1, return_counts=True)
    return float(COARSE / np.sqrt(np.percentile(counts, THIN)))


def _disc(radius: float) -> Array:
    reach = np.arange(-int(radius), int(radius) + 1)
    return np.asarray(reach[:, None] ** 2 + reach**2 <= radius**2)
