"""Which points a clean-up would leave: what is too sparse to last shows nothing."""

from __future__ import annotations

import numpy as np

from runtime.arrays import Array

VOXEL = 0.05  # metres, as the model's pipeline has it
CUBE = 3  # voxels along an edge; 27 cubes around a point stand for its neighbours
STD_RATIO = 2.0


def lasting(points: Array) -> Array:
    """bool [N]: whether `runtime.points.clean_up` would keep a point of [N, 3], for some 99 of 100 points.

    The distance to a point's neighbours goes with 1 / sqrt(occupied voxels around it), which needs no search.
    """
    voxels = np.floor((points - points.min(axis=0)) / VOXEL).astype(np.int64)
    span = voxels.max(axis=0) + 1
    occupied = np.zeros(int(span.prod()), dtype=bool)
    occupied[_keys(voxels, span)] = True
    cubes = span // CUBE + 3  # a margin of one cube, so that no sum wraps around
    places = np.stack(np.unravel_index(np.flatnonzero(occupied), tuple(span)), axis=1)
    keys = _keys(places // CUBE + 1, cubes)
    around = _sums_of_27(np.bincount(keys, minlength=int(cubes.prod())).reshape(cubes)).ravel()
    distances = 1 / np.sqrt(around[keys])
    limit = distances.mean() + STD_RATIO * distances.std()
    kept: Array = around[_keys(voxels // CUBE + 1, cubes)] > 1 / limit**2
    return kept


def _keys(cells: Array, span: Array) -> Array:
    """One number [N] for each cell [N, 3] of a grid of `span` cells."""
    keys: Array = (cells[:, 0] * span[1] + cells[:, 1]) * span[2] + cells[:, 2]
    return keys


def _sums_of_27(counts: Array) -> Array:
    """Each cube's count with those around it."""
    for axis in range(3):
        counts = counts + np.roll(counts, 1, axis) + np.roll(counts, -1, axis)
    return counts
