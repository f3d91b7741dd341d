"""The batched geometry and encoder of training against the runtime's geometry and the clean encoder, scene by scene."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from demo.training.config import write_config
from demo.training.convolution import convolve
from demo.training.encoder import encode
from demo.training.geometry import Geometry, curve_codes, geometry, neighbours, voxelize
from demo.training.model import DemoModel, new_model
from export.modules.encoder import SubmanifoldConvolution
from runtime.arrays import Array
from runtime.points import PointCloud, curves, encoder_inputs, grid_sample
from runtime.points.stages import neighbour_rows

CLOUDS = {"one_voxel_thick": 300, "some_patches": 4000, "few": 40}


def cloud(count: int, seed: int) -> PointCloud:
    """Points on the walls of a box, several in some voxels."""
    rng = np.random.default_rng(seed)
    points = rng.random((count, 3)) * [3.7, 2.9, 2.4]
    points[np.arange(count), rng.integers(0, 3, count)] *= 0.02
    return PointCloud(points - points.min(axis=0), rng.random((count, 3)))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> DemoModel:
    config = write_config(tmp_path_factory.mktemp("config"), "3D_only")
    return new_model(config, torch.device("cpu"), seed=0)


def batched(clouds: list[PointCloud], model: DemoModel) -> tuple[Tensor, Geometry, Array]:
    """Features, geometry, and for each voxel of the batch its row in the runtime's order of its scene."""
    spec = model.config.encoder
    points = torch.from_numpy(np.concatenate([one.points for one in clouds]))
    scene = torch.repeat_interleave(torch.arange(len(clouds)), torch.tensor([len(one) for one in clouds]))
    colors = torch.from_numpy(np.concatenate([(one.colors * 255).astype(np.uint8) for one in clouds]))  # type: ignore[operator]
    rows, grid = voxelize(points, scene, spec.num_bins)
    features = torch.cat([points[rows].float(), (colors[rows] / 127.5 - 1).float()], dim=1)
    return features, geometry(grid, points[rows].float(), scene[rows], len(clouds), spec), grid.numpy()


def test_a_batch_gives_each_scenes_point_tokens(model: DemoModel) -> None:
    clouds = [cloud(count, seed) for seed, count in enumerate(CLOUDS.values())]
    features, shape, _ = batched(clouds, model)
    got = encode(model.encoder, features, shape).split(shape.counts.tolist())
    for one, tokens, coords in zip(clouds, got, shape.last.coords.split(shape.counts.tolist()), strict=True):
        inputs = encoder_inputs(grid_sample(one, model.config.encoder.num_bins), model.config.encoder)
        want = model.encoder({name: torch.from_numpy(array) for name, array in inputs.feeds.items()})
        torch.testing.assert_close(tokens, want, rtol=2e-4, atol=2e-4)
        np.testing.assert_allclose(coords.numpy(), inputs.patch_coords, atol=1e-5)


def test_a_batch_gives_the_same_gradients(model: DemoModel) -> None:
    clouds = [cloud(count, seed) for seed, count in enumerate(CLOUDS.values())]
    features, shape, _ = batched(clouds, model)
    fast = gradients(model, lambda: encode(model.encoder, features, shape).pow(2).sum())

    def plain() -> Tensor:
        feeds = [
            encoder_inputs(grid_sample(one, model.config.encoder.num_bins), model.config.encoder).feeds
            for one in clouds
        ]
        tokens = [model.encoder({name: torch.from_numpy(array) for name, array in one.items()}) for one in feeds]
        return torch.cat(tokens).pow(2).sum()

    for name, want in gradients(model, plain).items():
        torch.testing.assert_close(fast[name], want, rtol=2e-3, atol=2e-3 * float(want.abs().max()), msg=name)


def gradients(model: DemoModel, loss: Callable[[], Tensor]) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    loss().backward()
    return {name: p.grad.clone() for name, p in model.encoder.named_parameters() if p.grad is not None}


def test_neighbours_and_codes_are_the_runtimes(model: DemoModel) -> None:
    clouds = [cloud(count, seed) for seed, count in enumerate(CLOUDS.values())]
    _, shape, grid = batched(clouds, model)
    scene = torch.repeat_interleave(torch.arange(len(clouds)), torch.tensor([len(grid_sample(c, 640)) for c in clouds]))
    around = neighbours(torch.from_numpy(grid), scene).numpy()
    for curve in curves.CURVES:
        codes = curve_codes(torch.from_numpy(grid), scene, len(clouds), curve).numpy()
        for number in range(len(clouds)):
            own = grid[scene == number]
            assert np.array_equal(codes[scene == number], curves.curve_codes(own, curve, curves.curve_depth(own)))
    for number in range(len(clouds)):
        rows = np.flatnonzero(scene == number)
        want = neighbour_rows(grid[rows])
        assert np.array_equal(around[rows], np.where(want < len(rows), want + rows[0], len(grid)))
    assert len(shape.stages) == 5


def test_the_convolutions_own_gradient_is_the_indexed_ones() -> None:
    rng = torch.Generator().manual_seed(0)
    grid = torch.unique(torch.randint(0, 6, (150, 3), generator=rng), dim=0)
    table = neighbours(grid, torch.zeros(len(grid), dtype=torch.long))
    x = torch.randn(len(grid), 5, generator=rng, dtype=torch.float64)
    weight = torch.randn(7, 3, 3, 3, 5, generator=rng, dtype=torch.float64)
    bias = torch.randn(7, generator=rng, dtype=torch.float64)
    clean = SubmanifoldConvolution({"c.weight": weight.clone(), "c.bias": bias.clone()}.__getitem__, "c")
    clean.requires_grad_(True)
    ours = [tensor.clone().requires_grad_() for tensor in (x, clean.weight.detach(), bias)]
    theirs = x.clone().requires_grad_()
    probe = torch.randn(len(grid), 7, generator=rng, dtype=torch.float64)
    out = convolve(ours[0], table, ours[1], ours[2])
    want = clean(theirs, table)
    torch.testing.assert_close(out, want)
    (out * probe).sum().backward()
    (want * probe).sum().backward()
    for got, expected in zip(ours, (theirs, clean.weight, clean.bias), strict=True):
        torch.testing.assert_close(got.grad, expected.grad)


def test_weights_are_written_where_checkpoints_have_them(model: DemoModel, tmp_path: Path) -> None:
    from export.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(model.save(tmp_path / "checkpoint", "3D_only"))
    assert checkpoint.config == model.config
    for name, tensor in model.tensors.items():
        assert torch.equal(checkpoint.float_tensor(name), tensor.half().float()), name
