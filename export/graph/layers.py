"""Pieces that several graphs share. Rows are flattened: [R, C] with R = B*S, B*T, or voxels of a stage."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from export.graph.builder import FLOAT, GraphBuilder

LAYER_NORM_EPS = 1e-5
SMALLEST_PEAK = 2.0**-14  # the smallest normal number of half precision
Norm = Callable[[GraphBuilder, str, str, float, int], str]  # x [R, C], weight's name, eps, the model's type


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


def scaled_rms_norm(g: GraphBuilder, x: str, weight: str, eps: float, dtype: int) -> str:
    """The same value without squares of large numbers: each row is first divided by its largest absolute value.

    Right in float32, and finite in half precision too, for compilers that narrow what the graph has in float32: a
    square is at most 1, and the root times the largest value is no larger than that value.
    """
    x32 = g.cast(x, FLOAT, source=dtype)
    peak = g.op("ReduceMax", g.op("Abs", x32), axes=[-1], keepdims=1)
    peak = g.op("Max", peak, g.constant(SMALLEST_PEAK, np.float32))
    share = g.op("Div", x32, peak)
    mean = g.op("ReduceMean", g.op("Mul", share, share), axes=[-1], keepdims=1)
    floor = g.op("Div", g.constant(math.sqrt(eps), np.float32), peak)
    root = g.op("Sqrt", g.op("Add", mean, g.op("Mul", floor, floor)))
    normed = g.cast(g.op("Div", x32, g.op("Mul", root, peak)), dtype, source=FLOAT)
    return g.op("Mul", normed, g.weight(weight))


NORMS: dict[str, Norm] = {"plain": rms_norm, "scaled": scaled_rms_norm}


def swiglu(g: GraphBuilder, x: str, prefix: str, width: int, bias: bool) -> str:
    """down(silu(gate(x)) * up(x)); gate and up are one product over stacked weights."""
    both = linear(g, x, f"{prefix}.gate_up_proj.weight", f"{prefix}.gate_up_proj.bias" if bias else None)
    gate, up = g.ops("Split", 2, both, g.constant([width, width]), axis=-1)
    hidden = g.op("Mul", g.op("Mul", gate, g.op("Sigmoid", gate)), up)
    return linear(g, hidden, f"{prefix}.down_proj.weight", f"{prefix}.down_proj.bias" if bias else None)
