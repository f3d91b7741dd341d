"""Voxel mean and statistical outlier removal, with the meaning these steps have in Open3D."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.spatial import cKDTree

from runtime.arrays import Array
from runtime.errors import PlyError
from runtime.points.cloud import PointCloud
from runtime.points.groups import group_cells

NEIGHBOURS = 15
STD_RATIO = 2.0


def clean_up(cloud: PointCloud, voxel_size: float) -> PointCloud:
    """One mean point per voxel of `voxel_size` metres, then without statistical outliers (15 neighbours, ratio 2).

    Rows come in lexicographic order of their voxel; Open3D's come in the order of a hash map, which no later step
    depends on, except for the point that stands for several in one voxel of the sampling grid.
    Raises PlyError for an empty cloud, one too wide for its voxels, and one of which nothing is left.
    """
    cleaned = remove_outliers(voxel_mean(cloud, voxel_size))
    if not len(cleaned):
        size = " x ".join(f"{extent:.3g}" for extent in np.ptp(cloud.points, axis=0).tolist())
        raise PlyError(
            f"the clean-up left none of {len(cloud)} points in a scene of {size} m: they are too few, too evenly "
            "spaced, or in another unit than metres (--scale). Use a denser scan, or skip it with --no_cleanup."
        )
    return cleaned


def voxel_mean(cloud: PointCloud, voxel_size: float) -> PointCloud:
    """The mean point and the mean colour of each occupied voxel; voxel 0 is centred on the smallest coordinates."""
    if not len(cloud):
        raise PlyError("The cloud holds no points, so there is nothing to clean. Use another scene.")
    low = cloud.points.min(axis=0) - 0.5 * voxel_size
    cells = np.floor((cloud.points - low) / voxel_size)
    if cells.max() >= 2**31 - 1:
        raise PlyError(
            f"The cloud is {np.ptp(cloud.points, axis=0).max():g} m wide, too wide for voxels of {voxel_size:g} m. "
            "Remove stray points, or scale it to metres."
        )
    groups = group_cells(cells.astype(np.int64))
    voxel_of_row = groups.of_row
    points = _group_mean(cloud.points, voxel_of_row, groups.counts)
    colors = None if cloud.colors is None else _group_mean(cloud.colors, voxel_of_row, groups.counts)
    return replace(cloud, points=points, colors=colors)


def _group_mean(values: Array, group_of_row: Array, counts: Array) -> Array:
    """Means [G, 3] of values [N, 3]. bincount adds one after another in row order, as Open3D does."""
    sums = [np.bincount(group_of_row, weights=values[:, axis]) for axis in range(3)]
    return np.stack(sums, axis=1) / counts[:, None]


def remove_outliers(cloud: PointCloud, neighbours: int = NEIGHBOURS, std_ratio: float = STD_RATIO) -> PointCloud:
    """Keep points whose mean distance d to their neighbours, themselves included, is within m + std_ratio * s.

    m and s are mean and sample standard deviation of d over the cloud. As in Open3D both bounds are strict, 0 < d < m
    + std_ratio * s, so a single point and a perfectly even grid are removed whole. The order of rows is kept.
    """
    if len(cloud) < 2:
        return cloud.take(np.zeros(len(cloud), dtype=bool))
    distance = _mean_distance(cloud.points, min(neighbours, len(cloud)))
    limit = distance.mean() + std_ratio * distance.std(ddof=1)
    return cloud.take((distance > 0) & (distance < limit))


def _mean_distance(points: Array, neighbours: int) -> Array:
    tree = cKDTree(points, balanced_tree=False)  # finding medians costs more than it saves
    distances, _ = tree.query(points, k=neighbours, workers=-1)
    mean: Array = distances.mean(axis=1)
    return mean
