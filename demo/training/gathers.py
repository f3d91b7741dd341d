"""The encoder's other gathers, with gradients that are gathers too.

The gradient of an indexed read is a scatter that adds, sorted or by atomics, which is slow for rows of bf16. But each
voxel has one place of its own in the patches and one parent in the next stage, so that almost nothing is to be added.
No shape depends on what the tables hold, and nothing waits for the host: a CUDA graph can hold these operations.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from demo.training.geometry import Patches


def into_patches(x: Tensor, patches: Patches) -> Tensor:
    """Rows of x [N, C] in their patches: [G, W, C]."""
    rows: Tensor = _IntoPatches.apply(x, patches.order.flatten(), patches.inverse, patches.extra)
    return rows.unflatten(0, patches.order.shape)


def from_patches(rows: Tensor, patches: Patches) -> Tensor:
    """Each voxel's own row [N, C] of patches [G, W, C]."""
    out: Tensor = _FromPatches.apply(rows.flatten(0, 1), patches.order.flatten(), patches.inverse, patches.extra)
    return out


def largest_child(x: Tensor, children: Tensor) -> Tensor:
    """Maximum over the children of each coarse voxel: x [N, C], children [M, K] -> [M, C].

    The gradient goes to one child that has the maximum, where `amax` divides it among equal ones. A voxel must not be
    the child of two coarse voxels. A coarse voxel that only fills up has children N: its value is the last voxel's, and
    its gradient goes nowhere.
    """
    out: Tensor = _LargestChild.apply(x, children)
    return out


class _IntoPatches(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor, extra: Tensor) -> Tensor:
        ctx.save_for_backward(order, inverse, extra)
        return _rows(x, order)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        order, inverse, extra = ctx.saved_tensors
        return _rows(grad, inverse).index_add_(0, order[extra], _rows(grad, extra)), None, None, None


class _FromPatches(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, order: Tensor, inverse: Tensor, extra: Tensor) -> Tensor:
        ctx.save_for_backward(order, extra)
        return _rows(rows, inverse)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        order, extra = ctx.saved_tensors
        return _rows(grad, order).index_fill_(0, extra, 0), None, None, None


class _LargestChild(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, children: Tensor) -> Tensor:
        rows = children.flatten().clamp(max=len(x) - 1)
        largest, which = _rows(x, rows).unflatten(0, children.shape).max(dim=1)  # [M, C]
        ctx.save_for_backward(children, which.byte())
        ctx.voxels = len(x)
        return largest

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        children, which = ctx.saved_tensors
        voxel = children.gather(1, which.long())  # [M, C]; in a column no voxel comes twice, apart from N
        return grad.new_zeros(ctx.voxels + 1, grad.shape[1]).scatter_(0, voxel, grad)[:-1], None


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """x [N, C] at rows [K], moved as 8-byte words where they fit: short rows of 2-byte numbers are read slower."""
    x = x.contiguous()
    if x.shape[1] * x.element_size() % 8:
        return x.index_select(0, index)
    return x.view(torch.int64).index_select(0, index).view(x.dtype)
