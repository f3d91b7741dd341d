"""From points to voxels: shift, colours, and one point for each voxel of the world's grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from runtime.arrays import Array
from runtime.errors import PlyError
from runtime.points.cloud import PointCloud
from runtime.points.groups import group_keys

WORLD_SIZE = 32.0  # metres along each axis
_FNV_OFFSET = np.uint64(14695981039346656037)
_FNV_PRIME = np.uint64(1099511628211)


@dataclass(frozen=True, slots=True, kw_only=True)
class VoxelGrid:
    """One point for each occupied voxel, in ascending order of the voxel's hash.

    grid: int32 [N, 3] in 0 .. num_bins - 1.
    features: float32 [N, 6], metres from `min_extent` and colours in -1 .. 1.
    coords: float32 [N, 3], the first three of the features.
    min_extent: float64 [3], smallest coordinates of the cloud in metres: the origin of the layout.
    clamped: points of the cloud beyond the world, counted into its last voxels.
    """

    grid: Array
    features: Array
    coords: Array
    min_extent: Array
    clamped: int

    def __len__(self) -> int:
        return len(self.grid)


def grid_sample(cloud: PointCloud, num_bins: int) -> VoxelGrid:
    """Sample a cloud into voxels of 32 m / num_bins, as SpatialLM's preprocessing does in its `test` mode.

    All arithmetic is float64 until the last cast. The sort is stable, so which point stands for a voxel is defined;
    the original leaves it to an unstable sort. Raises PlyError for a cloud without points.
    """
    if not len(cloud):
        raise PlyError("The cloud holds no points, so there is nothing to sample. Use another scene.")
    min_extent = cloud.points.min(axis=0)
    coords = cloud.points - min_extent
    cells = np.floor(coords / (WORLD_SIZE / num_bins))  # float: clipped before the cast, or far points would wrap
    grid = np.clip(cells, 0, num_bins - 1).astype(np.int64)
    rows = _representatives(fnv_keys(grid))
    features = np.concatenate([coords[rows], byte_colors(cloud)[rows] / 127.5 - 1], axis=1).astype(np.float32)
    return VoxelGrid(
        grid=grid[rows].astype(np.int32),
        features=features,
        coords=np.ascontiguousarray(features[:, :3]),
        min_extent=min_extent,
        clamped=int((cells >= num_bins).any(axis=1).sum()),
    )


def byte_colors(cloud: PointCloud) -> Array:
    """Colours in 0 .. 255, float64 [N, 3]; 0 where the cloud has none.

    Colours up to 1.1 are taken for fractions of 255 and truncated to whole numbers; others stay as they are.
    """
    if cloud.colors is None:
        return np.zeros((len(cloud), 3))
    if cloud.colors.max() < 1.1:
        return (cloud.colors * 255).astype(np.uint8).astype(np.float64)
    return cloud.colors


def fnv_keys(grid: Array) -> Array:
    """64-bit FNV-1 hash of each voxel, uint64 [N] from integers [N, 3]: multiply, then XOR, for x, y, z in turn."""
    keys = np.full(len(grid), _FNV_OFFSET)
    for axis in range(3):
        keys = (keys * _FNV_PRIME) ^ grid[:, axis].astype(np.uint64)
    return keys


def _representatives(keys: Array) -> Array:
    """The row that stands for each key: number (C // 2) mod c of its c rows, C being the largest c of the cloud."""
    groups = group_keys(keys)
    rows: Array = groups.rows[groups.starts + (groups.counts.max() // 2) % groups.counts]
    return rows
