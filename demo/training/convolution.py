"""3x3x3 submanifold convolution that trains fast.

Its gradient to x is a convolution again, since u is the neighbour k of v exactly where v is the neighbour 26 - k of u:
no pass scatters. All passes are two operations, which come twice: with the neighbours gathered in memory, for every
device and type, and as Triton kernels (`convolution_kernels`), which CUDA takes where triton is installed.
PLAIN_CONVOLUTION=1 in the environment keeps to the first.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, pad


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """gather_matmul(x, neighbours, weight, bias) -> [N, out]; weight_gradient(grad, x, neighbours) -> [out, 27*in]."""

    gather_matmul: Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
    weight_gradient: Callable[[Tensor, Tensor, Tensor], Tensor]


def convolve(x: Tensor, neighbours: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x [N, in], neighbours [N, 27] (N where there is none), weight [out, 27*in]; -> [N, out] in the autocast type.

    Weight and bias stay in their own type, and their gradients come in it.
    """
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    return convolve_with(_fastest(x, weight), x, neighbours, weight, bias)


def convolve_with(arithmetic: Arithmetic, x: Tensor, neighbours: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The same in the type of x, computed by `arithmetic`."""
    out: Tensor = _Convolution.apply(arithmetic, x, neighbours, weight, bias)
    return out


def _fastest(x: Tensor, weight: Tensor) -> Arithmetic:
    if not x.is_cuda or os.environ.get("PLAIN_CONVOLUTION") == "1" or not triton_works(x.device):
        return PLAIN
    from demo.training import convolution_kernels

    return fused() if convolution_kernels.supports(x, weight) else PLAIN


@cache
def has_triton() -> bool:
    """Whether triton is installed: torch's builds for CUDA bring it along."""
    try:
        import triton  # noqa: F401
    except ModuleNotFoundError:
        return False
    return True


@cache
def triton_works(device: torch.device) -> bool:
    """Whether the kernels run on a CUDA device. Triton compiles at first use, for which it needs a C compiler and
    Python's headers: where they are missing, training goes on without it, slower, and says so."""
    if not has_triton():
        return False
    from triton.errors import TritonError

    x, weight = torch.ones(1, 32, device=device).bfloat16(), torch.ones(32, 27 * 32, device=device).bfloat16()
    alone = torch.ones(1, 27, dtype=torch.int32, device=device).index_fill_(1, torch.tensor([13], device=device), 0)
    try:
        said = fused().gather_matmul(x, alone, weight, torch.zeros(32, device=device))
        return bool((said == 32).all())
    except (RuntimeError, OSError, ImportError, subprocess.SubprocessError, TritonError) as error:
        print(f"Triton's kernels do not run here ({error}); convolutions gather in memory", file=sys.stderr)
        return False


@cache
def fused() -> Arithmetic:
    """The Triton kernels."""
    from demo.training import convolution_kernels as kernels

    return Arithmetic(kernels.gather_matmul, kernels.weight_gradient)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, arithmetic: Arithmetic, x: Tensor, neighbours: Tensor, weight: Tensor, bias: Tensor
    ) -> Tensor:
        ctx.arithmetic, ctx.type = arithmetic, weight.dtype
        weight = weight.to(x.dtype)
        ctx.save_for_backward(x, neighbours, weight)
        return arithmetic.gather_matmul(x, neighbours, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None, Tensor, Tensor]:
        x, neighbours, weight = ctx.saved_tensors
        grad_x = ctx.arithmetic.gather_matmul(grad, neighbours, _turned(weight), None)
        grad_weight = ctx.arithmetic.weight_gradient(grad, x, neighbours)
        return None, grad_x, None, grad_weight.to(ctx.type), grad.sum(0, dtype=ctx.type)


def _turned(weight: Tensor) -> Tensor:
    """The gradient's weight [in, 27*out]: the offsets turned round, and in and out exchanged."""
    kernel = weight.unflatten(1, (27, -1))  # [out, 27, in]
    return kernel.flip(1).permute(2, 1, 0).flatten(1)


def _gather_matmul(x: Tensor, neighbours: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return linear(_gathered(x, neighbours), weight, None if bias is None else bias.to(x.dtype))


def _weight_gradient(grad: Tensor, x: Tensor, neighbours: Tensor) -> Tensor:
    return grad.t() @ _gathered(x, neighbours)


def _gathered(x: Tensor, neighbours: Tensor) -> Tensor:
    """[N, in] -> [N, 27*in]; a missing neighbour is a zero row.

    Rows move as 8-byte words: short rows of 2-byte numbers are read several times slower otherwise.
    """
    words = pad(x, (0, 0, 0, 1)).contiguous().view(torch.int64)
    return words[neighbours.flatten()].view(x.dtype).view(len(neighbours), -1)


PLAIN = Arithmetic(_gather_matmul, _weight_gradient)
