from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from demo.make_room import make_room, write_ply
from runtime.manifest import EncoderSpec
from runtime.points import PointCloud, VoxelGrid, clean_up, curve_depth, encoder_inputs, grid_sample, read_point_cloud
from tests.compare import EXACT, Tol, assert_close
from tests.points.scenes import (
    cell_groups,
    dictionary_mean,
    dictionary_neighbours,
    random_voxels,
    scalar_codes,
    spec,
)

ONE_STAGE = {"stride": (), "depths": (1,), "channels": (8,), "heads": (2,), "patch_sizes": (4,)}
SPECS = {
    "three stages": spec(),
    "other strides": spec(stride=(3, 1), patch_sizes=(1024, 3, 2)),
    "one stage": spec(**ONE_STAGE),
    "two curves": spec(order=("hilbert", "z-trans"), depths=(3, 1, 2)),
    "one curve twice": spec(order=("z", "z", "hilbert")),
}


@pytest.mark.parametrize("count", [1, 15, 16, 17, 200])
@pytest.mark.parametrize("name", SPECS)
def test_feeds_are_the_brute_force_ones(name: str, count: int) -> None:
    assert_feeds(random_voxels(count, count), SPECS[name])


def assert_feeds(voxels: VoxelGrid, sizes: EncoderSpec) -> None:
    got = encoder_inputs(voxels, sizes)
    feeds = dict(got.feeds)
    assert_close("features", feeds.pop("features"), voxels.features, EXACT)
    grid, coords, counts = voxels.grid, voxels.coords, []
    for stage in range(sizes.stages):
        counts.append(len(grid))
        np.testing.assert_array_equal(feeds.pop(f"neighbours.{stage}"), dictionary_neighbours(grid))
        for slot in sizes.slots(stage):
            codes = scalar_codes(grid, sizes.order[slot], curve_depth(grid))
            assert_patches(feeds.pop(f"order.{stage}.{slot}"), codes, sizes.patch_sizes[stage])
            inverse = feeds.pop(f"inverse.{stage}.{slot}")
            np.testing.assert_array_equal(np.argsort(codes)[inverse], np.arange(len(grid)))
        if stage < sizes.stages - 1:
            groups = sorted(cell_groups(grid // sizes.stride[stage]).items())
            children = feeds.pop(f"children.{stage}")
            assert children.shape == (len(groups), sizes.stride[stage] ** 3)
            assert [sorted(set(row)) for row in children.tolist()] == [rows for _, rows in groups]
            coords = np.array([dictionary_mean(coords, rows) for _, rows in groups])
            grid = np.array([cell for cell, _ in groups])
    np.testing.assert_array_equal(feeds.pop("grid"), grid)
    assert not feeds
    assert got.voxel_counts == tuple(counts)
    assert_close("patch_coords", got.patch_coords, coords, EXACT)


def assert_patches(order: np.ndarray, codes: list[int], patch_size: int) -> None:
    along = np.argsort(codes).tolist()
    width = min(len(along), patch_size)
    flat = [along[p if p < len(along) else p - width] for p in range(-(-len(along) // width) * width)]
    np.testing.assert_array_equal(order, np.array(flat).reshape(-1, width))


def test_names_order_and_types() -> None:
    feeds = encoder_inputs(random_voxels(0, 60), spec(depths=(2, 1, 5))).feeds
    assert list(feeds) == [
        "features",
        *["neighbours.0", "order.0.0", "inverse.0.0", "order.0.1", "inverse.0.1", "children.0"],
        *["neighbours.1", "order.1.0", "inverse.1.0", "children.1"],
        *["neighbours.2", "order.2.0", "inverse.2.0", "order.2.1", "inverse.2.1"],
        *["order.2.2", "inverse.2.2", "order.2.3", "inverse.2.3", "grid"],
    ]
    assert {name for name, feed in feeds.items() if feed.dtype != np.int32} == {"features"}
    assert feeds["features"].dtype == np.float32
    assert all(feed.flags.c_contiguous for feed in feeds.values())


def test_tokens_do_not_depend_on_the_order_of_voxels() -> None:
    voxels = random_voxels(1, 200)
    rows = np.random.default_rng(0).permutation(200)
    shuffled = VoxelGrid(
        grid=voxels.grid[rows],
        features=voxels.features[rows],
        coords=voxels.coords[rows],
        min_extent=voxels.min_extent,
        clamped=0,
    )
    one, other = encoder_inputs(voxels, spec()), encoder_inputs(shuffled, spec())
    np.testing.assert_array_equal(one.feeds["grid"], other.feeds["grid"])
    np.testing.assert_allclose(one.patch_coords, other.patch_coords, atol=1e-6)


def test_a_hall_wider_than_the_world() -> None:
    rng = np.random.default_rng(0)
    cloud = PointCloud(rng.uniform(0, 45, (300, 3)))
    voxels = grid_sample(cloud, 1280)
    assert voxels.clamped > 100
    assert_feeds(voxels, spec(patch_sizes=(64, 32, 16)))


def test_demo_room_from_file_to_inputs(tmp_path: Path) -> None:
    write_ply(tmp_path / "room.ply", *make_room(seed=3, count=6000))
    cloud = read_point_cloud(tmp_path / "room.ply")
    assert len(cloud) == 6000 and cloud.colors is not None
    extent = np.ptp(clean_up(cloud, 0.1).points, axis=0)
    assert (extent > [4.5, 3.8, 2.4]).all() and (extent < [7, 6, 4]).all()
    assert_feeds(grid_sample(clean_up(cloud, 0.1), 320), spec(patch_sizes=(1024, 512, 64)))


def test_the_committed_room_is_what_its_script_makes(tmp_path: Path) -> None:
    committed = Path(__file__).parents[2] / "demo" / "room.ply"
    assert committed.stat().st_size < 1_000_000
    write_ply(tmp_path / "room.ply", *make_room(seed=7, count=55_000))
    made, kept = read_point_cloud(tmp_path / "room.ply"), read_point_cloud(committed)
    assert made.colors is not None and kept.colors is not None and len(made) == len(kept)
    share = np.linspace(0.02, 0.98, 25)  # not point by point: sines of another processor may hide another point
    for name, one, other in [("points", made.points, kept.points), ("colors", made.colors, kept.colors)]:
        assert_close(name, np.quantile(one, share, axis=0), np.quantile(other, share, axis=0), Tol(0.05))


def test_inputs_are_the_same_on_every_call() -> None:
    points, colors = make_room(seed=1, count=20_000)
    cloud = PointCloud(points.astype(np.float64), colors / 255.0)
    sizes = spec(patch_sizes=(1024, 1024, 1024))
    one, other = (encoder_inputs(grid_sample(clean_up(cloud, 0.025), 1280), sizes) for _ in range(2))
    assert all(np.array_equal(one.feeds[name], other.feeds[name]) for name in one.feeds)
    assert np.array_equal(one.patch_coords, other.patch_coords)
