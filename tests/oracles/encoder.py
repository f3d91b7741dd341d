"""The encoder from grid coordinates and features alone: dictionaries of voxels, loops, float64.

No neighbour table, no order, no children is taken from the code under test; a voxel is found by its coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from export.checkpoint.config import ModelConfig
from runtime.arrays import Array
from runtime.manifest import EncoderSpec
from tests.oracles.curves import Cell, curve_code

Tensors = Callable[[str], Any]
Voxels = dict[Cell, Array]  # features [C] of each occupied cell


def oracle_encoder(grid: Array, features: Array, config: ModelConfig, tensors: Tensors) -> tuple[Array, Array]:
    """Point tokens [P, hidden_size] float64 and patch coordinates [P, 3] float64, rows sorted by (x, y, z).

    `grid` [N, 3] integers, each cell once; `features` [N, in_channels] with the metres in columns 0 to 2;
    `tensors` gives the checkpoint's tensor of a name.
    """

    @cache
    def weight(name: str) -> Array:
        return np.asarray(tensors(name), dtype=np.float64)

    spec = config.encoder
    cells: list[Cell] = [(int(x), int(y), int(z)) for x, y, z in grid]
    rows = np.asarray(features, dtype=np.float64)
    coords: Voxels = {cell: row[:3] for cell, row in zip(cells, rows, strict=True)}
    stem = "point_backbone.embedding.stem"
    voxels: Voxels = {
        cell: _gelu(_norm(_linear(row, weight, f"{stem}.linear"), weight, f"{stem}.norm"))
        for cell, row in zip(cells, rows, strict=True)
    }
    for stage in range(spec.stages):
        if stage > 0:
            voxels = _pool(voxels, stage, spec.stride[stage - 1], weight)
            coords = _mean_coords(coords, spec.stride[stage - 1])
        for index in range(spec.depths[stage]):
            voxels = _block(voxels, spec, stage, index, weight)
    tokens = [_token(cell, voxels[cell], config, weight) for cell in sorted(voxels)]
    return np.stack(tokens), np.stack([coords[cell] for cell in sorted(coords)])


def _block(voxels: Voxels, spec: EncoderSpec, stage: int, index: int, weight: Tensors) -> Voxels:
    name = f"point_backbone.enc.enc{stage}.block{index}"
    convolved = _convolution(voxels, weight(f"{name}.cpe.0.weight"), weight(f"{name}.cpe.0.bias"))
    voxels = {
        cell: x + _norm(_linear(convolved[cell], weight, f"{name}.cpe.1"), weight, f"{name}.cpe.2")
        for cell, x in voxels.items()
    }
    normal = {cell: _norm(x, weight, f"{name}.norm1.0") for cell, x in voxels.items()}
    patches = _patches(list(voxels), spec.order[index % len(spec.order)], spec.patch_sizes[stage])
    attended = _attention(normal, patches, spec.heads[stage], weight, f"{name}.attn")
    voxels = {cell: x + attended[cell] for cell, x in voxels.items()}
    return {cell: x + _mlp(_norm(x, weight, f"{name}.norm2.0"), weight, f"{name}.mlp.0") for cell, x in voxels.items()}


def _convolution(voxels: Voxels, kernel: Array, bias: Array) -> Voxels:
    """Submanifold 3x3x3 cross-correlation; kernel [out, 3, 3, 3, in]. Only occupied cells are read and written."""
    result = {}
    for x, y, z in voxels:
        total = bias.copy()
        for a in range(3):
            for b in range(3):
                for c in range(3):
                    neighbour = voxels.get((x + a - 1, y + b - 1, z + c - 1))
                    if neighbour is not None:
                        total += kernel[:, a, b, c, :] @ neighbour
        result[x, y, z] = total
    return result


def _patches(cells: list[Cell], curve: str, size: int) -> list[tuple[list[Cell], list[Cell]]]:
    """(cells that ask, cells that are seen) of each patch.

    Along the curve, `size` cells a patch; the last patch sees the last `size` cells, borrowing from the one before.
    """
    depth = (max(max(cell) for cell in cells) + 1).bit_length()
    along = sorted(cells, key=lambda cell: curve_code(curve, cell, depth))
    if len(along) <= size:
        return [(along, along)]
    starts = range(0, len(along), size)
    asking = [along[start : start + size] for start in starts]
    return [(cells, cells if len(cells) == size else along[-size:]) for cells in asking]


def _attention(
    voxels: Voxels, patches: list[tuple[list[Cell], list[Cell]]], heads: int, weight: Tensors, name: str
) -> Voxels:
    result = {}
    for asking, seen in patches:
        projected = {cell: _linear(voxels[cell], weight, f"{name}.qkv").reshape(3, heads, -1) for cell in seen}
        for cell in asking:
            mixed = [_attend(projected[cell][0, h], [projected[other][1:, h] for other in seen]) for h in range(heads)]
            result[cell] = _linear(np.concatenate(mixed), weight, f"{name}.proj")
    return result


def _attend(query: Array, keys_values: list[Array]) -> Array:
    scores = [float(query @ key) / math.sqrt(len(query)) for key, _ in keys_values]
    highest = max(scores)
    weights = [math.exp(score - highest) for score in scores]
    total = sum(weights)
    return sum((w / total * value for w, (_, value) in zip(weights, keys_values, strict=True)), np.zeros(len(query)))


def _pool(voxels: Voxels, stage: int, stride: int, weight: Tensors) -> Voxels:
    name = f"point_backbone.enc.enc{stage}.down"
    pooled: Voxels = {}
    for (x, y, z), row in voxels.items():
        parent = (x // stride, y // stride, z // stride)
        child = _linear(row, weight, f"{name}.proj")
        pooled[parent] = np.maximum(pooled[parent], child) if parent in pooled else child
    return {cell: _gelu(_norm(row, weight, f"{name}.norm.0")) for cell, row in pooled.items()}


def _mean_coords(coords: Voxels, stride: int) -> Voxels:
    """Unweighted mean over the children, whatever they are themselves means of."""
    children: dict[Cell, list[Array]] = {}
    for (x, y, z), coord in coords.items():
        children.setdefault((x // stride, y // stride, z // stride), []).append(coord)
    return {cell: sum(group, np.zeros(3)) / len(group) for cell, group in children.items()}


def _token(cell: Cell, row: Array, config: ModelConfig, weight: Tensors) -> Array:
    spec = config.encoder
    resolution = int(spec.num_bins / 2 ** (spec.stages - 1))
    unit = [coordinate / (resolution - 1) for coordinate in cell]
    encoding = list(unit)
    for k in range(10):
        factor = math.pi * (1 + k * 29 / 9)
        encoding += [math.sin(factor * v) for v in unit] + [math.cos(factor * v) for v in unit]
    context = _linear(np.concatenate([row, encoding]), weight, "point_backbone.input_proj")
    if config.projector == "linear":
        return _linear(context, weight, "point_proj")
    return _linear(_gelu(_linear(context, weight, "point_proj.0")), weight, "point_proj.2")


def _mlp(x: Array, weight: Tensors, name: str) -> Array:
    return _linear(_gelu(_linear(x, weight, f"{name}.fc1")), weight, f"{name}.fc2")


def _linear(x: Array, weight: Tensors, name: str) -> Array:
    product: Array = weight(f"{name}.weight") @ x + weight(f"{name}.bias")
    return product


def _norm(x: Array, weight: Tensors, name: str) -> Array:
    centred = x - x.mean()
    scaled = centred / math.sqrt(float((centred**2).mean()) + 1e-5)
    normal: Array = scaled * weight(f"{name}.weight") + weight(f"{name}.bias")
    return normal


def _gelu(x: Array) -> Array:
    return np.array([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x])
