"""Facts about the geometry that hold for every set of voxels."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as some

from runtime.arrays import Array
from runtime.points import CURVES, PointCloud, curve_codes, curve_depth, grid_sample, stages
from runtime.points.sampling import WORLD_SIZE, fnv_keys
from runtime.points.stages import attention_patches, neighbour_rows, pool
from tests.fuzz.settings import examples


@st.composite
def grids(draw: st.DrawFn) -> Array:
    """Different cells, int32 [N, 3]: crowded ones, scattered ones, and some at the far end of the world."""
    span = draw(st.sampled_from([2, 3, 9, 1280]))
    cells = draw(some.arrays(np.int32, st.tuples(st.integers(1, 60), st.just(3)), elements=st.integers(0, span - 1)))
    cells = np.unique(cells + draw(st.sampled_from([0, 1280 - span])), axis=0)
    return cells[draw(st.permutations(range(len(cells))))].astype(np.int32)


@examples(80)
@given(depth=st.integers(1, 3), curve=st.sampled_from(CURVES))
def test_a_curve_visits_each_cell_of_a_cube_once(depth: int, curve: str) -> None:
    cube = np.stack(np.meshgrid(*[np.arange(2**depth)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    codes = curve_codes(cube, curve, depth)
    assert sorted(codes.tolist()) == list(range(8**depth))
    if curve.startswith("hilbert"):  # and goes from each cell to one beside it
        assert (np.abs(np.diff(cube[np.argsort(codes)], axis=0)).sum(axis=1) == 1).all()


@examples(100)
@given(grid=grids(), curve=st.sampled_from(CURVES), more=st.integers(0, 5))
def test_curves_are_bijective(grid: Array, curve: str, more: int) -> None:
    depth = min(21, curve_depth(grid) + more)
    codes = curve_codes(grid, curve, depth)
    assert len(np.unique(codes)) == len(grid)
    assert codes.min() >= 0 and codes.max() < 8**depth
    plain = curve.removesuffix("-trans")
    np.testing.assert_array_equal(codes, curve_codes(grid[:, [1, 0, 2]] if plain != curve else grid, plain, depth))


@pytest.mark.parametrize("cells", [stages.DENSE_CELLS, 0], ids=["table", "search"])
@examples(80)
@given(grid=grids())
def test_neighbours_are_symmetric(monkeypatch: pytest.MonkeyPatch, cells: int, grid: Array) -> None:
    monkeypatch.setattr(stages, "DENSE_CELLS", cells)
    rows = neighbour_rows(grid)
    count = len(grid)
    np.testing.assert_array_equal(rows[:, 13], np.arange(count))
    voxel, column = np.nonzero(rows < count)
    other = rows[voxel, column]
    np.testing.assert_array_equal(rows[other, 26 - column], voxel)
    np.testing.assert_array_equal(grid[other] - grid[voxel], stages.OFFSETS[column])
    near = (np.abs(grid[:, None] - grid[None]) <= 1).all(axis=2)  # and none is missing
    assert len(voxel) == near.sum()


@examples(100)
@given(grid=grids(), stride=st.integers(1, 4))
def test_pooling_covers_every_voxel_once(grid: Array, stride: int) -> None:
    pooling = pool(grid, stride)
    slots = np.arange(stride**3)
    real = slots < pooling.counts[:, None]
    assert sorted(pooling.children[real].tolist()) == list(range(len(grid)))
    parent = np.repeat(np.arange(len(pooling.grid)), pooling.counts)
    np.testing.assert_array_equal(grid[pooling.children[real]] // stride, pooling.grid[parent])
    last = pooling.children[np.arange(len(pooling.grid)), pooling.counts - 1]
    assert (np.where(real, last[:, None], pooling.children) == last[:, None]).all()  # the others repeat the last
    assert len(np.unique(pooling.grid, axis=0)) == len(pooling.grid)
    ones = pooling.mean(np.ones((len(grid), 3), np.float32))
    assert (ones == 1).all()


@examples(100)
@given(grid=grids(), curve=st.sampled_from(CURVES), patch_size=st.integers(1, 70))
def test_patches_hold_each_voxel_and_find_it_again(grid: Array, curve: str, patch_size: int) -> None:
    codes = curve_codes(grid, curve, curve_depth(grid))
    patches = attention_patches(codes, patch_size)
    assert patches.order.shape[1] == min(len(grid), patch_size)
    np.testing.assert_array_equal(patches.order.ravel()[patches.inverse], np.arange(len(grid)))
    along, width = np.argsort(codes), patches.order.shape[1]
    for number, patch in enumerate(patches.order.tolist()):  # a stretch of the curve, the last one its end
        start = min(number * width, len(grid) - width)
        assert sorted(patch) == sorted(along[start : start + width].tolist())


@st.composite
def clouds(draw: st.DrawFn) -> PointCloud:
    wide = draw(st.sampled_from([0.0625, 3.0, 100.0]))
    place = st.floats(-wide, wide, width=32)
    points = draw(some.arrays(np.float64, st.tuples(st.integers(1, 40), st.just(3)), elements=place))
    shade = st.integers(0, 255)
    colors = draw(st.none() | some.arrays(np.float64, points.shape, elements=shade).map(lambda bytes_: bytes_ / 255))
    return PointCloud(points, colors)


@examples(120)
@given(cloud=clouds(), num_bins=st.sampled_from([1, 64, 640, 1280]))
def test_grid_sampling(cloud: PointCloud, num_bins: int) -> None:
    voxels = grid_sample(cloud, num_bins)
    low = cloud.points.min(axis=0)
    np.testing.assert_array_equal(voxels.min_extent, low)
    cells = np.minimum(np.floor((cloud.points - low) / (WORLD_SIZE / num_bins)), num_bins - 1).astype(int)
    assert {*map(tuple, voxels.grid.tolist())} == {*map(tuple, cells.tolist())}  # each occupied voxel
    assert len(voxels) == len(np.unique(cells, axis=0))  # once
    assert (np.diff(fnv_keys(voxels.grid).astype(object)) > 0).all()
    rows = np.hstack([cells, (cloud.points - low).astype(np.float32)]).tolist()
    kept = np.hstack([voxels.grid, voxels.coords.astype(np.float64)]).tolist()
    assert {*map(tuple, kept)} <= {*map(tuple, rows)}  # by one of its own points
    assert (np.abs(voxels.features[:, 3:]) <= 1).all()
    assert voxels.clamped == ((cloud.points - low) / (WORLD_SIZE / num_bins) >= num_bins).any(axis=1).sum()


@examples(60)
@given(cloud=clouds(), shift=st.sampled_from([(0, 0, 0), (64, -32, 8)]))
def test_grid_sampling_does_not_depend_on_place_or_order(cloud: PointCloud, shift: tuple[int, int, int]) -> None:
    points = np.round(cloud.points * 1024) / 1024  # exact after the shift
    one = grid_sample(dataclasses.replace(cloud, points=points), 1280)
    other = grid_sample(dataclasses.replace(cloud, points=points[::-1] + np.array(shift), colors=None), 1280)
    np.testing.assert_array_equal(one.grid, other.grid)
    np.testing.assert_array_equal(one.min_extent + np.array(shift), other.min_extent)
