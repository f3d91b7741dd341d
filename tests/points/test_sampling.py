from __future__ import annotations

import numpy as np
import pytest

from runtime.errors import PlyError
from runtime.points import PointCloud, grid_sample
from runtime.points.sampling import byte_colors, fnv_keys
from tests.compare import EXACT, assert_close
from tests.points.scenes import fnv_key, random_cloud


def plain_grid_sample(cloud: PointCloud, num_bins: int) -> tuple[list[list[int]], list[list[float]]]:
    low = cloud.points.min(axis=0)
    colors = [[0, 0, 0]] * len(cloud) if cloud.colors is None else [[int(c * 255) for c in row] for row in cloud.colors]
    groups: dict[int, list[tuple[list[int], list[float]]]] = {}
    for point, color in zip(cloud.points, colors, strict=True):
        shifted = [float(value) for value in point - low]
        cell = [min(int(value / (32.0 / num_bins)), num_bins - 1) for value in shifted]
        groups.setdefault(fnv_key(cell), []).append((cell, shifted + [c / 127.5 - 1 for c in color]))
    most = max(len(rows) for rows in groups.values())
    chosen = [rows[(most // 2) % len(rows)] for _, rows in sorted(groups.items())]
    return [cell for cell, _ in chosen], [features for _, features in chosen]


def test_fnv_check_values() -> None:
    grid = np.array([[0, 0, 0], [1, 2, 3], [100, 50, 25], [1279, 7, 640]])
    want = [15658191375538532279, 15657232601398921515, 15623809646931186416, 14495960305749401221]
    assert fnv_keys(grid).tolist() == want == [fnv_key(cell) for cell in grid.tolist()]


@pytest.mark.parametrize(
    ("seed", "count", "size", "num_bins"), [(0, 1, 3, 1280), (1, 500, 3, 64), (2, 500, 3, 1280), (3, 300, 60, 40)]
)
@pytest.mark.parametrize("colored", [True, False])
def test_grid_sample_is_the_dictionary_form(seed: int, count: int, size: float, num_bins: int, colored: bool) -> None:
    cloud = random_cloud(seed, count, size)
    cloud = cloud if colored else PointCloud(cloud.points)
    voxels = grid_sample(cloud, num_bins)
    grid, features = plain_grid_sample(cloud, num_bins)
    assert voxels.grid.dtype == np.int32 and voxels.features.dtype == voxels.coords.dtype == np.float32
    np.testing.assert_array_equal(voxels.grid, grid)
    assert_close("features", voxels.features, np.array(features).astype(np.float32), EXACT)
    assert_close("coords", voxels.coords, voxels.features[:, :3], EXACT)
    assert_close("min_extent", voxels.min_extent, cloud.points.min(axis=0), EXACT)
    assert len(np.unique(voxels.grid, axis=0)) == len(voxels)


def test_the_largest_voxel_of_the_cloud_chooses_in_all() -> None:
    # bins of 8 m: five points in cell 0, three in cell 1, one in cell 2; C // 2 = 2 -> rows 2, 2 mod 3, 0
    x = [0.0, 1, 2, 3, 4, 8.5, 9, 9.5, 17]
    voxels = grid_sample(PointCloud(np.array([[value, 0, 0] for value in x])), 4)
    assert sorted(voxels.coords[:, 0].tolist()) == [2, 9.5, 17]


def test_points_beyond_the_world_are_clamped_and_counted() -> None:
    points = np.array([[0.0, 0, 0], [31.999, 0, 0], [32.0, 1, 1], [40.0, 2, 33], [1e30, 0, 0]])
    voxels = grid_sample(PointCloud(points), 1280)
    assert voxels.clamped == 3
    by_x = {float(x): cell for x, cell in zip(voxels.coords[:, 0], voxels.grid.tolist(), strict=True)}
    assert by_x[40.0] == [1279, 80, 1279]  # the feature keeps the true value
    assert by_x[32.0] == [1279, 40, 40]
    assert len(voxels) == 4 and voxels.grid.max() == 1279


@pytest.mark.filterwarnings("error")
def test_colors() -> None:
    points = np.zeros((1, 3))
    exact = PointCloud(np.zeros((256, 3)), np.repeat(np.arange(256)[:, None], 3, axis=1) / 255.0)
    assert_close("8-bit", byte_colors(exact)[:, 0], np.arange(256), EXACT)
    truncated = PointCloud(points, np.array([[0.5, 0.9999, 1.0]]))
    assert byte_colors(truncated).tolist() == [[127, 254, 255]]
    already_bytes = PointCloud(points, np.array([[0.5, 200.25, 255.0]]))
    assert byte_colors(already_bytes).tolist() == [[0.5, 200.25, 255.0]]
    assert grid_sample(PointCloud(points), 1280).features.tolist() == [[0, 0, 0, -1, -1, -1]]


def test_an_empty_cloud_is_refused() -> None:
    with pytest.raises(PlyError, match="holds no points, so there is nothing to sample"):
        grid_sample(PointCloud(np.empty((0, 3))), 1280)
