"""The encoder over a batch of scenes: the clean modules' weights and arithmetic, with gathers that train fast.

`export.modules.Encoder` computes one scene for inference. Its gathers would train slowly: the gradient of an indexed
read is a sorted scatter. Here the convolution's gradient is a convolution again, since u is the neighbour k of v
exactly where v is the neighbour 26 - k of u, and the other gathers use `index_select`. A test holds both to the same
point tokens and gradients.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import gelu, linear, pad, scaled_dot_product_attention

from demo.training.geometry import Geometry, Patches, Stage
from export.modules import encoder as clean


def encode(encoder: clean.Encoder, features: Tensor, geometry: Geometry) -> Tensor:
    """Point tokens [P, hidden_size] of all scenes, from features [N0, 6] in the order of the geometry's voxels."""
    return encode_stages(encoder, features, geometry)[0]


def encode_stages(encoder: clean.Encoder, features: Tensor, geometry: Geometry) -> tuple[Tensor, list[Tensor]]:
    """Point tokens, and the features [N, C] that leave each stage."""
    x = gelu(encoder.stem_norm(encoder.stem(features)))
    children: Tensor | None = None
    left: list[Tensor] = []
    for stage, tables in zip(encoder.stages, geometry.stages, strict=True):
        x = _stage(cast(clean.Stage, stage), x, tables, children)
        children = tables.children
        left.append(x)
    tokens: Tensor = encoder.projector(encoder.input_proj(torch.cat([x.float(), geometry.encoding], dim=-1)))
    return tokens, left


def _stage(stage: clean.Stage, x: Tensor, tables: Stage, children: Tensor | None) -> Tensor:
    if stage.pool is not None and children is not None:
        fine = stage.pool.proj(x)
        coarse = fine.index_select(0, children.flatten()).unflatten(0, children.shape).amax(dim=1)
        x = gelu(stage.pool.norm(coarse))
    for i, block in enumerate(stage.blocks):
        x = _block(cast(clean.Block, block), x, tables.neighbours, tables.patches[i % stage.slots])
    return x


def _block(block: clean.Block, x: Tensor, neighbours: Tensor, patches: Patches) -> Tensor:
    conv = convolve(x, neighbours, block.cpe.weight, block.cpe.bias)
    x = x + block.cpe_norm(block.cpe_linear(conv))
    x = x + attend(block.attention, block.norm1(x), patches)
    mlp: Tensor = block.fc2(gelu(block.fc1(block.norm2(x))))
    return x + mlp


def attend(attention: clean.PatchAttention, x: Tensor, patches: Patches) -> Tensor:
    """Dense attention inside the patches of x [N, C]; filled-up places are not seen."""
    qkv = attention.qkv(x).index_select(0, patches.order.flatten()).unflatten(0, patches.order.shape)  # [G, W, 3C]
    query, key, value = qkv.unflatten(-1, (3, attention.heads, -1)).permute(2, 0, 3, 1, 4)
    mask = None if patches.valid is None else patches.valid[:, None, None, :]
    mixed = scaled_dot_product_attention(query, key, value, attn_mask=mask)
    rows = mixed.transpose(1, 2).flatten(2).flatten(0, 1)  # [G*W, C]
    out: Tensor = attention.proj(rows.index_select(0, patches.inverse))
    return out


def convolve(x: Tensor, neighbours: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """3x3x3 submanifold convolution of x [N, in], weight [out, 27*in]; -> [N, out] in the autocast type."""
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype)
    out: Tensor = _Convolution.apply(x, neighbours, weight, bias)
    return out


def _gathered(x: Tensor, neighbours: Tensor) -> Tensor:
    """[N, in] -> [N, 27*in]; a missing neighbour is a zero row.

    Rows move as 8-byte words: short rows of 2-byte numbers are read several times slower otherwise.
    """
    words = pad(x, (0, 0, 0, 1)).contiguous().view(torch.int64)
    return words[neighbours.flatten()].view(x.dtype).view(len(neighbours), -1)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, neighbours: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, neighbours, weight)
        return linear(_gathered(x, neighbours), weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
        x, neighbours, weight = ctx.saved_tensors
        grad = grad.contiguous()
        kernel = weight.view(len(weight), 27, -1)  # [out, 27, in]
        turned = kernel.flip(1).permute(2, 1, 0).reshape(kernel.shape[2], -1)  # [in, 27*out]
        grad_x = linear(_gathered(grad, neighbours), turned)
        grad_weight = grad.t() @ _gathered(x, neighbours)
        return grad_x, None, grad_weight, grad.sum(0)
