"""The gathers of patches and children and their own gradients, against indexing and autograd."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from demo.training import padding
from demo.training.gathers import from_patches, into_patches, largest_child
from demo.training.geometry import Patches, Stage, attention_patches, neighbours, pool
from demo.training.padding import Caps

SCENES = {"borrowed": [70, 33, 16], "filled_up": [70, 5, 1, 16], "all_small": [3, 7, 1], "exact": [32, 16]}
WIDTH = 16
WIDE = [12, 5]  # rows of whole 8-byte words in every type, and others


def patches(counts: list[int]) -> Patches:
    rng = torch.Generator().manual_seed(sum(counts))
    scene = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return attention_patches(torch.randperm(len(scene), generator=rng), scene, len(counts), WIDTH)


def outcome(one: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """The result, and the gradient of x for a result that is probed everywhere."""
    leaf = x.clone().requires_grad_()
    out = one(leaf)
    probe = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)
    (gradient,) = torch.autograd.grad(out, leaf, probe)
    return out.detach(), gradient


@pytest.mark.parametrize("counts", SCENES.values(), ids=SCENES)
def test_extra_places_are_those_that_no_row_calls_its_own(counts: list[int]) -> None:
    tables = patches(counts)
    places = torch.cat([tables.extra, tables.inverse]).sort().values
    assert torch.equal(places, torch.arange(tables.order.numel()))
    assert torch.equal(tables.order.flatten()[tables.inverse], torch.arange(sum(counts)))


@pytest.mark.parametrize("wide", WIDE)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("counts", [SCENES["borrowed"], SCENES["exact"]], ids=["borrowed", "exact"])
def test_into_patches_is_an_indexed_read(counts: list[int], dtype: torch.dtype, wide: int) -> None:
    tables = patches(counts)
    x = torch.randn(sum(counts), wide, generator=torch.Generator().manual_seed(0)).to(dtype)
    ours, theirs = outcome(lambda x: into_patches(x, tables), x), outcome(lambda x: x[tables.order], x)
    assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])  # bit for bit


@pytest.mark.parametrize("counts", SCENES.values(), ids=SCENES)
def test_filled_up_places_count_too(counts: list[int]) -> None:
    """Many of one row, so that the order of the sum is not autograd's."""
    tables = patches(counts)
    x = torch.randn(sum(counts), 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    leaves = [x.clone().requires_grad_() for _ in range(2)]
    probe = torch.randn(*tables.order.shape, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (into_patches(leaves[0], tables) * probe).sum().backward()
    (leaves[1][tables.order] * probe).sum().backward()
    torch.testing.assert_close(leaves[0].grad, leaves[1].grad)


@pytest.mark.parametrize("wide", WIDE)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("counts", SCENES.values(), ids=SCENES)
def test_from_patches_is_an_indexed_read(counts: list[int], dtype: torch.dtype, wide: int) -> None:
    tables = patches(counts)
    rows = torch.randn(*tables.order.shape, wide, generator=torch.Generator().manual_seed(0)).to(dtype)
    ours = outcome(lambda rows: from_patches(rows, tables), rows)
    theirs = outcome(lambda rows: rows.flatten(0, 1)[tables.inverse], rows)
    assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])  # bit for bit


def children() -> tuple[Tensor, int]:
    grid = torch.unique(torch.randint(0, 8, (200, 3), generator=torch.Generator().manual_seed(5)), dim=0)
    return pool(grid, torch.zeros(len(grid), dtype=torch.long), 2).children, len(grid)


@pytest.mark.parametrize("wide", WIDE)
def test_the_largest_child_is_the_maximum(wide: int) -> None:
    table, voxels = children()
    x = torch.randn(voxels, wide, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    leaves = [x.clone().requires_grad_() for _ in range(2)]
    results = [largest_child(leaves[0], table), leaves[1][table].amax(dim=1)]
    assert torch.equal(*results)
    probe = torch.randn(results[0].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for result in results:
        (result * probe).sum().backward()
    torch.testing.assert_close(leaves[0].grad, leaves[1].grad)  # amax divides among a repeated child and adds up again


def test_one_of_equal_children_gets_the_whole_gradient() -> None:
    table, voxels = children()
    x = torch.zeros(voxels, 4, dtype=torch.bfloat16, requires_grad=True)
    largest_child(x, table).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad[table].amax(dim=1), torch.ones(len(table), 4, dtype=torch.bfloat16))
    assert float(x.grad.float().sum()) == 4 * len(table)


def test_coarse_voxels_that_fill_up_give_no_gradient() -> None:
    table, voxels = children()
    x = torch.randn(voxels, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    full = torch.cat([table, table.new_full((9, 8), voxels)])
    leaves = [x.clone().requires_grad_() for _ in range(2)]
    out = largest_child(leaves[0], full)
    assert torch.equal(out[: len(table)], largest_child(leaves[1], table)) and len(out) == len(table) + 9
    out.sum().backward()
    largest_child(leaves[1], table).sum().backward()
    assert torch.equal(leaves[0].grad, leaves[1].grad)


@pytest.mark.parametrize("counts", SCENES.values(), ids=SCENES)
def test_filled_up_patches_have_a_place_for_every_voxel(counts: list[int]) -> None:
    tables, cap = patches(counts), sum(counts) + 21
    groups = math.ceil(cap / WIDTH) + len(counts)  # the least that `find_caps` allows
    caps = Caps(voxels=(cap,), widths=(WIDTH,), patches=(groups,), positions=0, answers=0, scenes=len(counts))
    full = padding._patches(tables, 0, caps)
    assert full.order.shape == (groups, WIDTH)
    assert torch.equal(full.order.flatten()[full.inverse], torch.arange(cap))
    assert torch.equal(torch.cat([full.extra, full.inverse]).sort().values, torch.arange(groups * WIDTH))
    real = tables.order.shape
    assert full.valid is not None and int(full.valid[: real[0]].sum()) == (
        tables.order.numel() if tables.valid is None else int(tables.valid.sum())
    )
    seen = full.valid[: real[0], : real[1]]
    assert torch.equal(full.order[: real[0], : real[1]][seen], tables.order[seen])


def test_filled_up_neighbours_stay_as_the_kernels_read_them() -> None:
    grid = torch.cartesian_prod(torch.arange(4), torch.arange(5), torch.arange(3))
    scene = torch.zeros(len(grid), dtype=torch.long)
    own = Stage(grid.float(), scene, neighbours(grid, scene), {})
    caps = Caps(voxels=(64,), widths=(WIDTH,), patches=(5,), positions=0, answers=0, scenes=1)
    full = padding._stage(own, 0, caps).neighbours
    assert full.dtype == own.neighbours.dtype == torch.int32
    assert full.t().is_contiguous() and own.neighbours.t().is_contiguous() and full.shape == (64, 27)
    want = torch.where(own.neighbours == 60, 64, own.neighbours)
    assert torch.equal(full[:60], want) and bool((full[60:] == 64).all())
