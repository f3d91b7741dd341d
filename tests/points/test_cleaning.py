from __future__ import annotations

import numpy as np
import pytest

from runtime.errors import PlyError
from runtime.points import PointCloud, clean_up
from runtime.points.cleaning import remove_outliers, voxel_mean
from runtime.points.groups import _group_by_columns, group_cells
from tests.compare import EXACT, Tol, assert_close
from tests.points.scenes import cell_groups, random_cloud


def plain_voxel_mean(cloud: PointCloud, voxel_size: float) -> PointCloud:
    assert cloud.colors is not None
    low = [min(column) - 0.5 * voxel_size for column in cloud.points.T.tolist()]
    cells = [[np.floor((v - low[i]) / voxel_size) for i, v in enumerate(point)] for point in cloud.points.tolist()]
    means = []
    for _, rows in sorted(cell_groups(np.array(cells)).items()):
        total = np.zeros(6)
        for row in rows:
            total = total + np.concatenate([cloud.points[row], cloud.colors[row]])
        means.append(total / len(rows))
    return PointCloud(np.array(means)[:, :3], np.array(means)[:, 3:])


@pytest.mark.parametrize(("seed", "count", "voxel"), [(0, 400, 0.5), (1, 400, 3.0), (2, 1, 0.1), (3, 50, 1e-3)])
def test_voxel_mean_is_the_dictionary_form(seed: int, count: int, voxel: float) -> None:
    cloud = random_cloud(seed, count)
    got, want = voxel_mean(cloud, voxel), plain_voxel_mean(cloud, voxel)
    assert_close("points", got.points, want.points, EXACT)
    assert_close("colors", got.colors, want.colors, EXACT)


def test_voxel_zero_is_centred_on_the_smallest_coordinate() -> None:
    points = np.array([[0.0, 0, 0], [0.04, 0, 0], [0.06, 0, 0], [0.14, 0, 0]])
    got = voxel_mean(PointCloud(points), 0.1)
    assert_close("points", got.points, [[0.02, 0, 0], [0.1, 0, 0]], Tol(1e-15))
    assert got.colors is None


def test_wide_worlds_are_grouped_by_columns() -> None:
    cells = np.random.default_rng(0).integers(0, 3, (200, 3))
    fast, slow = group_cells(cells), _group_by_columns(cells)
    wide = group_cells(cells * 2**30)  # 2**93 cells: no int64 numbers them
    for other in (slow, wide):
        np.testing.assert_array_equal(fast.rows, other.rows)
        np.testing.assert_array_equal(fast.starts, other.starts)
        np.testing.assert_array_equal(fast.counts, other.counts)


def plain_outliers(points: np.ndarray, neighbours: int, ratio: float) -> list[int]:
    distances = []
    for point in points:
        nearest = sorted(np.sqrt(((points - point) ** 2).sum(axis=1)))[:neighbours]
        distances.append(sum(nearest) / len(nearest))
    mean = sum(distances) / len(distances)
    spread = (sum((d - mean) ** 2 for d in distances) / (len(distances) - 1)) ** 0.5
    return [row for row, d in enumerate(distances) if 0 < d < mean + ratio * spread]


@pytest.mark.parametrize(("count", "neighbours", "ratio"), [(300, 15, 2.0), (40, 15, 1.0), (9, 15, 0.5), (300, 4, 0.0)])
def test_outliers_are_the_brute_force_ones(count: int, neighbours: int, ratio: float) -> None:
    cloud = random_cloud(count, count)
    kept = plain_outliers(cloud.points, neighbours, ratio)
    assert 0 < len(kept) < count
    got = remove_outliers(cloud, neighbours, ratio)
    assert_close("points", got.points, cloud.points[kept], EXACT)
    assert cloud.colors is not None
    assert_close("colors", got.colors, cloud.colors[kept], EXACT)


def test_identical_points_have_distance_zero_and_go() -> None:
    points = np.concatenate([np.zeros((20, 3)), random_cloud(5, 100).points + 5])
    got = remove_outliers(PointCloud(points))
    assert len(got) == len(plain_outliers(points, 15, 2.0)) > 50
    assert (got.points > 1).all()


def test_clean_up_drops_a_stray_point_and_keeps_the_count_of_dropped_rows() -> None:
    room = random_cloud(6, 3000)
    cloud = PointCloud(np.concatenate([room.points, [[9.0, 9, 9]]]), None, dropped=4)
    got = clean_up(cloud, 0.05)
    assert got.points.max() < 2 and got.dropped == 4 and len(got) > 2500


def test_order_of_rows_does_not_depend_on_the_order_of_the_input() -> None:
    cloud = random_cloud(7, 500)
    shuffled = cloud.take(np.random.default_rng(0).permutation(500))
    assert_close("points", clean_up(shuffled, 0.2).points, clean_up(cloud, 0.2).points, Tol(1e-12))


def test_clouds_that_cannot_be_cleaned() -> None:
    with pytest.raises(PlyError, match="holds no points, so there is nothing to clean"):
        clean_up(PointCloud(np.empty((0, 3))), 0.1)
    for few in (1, 2):
        with pytest.raises(PlyError, match=rf"left none of {few} points.*--no_cleanup"):
            clean_up(random_cloud(0, few), 0.1)
    with pytest.raises(PlyError, match=r"1e\+09 m wide, too wide for voxels of 0\.1 m"):
        clean_up(PointCloud(np.array([[0.0, 0, 0], [1e9, 0, 0]])), 0.1)
