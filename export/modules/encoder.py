"""Sonata and the projector as one module: gathers, matmuls, softmax and norms over explicit geometry.

The names of the feeds are those of the encoder graph. Letters: N voxels of a stage, G attention patches of W rows,
P point tokens, C channels of a stage.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, pad, scaled_dot_product_attention

from export.checkpoint.config import ModelConfig
from export.modules.layers import LayerNorm, Linear, Tensors, constant
from runtime.manifest import EncoderSpec

FOURIER_BANDS = 10
FOURIER_HIGHEST = 30.0  # the bands' factors are pi * linspace(1, 30, 10)

Feeds = Mapping[str, Tensor]


class Encoder(nn.Module):
    """The encoder graph: voxels of one scene to point tokens of the language model."""

    def __init__(self, config: ModelConfig, tensors: Tensors) -> None:
        super().__init__()
        spec = config.encoder
        self.stem = Linear(tensors, "point_backbone.embedding.stem.linear")
        self.stem_norm = LayerNorm(tensors, "point_backbone.embedding.stem.norm")
        self.stages = nn.ModuleList(Stage(spec, stage, tensors) for stage in range(spec.stages))
        self.cells = cells_per_axis(spec)
        self.input_proj = Linear(tensors, "point_backbone.input_proj")
        self.projector = _projector(config.projector, tensors)

    def forward(self, feeds: Feeds) -> Tensor:
        """Point tokens [P, hidden_size], float32.

        Feeds: `features` [N0, in_channels] float32; per stage s `neighbours.s` [Ns, 27] (column a*9 + b*3 + c is the
        voxel at offset (a-1, b-1, c-1), a missing one is Ns), `order.s.slot` [G, W] (rows of each attention patch),
        `inverse.s.slot` [Ns] (place of each row in the flattened G*W), `children.s` [N(s+1), stride**3] (a missing
        child repeats a real one); `grid` [P, 3] of the last stage. Integers int32.
        """
        x = gelu(self.stem_norm(self.stem(feeds["features"])))  # [N0, C0]
        for stage in self.stages:
            x = stage(x, feeds)
        encoding = fourier_features(feeds["grid"], self.cells)  # [P, 63]
        context: Tensor = self.projector(self.input_proj(torch.cat([x, encoding], dim=-1)))
        return context


class Stage(nn.Module):
    """Pooling (from the second stage on) and blocks."""

    def __init__(self, spec: EncoderSpec, stage: int, tensors: Tensors) -> None:
        super().__init__()
        self.stage = stage
        self.slots = len(spec.order)
        self.pool = GridPooling(stage, tensors) if stage else None
        self.blocks = nn.ModuleList(Block(spec, stage, i, tensors) for i in range(spec.depths[stage]))

    def forward(self, x: Tensor, feeds: Feeds) -> Tensor:
        if self.pool is not None:
            x = self.pool(x, feeds[f"children.{self.stage - 1}"])
        for i, block in enumerate(self.blocks):
            slot = f"{self.stage}.{i % self.slots}"
            x = block(x, feeds[f"neighbours.{self.stage}"], feeds[f"order.{slot}"], feeds[f"inverse.{slot}"])
        return x


class GridPooling(nn.Module):
    """Linear, maximum over the children of each coarse voxel, LayerNorm, GELU."""

    def __init__(self, stage: int, tensors: Tensors) -> None:
        super().__init__()
        self.proj = Linear(tensors, f"point_backbone.enc.enc{stage}.down.proj")
        self.norm = LayerNorm(tensors, f"point_backbone.enc.enc{stage}.down.norm.0")

    def forward(self, x: Tensor, children: Tensor) -> Tensor:
        fine = self.proj(x)  # [N(s), C]
        coarse = fine[children.long()].amax(dim=1)  # [N(s+1), stride**3, C] -> [N(s+1), C]
        return gelu(self.norm(coarse))


class Block(nn.Module):
    """Conditional position encoding, attention and MLP, each added to its input."""

    def __init__(self, spec: EncoderSpec, stage: int, index: int, tensors: Tensors) -> None:
        super().__init__()
        name = f"point_backbone.enc.enc{stage}.block{index}"
        self.cpe = SubmanifoldConvolution(tensors, f"{name}.cpe.0")
        self.cpe_linear = Linear(tensors, f"{name}.cpe.1")
        self.cpe_norm = LayerNorm(tensors, f"{name}.cpe.2")
        self.norm1 = LayerNorm(tensors, f"{name}.norm1.0")
        self.attention = PatchAttention(tensors, f"{name}.attn", spec.heads[stage])
        self.norm2 = LayerNorm(tensors, f"{name}.norm2.0")
        self.fc1 = Linear(tensors, f"{name}.mlp.0.fc1")
        self.fc2 = Linear(tensors, f"{name}.mlp.0.fc2")

    def forward(self, x: Tensor, neighbours: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        x = x + self.cpe_norm(self.cpe_linear(self.cpe(x, neighbours)))
        x = x + self.attention(self.norm1(x), order, inverse)
        mlp: Tensor = self.fc2(gelu(self.fc1(self.norm2(x))))
        return x + mlp


class SubmanifoldConvolution(nn.Module):
    """3x3x3 cross-correlation over occupied voxels: one gather of 27 neighbours and one matmul.

    Checkpoint weight [out, kx, ky, kz, in]; the neighbours run over kx, ky, kz in that order.
    """

    def __init__(self, tensors: Tensors, name: str) -> None:
        super().__init__()
        weight = tensors(f"{name}.weight")
        self.weight = constant(weight.reshape(weight.shape[0], -1))  # [out, 27*in]
        self.bias = constant(tensors(f"{name}.bias"))

    def forward(self, x: Tensor, neighbours: Tensor) -> Tensor:
        padded = pad(x, (0, 0, 0, 1))  # [N+1, in], row N is zero: a missing neighbour adds nothing
        gathered = padded[neighbours.long()].flatten(1)  # [N, 27, in] -> [N, 27*in]
        return nn.functional.linear(gathered, self.weight, self.bias)


class PatchAttention(nn.Module):
    """Dense attention inside patches of a serialized order; scale 1 / sqrt(head size)."""

    def __init__(self, tensors: Tensors, name: str, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(tensors, f"{name}.qkv")
        self.proj = Linear(tensors, f"{name}.proj")

    def forward(self, x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        patches = self.qkv(x)[order.long()]  # [N, 3C] -> [G, W, 3C]
        heads = patches.unflatten(-1, (3, self.heads, -1))  # [G, W, 3, H, C/H]
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # three of [G, H, W, C/H]
        mixed = scaled_dot_product_attention(query, key, value)
        rows = mixed.transpose(1, 2).flatten(2).flatten(0, 1)  # [G*W, C]
        out: Tensor = self.proj(rows[inverse.long()])
        return out


def fourier_features(grid: Tensor, cells: int) -> Tensor:
    """Cells' coordinates in [0, 1] and their sines and cosines: [P, 3] integers -> [P, 63] float32.

    Order per row: x y z, then for each band sin x, sin y, sin z, cos x, cos y, cos z.
    """
    unit = grid.float() / (cells - 1)  # [P, 3]
    bands = torch.linspace(1.0, FOURIER_HIGHEST, FOURIER_BANDS) * torch.pi  # float32, as the model was trained
    angles = unit[:, None, :] * bands.to(grid.device)[:, None]  # [P, 10, 3]
    waves = torch.stack([angles.sin(), angles.cos()], dim=2)  # [P, 10, 2, 3]
    return torch.cat([unit, waves.flatten(1)], dim=-1)


def cells_per_axis(spec: EncoderSpec) -> int:
    """Cells of the last stage along one axis of the world, int(num_bins / 2**(stages - 1))."""
    return int(spec.num_bins / 2 ** (spec.stages - 1))


def _projector(kind: str, tensors: Tensors) -> nn.Module:
    if kind == "linear":
        return Linear(tensors, "point_proj")
    return nn.Sequential(Linear(tensors, "point_proj.0"), nn.GELU(), Linear(tensors, "point_proj.2"))
