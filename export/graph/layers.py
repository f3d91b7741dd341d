"""Pieces that several graphs share. Rows are flattened: [R, C] with R = B*S, B*T, or voxels of a stage."""

from __future__ import annotations

import math

import numpy as np

from export.graph.builder import FLOAT, GraphBuilder

LAYER_NORM_EPS = 1e-5


def linear(g: GraphBuilder, x: str, weight: str, bias: str | None = None) -> str:
    """x [R, in] times weight [out, in] transposed, as torch.nn.Linear stores it."""
    tensors = [g.weight(weight)] + ([] if bias is None else [g.weight(bias)])
    return g.op("Gemm", x, *tensors, transB=1)


def layer_norm(g: GraphBuilder, x: str, name: str) -> str:
    """torch.nn.LayerNorm over the last axis."""
    return g.op(
        "LayerNormalization", x, g.weight(f"{name}.weight"), g.weight(f"{name}.bias"), axis=-1, epsilon=LAYER_NORM_EPS
    )


def gelu(g: GraphBuilder, x: str, dtype: int = FLOAT) -> str:
    """The exact GELU, x * (1 + erf(x / sqrt 2)) / 2, in the form that back ends recognise and fuse. In float32."""
    x32 = g.cast(x, FLOAT, source=dtype)
    erf = g.op("Erf", g.op("Div", x32, g.constant(math.sqrt(2.0), np.float32)))
    twice = g.op("Mul", x32, g.op("Add", erf, g.constant(1.0, np.float32)))
    return g.cast(g.op("Mul", twice, g.constant(0.5, np.float32)), dtype, source=FLOAT)


def rms_norm(g: GraphBuilder, x: str, weight: str, eps: float, dtype: int) -> str:
    """Normalised in float32, cast to the model's type, then weighted: the order of transformers' RMSNorm."""
    x32 = g.cast(x, FLOAT, source=dtype)
    mean = g.op("ReduceMean", g.op("Pow", x32, g.constant(2.0, np.float32)), axes=[-1], keepdims=1)
    root = g.op("Sqrt", g.op("Add", mean, g.constant(eps, np.float32)))
    normed = g.cast(g.op("Div", x32, root), dtype, source=FLOAT)
    return g.op("Mul", normed, g.weight(weight))


def swiglu(g: GraphBuilder, x: str, prefix: str, width: int, bias: bool) -> str:
    """down(silu(gate(x)) * up(x)); gate and up are one product over stacked weights."""
    both = linear(g, x, f"{prefix}.gate_up_proj.weight", f"{prefix}.gate_up_proj.bias" if bias else None)
    gate, up = g.ops("Split", 2, both, g.constant([width, width]), axis=-1)
    hidden = g.op("Mul", g.op("Mul", gate, g.op("Sigmoid", gate)), up)
    return linear(g, hidden, f"{prefix}.down_proj.weight", f"{prefix}.down_proj.bias" if bias else None)
