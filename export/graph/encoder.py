"""The encoder graph: Sonata's algebra over the geometry that `runtime.points` computes (facts section 3.3)."""

from __future__ import annotations

import numpy as np
import onnx
import torch

from export.graph.builder import FLOAT, INT32, PRECISIONS, GraphBuilder
from export.graph.layers import gelu, layer_norm, linear
from export.graph.weights import WeightFile
from runtime.manifest import EncoderSpec

FOURIER_BANDS = 10
MAX_FREQUENCY = 30.0  # the highest band turns 30 half circles over the grid


def encoder_graph(
    spec: EncoderSpec, weights: WeightFile, precision: str, hidden_size: int, projector: str
) -> onnx.ModelProto:
    """One scene's voxels in, `point_tokens [P, C]` out, after the projector. The body is float32 in every precision."""
    g = GraphBuilder("encoder", weights)
    x = g.input("features", FLOAT, ["N0", spec.in_channels])
    _declare_geometry(g, spec)
    with g.scope("embedding"):
        x = linear(g, x, "point_backbone.embedding.stem.linear.weight", "point_backbone.embedding.stem.linear.bias")
        x = gelu(g, layer_norm(g, x, "point_backbone.embedding.stem.norm"))
    for stage in range(spec.stages):
        name = f"point_backbone.enc.enc{stage}"
        if stage > 0:
            with g.scope(f"enc{stage}/down"):
                x = _pool(g, x, f"{name}.down", f"children.{stage - 1}")
        for index in range(spec.depths[stage]):
            with g.scope(f"enc{stage}/block{index}"):
                x = _block(g, x, spec, stage, index % len(spec.order), f"{name}.block{index}")
    with g.scope("output"):
        x = g.op("Concat", x, _fourier(g, spec), axis=1)
        x = linear(g, x, "point_backbone.input_proj.weight", "point_backbone.input_proj.bias")
    _project(g, x, projector, PRECISIONS[precision], hidden_size)
    return g.build()


def _declare_geometry(g: GraphBuilder, spec: EncoderSpec) -> None:
    last = spec.stages - 1

    def voxels(stage: int) -> str:
        return "P" if stage == last else f"N{stage}"

    for stage in range(spec.stages):
        g.input(f"neighbours.{stage}", INT32, [voxels(stage), 27])
        for slot in spec.slots(stage):
            g.input(f"order.{stage}.{slot}", INT32, [f"G{stage}", f"W{stage}"])
            g.input(f"inverse.{stage}.{slot}", INT32, [voxels(stage)])
        if stage < last:
            g.input(f"children.{stage}", INT32, [voxels(stage + 1), spec.stride[stage] ** 3])
    g.input("grid", INT32, ["P", 3])


def _pool(g: GraphBuilder, x: str, name: str, children: str) -> str:
    """Linear, maximum over each coarse voxel's children (a repeated child changes no maximum), norm, GELU."""
    y = linear(g, x, f"{name}.proj.weight", f"{name}.proj.bias")
    y = g.op("ReduceMax", g.op("Gather", y, children), axes=[1], keepdims=0)
    return gelu(g, layer_norm(g, y, f"{name}.norm.0"))


def _block(g: GraphBuilder, x: str, spec: EncoderSpec, stage: int, slot: int, name: str) -> str:
    x = g.op("Add", x, _position_encoding(g, x, spec.channels[stage], f"neighbours.{stage}", f"{name}.cpe"))
    attended = _attention(g, layer_norm(g, x, f"{name}.norm1.0"), spec, stage, slot, f"{name}.attn")
    x = g.op("Add", x, attended)
    y = linear(g, layer_norm(g, x, f"{name}.norm2.0"), f"{name}.mlp.0.fc1.weight", f"{name}.mlp.0.fc1.bias")
    return g.op("Add", x, linear(g, gelu(g, y), f"{name}.mlp.0.fc2.weight", f"{name}.mlp.0.fc2.bias"))


def _position_encoding(g: GraphBuilder, x: str, channels: int, neighbours: str, name: str) -> str:
    """Submanifold convolution 3x3x3 as one product over 27 gathered neighbours, then linear and norm."""
    padded = g.op("Concat", x, g.constant(np.zeros((1, channels)), np.float32), axis=0)  # row N stands for "no voxel"
    gathered = g.op("Reshape", g.op("Gather", padded, neighbours), g.constant([-1, 27 * channels]))
    y = linear(g, gathered, f"{name}.0.weight", f"{name}.0.bias")
    return layer_norm(g, linear(g, y, f"{name}.1.weight", f"{name}.1.bias"), f"{name}.2")


def _attention(g: GraphBuilder, x: str, spec: EncoderSpec, stage: int, slot: int, name: str) -> str:
    """Dense attention inside patches of consecutive voxels on one curve."""
    channels, heads = spec.channels[stage], spec.heads[stage]
    qkv = linear(g, x, f"{name}.qkv.weight", f"{name}.qkv.bias")
    patches = g.op("Gather", qkv, f"order.{stage}.{slot}")  # [G, W, 3C]
    query, key, value = (
        g.op("Transpose", g.op("Reshape", part, g.constant([0, 0, heads, channels // heads])), perm=perm)
        for part, perm in zip(
            g.ops("Split", 3, patches, g.constant([channels] * 3), axis=-1),
            ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]),
            strict=True,
        )
    )
    scaled = g.op("Mul", query, g.constant((channels // heads) ** -0.5, np.float32))
    chances = g.op("Softmax", g.op("MatMul", scaled, key), axis=-1)  # [G, heads, W, W]
    mixed = g.op("Transpose", g.op("MatMul", chances, value), perm=[0, 2, 1, 3])
    rows = g.op("Gather", g.op("Reshape", mixed, g.constant([-1, channels])), f"inverse.{stage}.{slot}")
    return linear(g, rows, f"{name}.proj.weight", f"{name}.proj.bias")


def _fourier(g: GraphBuilder, spec: EncoderSpec) -> str:
    """[P, 63]: v, then for each band sin and cos of the three axes, v = grid / (R - 1) (facts 3.3.8)."""
    cells = int(spec.num_bins / 2 ** (spec.stages - 1))
    v = g.op("Div", g.cast("grid", FLOAT), g.constant(cells - 1, np.float32))
    bands = (torch.linspace(1, MAX_FREQUENCY, FOURIER_BANDS) * torch.pi).numpy()  # [10], float32
    angles = g.op("Mul", g.op("Unsqueeze", v, g.constant([1])), g.constant(bands[None, :, None], np.float32))
    pairs = g.op("Concat", g.op("Sin", angles), g.op("Cos", angles), axis=2)  # [P, 10, 6]
    return g.op("Concat", v, g.op("Reshape", pairs, g.constant([-1, 6 * FOURIER_BANDS])), axis=1)


def _project(g: GraphBuilder, x: str, projector: str, dtype: int, hidden_size: int) -> None:
    """Cast first, then project in the bundle's precision, as upstream runs it."""
    with g.scope("projector"):
        x = g.cast(x, dtype, source=FLOAT)
        if projector == "mlp":
            x = gelu(g, linear(g, x, "point_proj.0.weight", "point_proj.0.bias"), dtype)
            weight, bias = "point_proj.2.weight", "point_proj.2.bias"
        else:
            weight, bias = "point_proj.weight", "point_proj.bias"
        g.op("Gemm", x, g.weight(weight), g.weight(bias), transB=1, name="point_tokens")
    g.output("point_tokens", dtype, ["P", hidden_size])
