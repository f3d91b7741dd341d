"""Areas of overlap of flat convex shapes, by shapely: the only file that imports it, when it is needed."""

from __future__ import annotations

import numpy as np

from runtime.arrays import Array


def overlap_areas(first: Array, second: Array) -> tuple[Array, Array, Array]:
    """Areas [N] float64: of each shape of `first` [N, V, 2], of each of `second` [N, V, 2], and of what the two share.

    Corners go round once. Where a coordinate is not finite, all three areas are nan.
    """
    import shapely

    areas = np.full((3, len(first)), np.nan)
    usable = np.isfinite(first).all(axis=(1, 2)) & np.isfinite(second).all(axis=(1, 2))  # [N]
    one, other = shapely.polygons(first[usable]), shapely.polygons(second[usable])
    areas[:, usable] = shapely.area(one), shapely.area(other), shapely.area(shapely.intersection(one, other))
    return areas[0], areas[1], areas[2]


def ratio(intersection: Array, union: Array) -> Array:
    """Intersection over union [N]; nan where there is nothing to divide by, or numbers too large to compare."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.where(union > 0, intersection / union, np.nan)
