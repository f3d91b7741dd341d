from __future__ import annotations

import numpy as np
import pytest

from runtime.points import stages
from runtime.points.stages import attention_patches, neighbour_rows, pool
from tests.compare import EXACT, assert_close
from tests.points.scenes import cell_groups, dictionary_mean, dictionary_neighbours, random_grid, random_voxels

SIZES = [1, 2, 7, 100, 315]


@pytest.mark.parametrize("dense_cells", [stages.DENSE_CELLS, 0], ids=["table", "search"])
@pytest.mark.parametrize("count", SIZES)
def test_neighbours_are_the_dictionary_ones(monkeypatch: pytest.MonkeyPatch, dense_cells: int, count: int) -> None:
    monkeypatch.setattr(stages, "DENSE_CELLS", dense_cells)
    for grid in (random_grid(count, count), random_grid(count, count) + np.int32(50)):
        got = neighbour_rows(grid)
        assert got.dtype == np.int32 and got.shape == (count, 27)
        np.testing.assert_array_equal(got, dictionary_neighbours(grid))


def test_neighbours_of_a_world_too_large_for_a_table() -> None:
    grid = np.concatenate([random_grid(0, 50), random_grid(1, 50) + np.int32(1270)])
    np.testing.assert_array_equal(neighbour_rows(grid), dictionary_neighbours(grid))


def test_neighbour_columns() -> None:
    grid = np.array([[5, 5, 5], [4, 5, 5], [5, 6, 5], [5, 5, 4], [6, 6, 6]], dtype=np.int32)
    row = neighbour_rows(grid)[0].tolist()
    assert {column: value for column, value in enumerate(row) if value < 5} == {4: 1, 12: 3, 13: 0, 16: 2, 26: 4}
    assert row.count(5) == 22


def test_patches_borrow_from_the_patch_before() -> None:
    patches = attention_patches(np.arange(10), 4)
    assert patches.order.ravel().tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 6, 7]
    assert patches.order.shape == (3, 4)


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 15, 16, 17, 31])
def test_each_voxel_finds_its_own_output(count: int) -> None:
    codes = np.random.default_rng(count).permutation(1000)[:count]
    patches = attention_patches(codes, 8)
    along = sorted(range(count), key=lambda row: codes[row])
    assert patches.order.dtype == patches.inverse.dtype == np.int32
    assert patches.order.shape == (-(-count // 8), min(count, 8))
    np.testing.assert_array_equal(patches.order.ravel()[:count], along)
    np.testing.assert_array_equal(patches.order.ravel()[patches.inverse], np.arange(count))
    np.testing.assert_array_equal(patches.inverse[along], np.arange(count))  # never a borrowed place
    assert sorted(patches.order[-1].tolist()) == sorted(along[-min(count, 8) :])
    assert all(len(set(patch)) == len(patch) for patch in patches.order.tolist())


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("count", SIZES)
def test_pooling_is_the_dictionary_form(stride: int, count: int) -> None:
    voxels = random_voxels(count, count)
    groups = sorted(cell_groups(voxels.grid // stride).items())
    pooling = pool(voxels.grid, stride)
    assert pooling.grid.dtype == pooling.children.dtype == np.int32
    assert pooling.grid.tolist() == [list(cell) for cell, _ in groups]
    assert pooling.children.shape == (len(groups), stride**3)
    for children, (_, rows) in zip(pooling.children.tolist(), groups, strict=True):
        assert children[: len(rows)] == rows and set(children) == set(rows)
    assert sorted(row for _, rows in groups for row in rows) == list(range(count))  # each voxel once
    want = np.array([dictionary_mean(voxels.coords, rows) for _, rows in groups])
    assert pooling.mean(voxels.coords).dtype == np.float32
    assert_close("mean", pooling.mean(voxels.coords), want, EXACT)


def test_pooling_is_what_torch_computes() -> None:
    torch = pytest.importorskip("torch")
    voxels = random_voxels(3, 200)
    grid, cluster, counts = torch.unique(
        torch.from_numpy(voxels.grid) // 2, sorted=True, return_inverse=True, return_counts=True, dim=0
    )
    rows = torch.argsort(cluster, stable=True)
    mean = torch.segment_reduce(torch.from_numpy(voxels.coords)[rows], "mean", lengths=counts)
    pooling = pool(voxels.grid, 2)
    np.testing.assert_array_equal(pooling.grid, grid)
    assert_close("mean", pooling.mean(voxels.coords), mean, EXACT)
