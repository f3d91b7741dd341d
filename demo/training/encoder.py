"""The encoder over a batch of scenes: the clean modules' weights and arithmetic, with gathers that train fast.

`export.modules.Encoder` computes one scene for inference. Its gathers would train slowly: the gradient of an indexed
read is a sorted scatter. Here they are those of `convolution` and `gathers`, whose gradients are gathers again. A test
holds both encoders to the same point tokens and gradients.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import gelu, scaled_dot_product_attention

from demo.training.convolution import convolve
from demo.training.gathers import from_patches, into_patches, largest_child
from demo.training.geometry import Geometry, Patches, Stage
from export.modules import encoder as clean


def encode(encoder: clean.Encoder, features: Tensor, geometry: Geometry) -> Tensor:
    """Point tokens [P, hidden_size] of all scenes, from features [N0, 6] in the order of the geometry's voxels."""
    return encode_stages(encoder, features, geometry)[0]


def encode_stages(encoder: clean.Encoder, features: Tensor, geometry: Geometry) -> tuple[Tensor, list[Tensor]]:
    """Point tokens, and the features [N, C] that leave each stage."""
    with torch.autocast(features.device.type, enabled=False):  # in bf16 eight metres are known to 3 cm only
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
        x = gelu(stage.pool.norm(largest_child(stage.pool.proj(x), children)))
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
    qkv = into_patches(attention.qkv(x), patches)  # [G, W, 3C]
    query, key, value = qkv.unflatten(-1, (3, attention.heads, -1)).permute(2, 0, 3, 1, 4)
    mask = None if patches.valid is None else patches.valid[:, None, None, :]
    mixed = scaled_dot_product_attention(query, key, value, attn_mask=mask)
    out: Tensor = attention.proj(from_patches(mixed.transpose(1, 2).flatten(2), patches))  # [G, W, C] -> [N, C]
    return out
