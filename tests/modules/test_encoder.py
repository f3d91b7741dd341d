"""The encoder module against the dictionary encoder, on clouds of different sizes."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from export.modules import Encoder
from runtime.arrays import Array
from runtime.points import VoxelGrid, encoder_inputs
from tests.compare import Tol, assert_close
from tests.modules.tiny import tiny_checkpoint_of, tiny_config, tiny_encoder
from tests.oracles import oracle_encoder
from tests.oracles.curves import curve_code

FLOAT32 = Tol(3e-5, 3e-5, why="float32 against float64 through ten blocks")


def random_voxels(count: int, extent: int, seed: int) -> VoxelGrid:
    """`count` different cells in a cube of `extent` cells, near each other so that the convolution has neighbours."""
    rng = np.random.default_rng(seed)
    cells = rng.choice(extent**3, size=count, replace=False)
    grid = np.stack(np.unravel_index(cells, (extent,) * 3), axis=1).astype(np.int32)
    metres = (grid + rng.random((count, 3))) * 0.5
    features = np.concatenate([metres, rng.uniform(-1, 1, (count, 3))], axis=1).astype(np.float32)
    return voxel_grid(grid, features)


def voxel_grid(grid: Array, features: Array) -> VoxelGrid:
    return VoxelGrid(grid=grid, features=features, coords=features[:, :3], min_extent=np.zeros(3), clamped=0)


CLOUDS = {
    "smaller_than_a_patch": random_voxels(7, 5, seed=1),
    "one_patch_and_a_bit": random_voxels(33, 6, seed=2),
    "several_patches": random_voxels(150, 9, seed=3),
}
SPECS = {
    "four_curves": tiny_encoder(),
    "permuted": tiny_encoder(order=("hilbert-trans", "z", "hilbert", "z-trans"), patch_sizes=(10, 64, 3)),
    "two_curves": tiny_encoder(order=("hilbert", "z"), depths=(1, 3, 2), patch_sizes=(16, 5, 64)),
    "coarser": tiny_encoder(
        stride=(3,), depths=(1, 2), channels=(8, 12), heads=(1, 2), patch_sizes=(50, 4), num_bins=96, mlp_ratio=1
    ),
}


@pytest.mark.parametrize("projector", ["linear", "mlp"])
@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize("spec", SPECS)
def test_encoder_matches_the_dictionary_encoder(cloud: str, spec: str, projector: str) -> None:
    voxels = CLOUDS[cloud]
    checkpoint = tiny_checkpoint_of(tiny_config(encoder=SPECS[spec], projector=projector))
    inputs = encoder_inputs(voxels, SPECS[spec])
    got = Encoder(checkpoint.config, checkpoint.float_tensor)({k: torch.as_tensor(v) for k, v in inputs.feeds.items()})
    tokens, coords = oracle_encoder(voxels.grid, voxels.features, checkpoint.config, checkpoint.float_tensor)
    assert_close("point_tokens", got, tokens, FLOAT32)
    assert_close("patch_coords", inputs.patch_coords, coords, Tol(1e-6, 1e-6, why="means in float32"))


def test_tokens_do_not_depend_on_the_order_of_the_voxels() -> None:
    voxels = CLOUDS["several_patches"]
    shuffle = np.random.default_rng(4).permutation(len(voxels))
    shuffled = voxel_grid(voxels.grid[shuffle], voxels.features[shuffle])
    assert_close("point_tokens", encode(shuffled), encode(voxels), FLOAT32)


def test_the_curves_of_the_slots_matter() -> None:
    voxels, swapped = CLOUDS["several_patches"], SPECS["four_curves"]
    swapped = dataclasses.replace(swapped, order=("z-trans", "z", "hilbert-trans", "hilbert"))
    difference = np.abs(encode(voxels) - encode(voxels, swapped)).max()
    assert difference > 1e-2, "a test with such weights would not notice a wrong curve"


def encode(voxels: VoxelGrid, spec: object = SPECS["four_curves"]) -> Array:
    checkpoint = tiny_checkpoint_of(tiny_config(encoder=spec))
    feeds = encoder_inputs(voxels, spec).feeds  # type: ignore[arg-type]
    encoder = Encoder(checkpoint.config, checkpoint.float_tensor)
    return encoder({name: torch.as_tensor(feed) for name, feed in feeds.items()}).numpy()


@pytest.mark.parametrize(
    ("curve", "depth", "codes"),
    [
        ("z", 4, [0, 4, 2, 1, 350]),
        ("z-trans", 4, [0, 2, 4, 1, 238]),
        ("hilbert", 4, [0, 7, 3, 1, 304]),
        ("hilbert-trans", 4, [0, 3, 7, 1, 390]),
    ],
)
def test_the_oracle_s_codes(curve: str, depth: int, codes: list[int]) -> None:
    cells = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (5, 3, 6)]
    assert [curve_code(curve, cell, depth) for cell in cells] == codes
    everywhere = [curve_code(curve, cell, 2) for cell in itertools.product(range(4), repeat=3)]
    assert sorted(everywhere) == list(range(64))


def test_the_oracle_s_codes_of_the_real_depth() -> None:
    curves = ["z", "z-trans", "hilbert", "hilbert-trans"]
    got = [curve_code(curve, (1279, 7, 640), 11) for curve in curves]
    assert got == [4440869302, 2288592310, 8000035602, 3401880064]
