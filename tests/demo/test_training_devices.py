"""Geometry and hints do not depend on the device: by the arithmetic that CUDA has in place of the CPU's."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from demo.training.batch import Maker, Question
from demo.training.config import write_config
from demo.training.geometry import voxelize
from demo.training.model import new_model
from demo.training.pack import UNIT, pack
from demo.training.prompts import Prompts
from demo.training.step import tensors_of
from demo.training.store import RoomStore
from runtime.points import PointCloud, grid_sample
from runtime.points.sampling import WORLD_SIZE

CPU = torch.device("cpu")


class AsOnCuda(TorchDispatchMode):
    """Divides by a number on the host by multiplying with its reciprocal; sums and products go from the other end."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name == "div" and args[0].is_floating_point() and not isinstance(args[1], Tensor):
            return args[0] * args[0].new_full((), 1 / args[1])
        if name in ("sum", "prod") and len(args) > 1 and args[0].is_floating_point():
            axis = args[1][0] if isinstance(args[1], list) else args[1]
            args = (args[0].flip(axis), *args[1:])
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def maker(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    folder = tmp_path_factory.mktemp("devices")
    store = RoomStore.read(pack(folder, range(20_000_000, 20_000_002), 2, 2, 1, quiet=True), CPU)
    model = new_model(write_config(folder / "config", "3D_with_1D"), CPU, seed=0)
    return Maker(store, Prompts(), model.config.encoder, model.position)


def borders() -> Tensor:
    """Every half millimetre along x of the world that a 16-bit number reaches: each voxel's border among them."""
    along = torch.arange(1 << 15).double() * UNIT
    return torch.stack([along, torch.zeros_like(along), torch.zeros_like(along)], dim=1)


@pytest.mark.parametrize("bins", [640, 1280])
def test_points_on_borders_are_in_the_runtimes_voxels(bins: int) -> None:
    points = borders()
    scene = torch.zeros(len(points), dtype=torch.long)
    want = grid_sample(PointCloud(points.numpy()), bins)
    with AsOnCuda():
        rows, grid = voxelize(points, scene, bins)
        multiplied = (points / (WORLD_SIZE / bins)).floor()
    order = np.argsort(want.grid[:, 0])
    np.testing.assert_array_equal(grid.numpy(), want.grid[order])
    np.testing.assert_array_equal(points[rows].float().numpy(), want.coords[order])
    divided = (points / (WORLD_SIZE / bins)).floor()
    assert not torch.equal(multiplied, divided)  # or this would hold by itself


def test_a_batch_is_the_same_by_cudas_arithmetic(maker: Maker) -> None:
    questions = [Question(room=0), Question(room=1, symmetry=6)]
    plain = maker.batch(questions)
    with AsOnCuda():
        batch = maker.batch(questions)
    loose = {id(batch.features), id(batch.geometry.encoding)}  # numbers that no border hangs on
    for own, other in zip(tensors_of(batch), tensors_of(plain), strict=True):
        if id(own) in loose:
            torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-4)
        else:
            assert torch.equal(own, other)
    assert torch.equal(batch.features[:, :3], plain.features[:, :3])


def test_the_mode_sees_what_it_should() -> None:
    numbers = torch.rand(1000, 8, generator=torch.Generator().manual_seed(0)) * math.pi
    with AsOnCuda():
        divided, summed = numbers / 0.05, numbers.sum(1)
    assert not torch.equal(divided, numbers / 0.05) and not torch.equal(summed, numbers.sum(1))
