"""The submanifold convolution without its gathered neighbours in memory: Triton kernels for CUDA.

At 620,000 voxels of 32 channels the gathered neighbours are 1 GB, written and read again in each of the three passes.
Here a program reads the rows that it needs into shared memory, one offset of the 27 after another for a block of
voxels, while it multiplies those of the offset before. A missing neighbour is masked and moves no bytes: a voxel of
the generated rooms has 4 neighbours in the first stage and 12 in the last, itself included, and the rows that several
read lie in the cache. An offset is not left out where a whole block lacks it, since hardly any block does: of the 27,
blocks of 128 voxels have 25 in the first stage and all in the last, blocks of 32 have 20 to 27. To test for it would
cost a barrier and the overlap, to save products that the tensor cores make in 0.1 ms.

N changes with each batch: nothing here is compiled for an N. Block sizes are a table and not tuned at run time, for a
tuner would begin again with every N. Importing this module needs triton.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

OFFSETS = 27
TYPES = (torch.float32, torch.float16, torch.bfloat16)
NARROWEST, WIDEST = 16, 128  # filled-up channels: what tl.dot takes, and whose sums stay in the registers
LARGEST = 2**31  # element numbers are int32
SPLITS = 128  # of the weight's gradient, about; a split has at least SPLIT_STEPS blocks of rows
SPLIT_STEPS = 8


class Plan(NamedTuple):
    """How a kernel is launched: rows of a block, warps, and stages of the pipeline of reads and products."""

    block: int
    warps: int
    stages: int


# By the wider of the two widths, filled up to a power of two. Compiled for sm_90 in bf16 they take 56 to 111 registers
# a thread, 17 to 99 KB of shared memory and no spills, so that 2 to 8 programs share a multiprocessor.
FORWARD = {16: Plan(128, 4, 3), 32: Plan(128, 4, 3), 64: Plan(128, 4, 3), 128: Plan(64, 8, 3)}
WEIGHT = {16: Plan(128, 4, 3), 32: Plan(128, 4, 3), 64: Plan(64, 4, 3), 128: Plan(64, 8, 3)}


def supports(x: Tensor, weight: Tensor) -> bool:
    """Whether the kernels compute this convolution: x [N, in], weight [out, 27*in]."""
    widest = max(x.shape[1], len(weight))
    return x.dtype in TYPES and widest <= WIDEST and 0 < len(x) * max(widest, OFFSETS) < LARGEST


def gather_matmul(x: Tensor, neighbours: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """out[n, o] = bias[o] + sum of weight[o, k, c] * x[neighbours[n, k], c], summed in float32.

    x [N, in]; neighbours [N, 27], N where there is none; weight [out, 27*in] in the type of x; bias [out] in any;
    -> [N, out] in the type of x.
    """
    out = x.new_empty(len(x), len(weight))
    inner, outer = filled_up(x.shape[1]), filled_up(len(weight))
    plan = plan_of(FORWARD, max(inner, outer), x.dtype)
    with torch.cuda.device_of(x):
        _gather_matmul[(triton.cdiv(len(x), plan.block),)](
            x.contiguous(), _offset_major(neighbours), weight.contiguous(), bias, out, len(x),
            IN=x.shape[1], OUT=len(weight), INNER=inner, OUTER=outer, BLOCK=plan.block, PRECISION=_precision(),
            num_warps=plan.warps, num_stages=plan.stages,
        )  # fmt: skip
    return out


def weight_gradient(grad: Tensor, x: Tensor, neighbours: Tensor) -> Tensor:
    """Sum over n of grad[n, o] * x[neighbours[n, k], c]: float32 [out, 27*in], the same on every run.

    Splits of the rows are summed apart and then added up, not by atomics.
    """
    outer, inner = filled_up(grad.shape[1]), filled_up(x.shape[1])
    plan = plan_of(WEIGHT, max(inner, outer), x.dtype)
    blocks = triton.cdiv(len(x), plan.block)
    steps = max(SPLIT_STEPS, triton.next_power_of_2(triton.cdiv(blocks, SPLITS)))  # compiled for a few powers of two
    partial = x.new_empty(triton.cdiv(blocks, steps), grad.shape[1], OFFSETS * x.shape[1], dtype=torch.float32)
    with torch.cuda.device_of(x):
        _weight_gradient[(OFFSETS, len(partial))](
            grad.contiguous(), x.contiguous(), _offset_major(neighbours), partial, len(x),
            IN=x.shape[1], OUT=grad.shape[1], INNER=inner, OUTER=outer, BLOCK=plan.block, STEPS=steps,
            PRECISION=_precision(), num_warps=plan.warps, num_stages=plan.stages,
        )  # fmt: skip
    return partial.sum(0)


@triton.jit(do_not_specialize=["rows"])
def _gather_matmul(
    x, neighbours, weight, bias, out, rows,
    IN: tl.constexpr, OUT: tl.constexpr, INNER: tl.constexpr, OUTER: tl.constexpr, BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """One block of rows by all output channels. Channels past IN and OUT are filled up with zeros."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inner, outer = tl.arange(0, INNER), tl.arange(0, OUTER)
    inside = row < rows
    weights = weight + outer[None, :] * (27 * IN) + inner[:, None]  # [INNER, OUTER] of offset 0
    is_weight = (inner < IN)[:, None] & (outer < OUT)[None, :]
    total = tl.zeros((BLOCK, OUTER), dtype=tl.float32)
    for k in range(27):
        source = tl.load(neighbours + k * rows + row, mask=inside, other=rows)
        found = (source < rows)[:, None] & (inner < IN)[None, :]
        tile = tl.load(x + source[:, None] * IN + inner[None, :], mask=found, other=0.0)
        total = tl.dot(tile, tl.load(weights + k * IN, mask=is_weight, other=0.0), total, input_precision=PRECISION)
    if bias is not None:
        total += tl.load(bias + outer, mask=outer < OUT, other=0.0).to(tl.float32)[None, :]
    places = out + row[:, None] * OUT + outer[None, :]
    tl.store(places, total.to(out.dtype.element_ty), mask=inside[:, None] & (outer < OUT)[None, :])


@triton.jit(do_not_specialize=["rows"])
def _weight_gradient(
    grad, x, neighbours, partial, rows,
    IN: tl.constexpr, OUT: tl.constexpr, INNER: tl.constexpr, OUTER: tl.constexpr, BLOCK: tl.constexpr,
    STEPS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One offset and one split of the rows: [OUT, IN]. The 27 of a split run side by side and share its rows' cache."""
    k, split = tl.program_id(0), tl.program_id(1)
    inner, outer = tl.arange(0, INNER), tl.arange(0, OUTER)
    total = tl.zeros((OUTER, INNER), dtype=tl.float32)
    for step in range(STEPS):
        row = (split * STEPS + step) * BLOCK + tl.arange(0, BLOCK)
        source = tl.load(neighbours + k * rows + row, mask=row < rows, other=rows)
        found = source < rows
        is_tile, is_up = found[:, None] & (inner < IN)[None, :], found[None, :] & (outer < OUT)[:, None]
        tile = tl.load(x + source[:, None] * IN + inner[None, :], mask=is_tile, other=0.0)
        up = tl.load(grad + row[None, :] * OUT + outer[:, None], mask=is_up, other=0.0)  # [OUTER, BLOCK]
        total = tl.dot(up, tile, total, input_precision=PRECISION)
    places = partial + (split * OUT + outer[:, None]) * (27 * IN) + k * IN + inner[None, :]
    tl.store(places, total, mask=(outer < OUT)[:, None] & (inner < IN)[None, :])


def plan_of(table: dict[int, Plan], width: int, dtype: torch.dtype) -> Plan:
    """float32 has rows twice as long, and one stage less to keep them in."""
    plan = table[width]
    return plan._replace(stages=plan.stages - 1) if dtype == torch.float32 else plan


def _offset_major(neighbours: Tensor) -> Tensor:
    """int32 [27, N], so that a block reads the row numbers of an offset in one piece; the geometry's lie so already."""
    return neighbours.t().int().contiguous()


def filled_up(width: int) -> int:
    return max(NARROWEST, triton.next_power_of_2(width))


def _precision() -> str:
    """float32 as exactly as torch multiplies it; half precision is not concerned."""
    return "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"
