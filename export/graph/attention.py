"""Rotary embedding and grouped-query attention of the language model, over fresh rows and over a cache.

Rows that go to the cache are token-major, [rows, B, K, D] ("MBKD"): every prefix of such a cache is contiguous, and
back ends read it in place, because the transpositions below are absorbed by their matrix products.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from export.graph.builder import FLOAT, GraphBuilder
from export.graph.layers import linear
from runtime.manifest import LanguageModelSpec

LOWEST = float(np.finfo(np.float32).min)  # not -inf: a row without any valid key must stay finite
Q_SCALE = 1.0 / 64.0  # keys and queries near 130 overflow a float16 product; exact, since it is a power of two


@dataclass(frozen=True, slots=True)
class Tables:
    """cos and sin by position, [B, S, 1, D] in float32; the sign of rotate_half is already in sin."""

    cos: str
    sin: str


@dataclass(frozen=True, slots=True)
class Shapes:
    """Shape vectors that all layers share."""

    batch_and_rows: str  # [B, S]
    heads: str  # [B, S, H+2K, D]
    grouped: str  # [B, S, K, G, D], G = H/K query heads share a key head
    flat_queries: str  # [B, K, -1, D]
    ungrouped: str  # [B, K, G, -1, D]
    flat_scores: str  # [B, K, -1, S], scores among the positions of `input_ids`
    group_scores: str  # [B, K, G, -1, S]
    rows: str  # [-1, H*D]


def shapes(g: GraphBuilder, start: str, spec: LanguageModelSpec, *, flat: bool = True) -> Shapes:
    """Build the shape vectors from token ids [B, S], or, where not `flat`, from hidden rows [B, S, C]."""
    batch, count = g.dim(start, 0), g.dim(start, 1)
    batch_and_rows = g.op("Shape", start) if flat else g.op("Concat", batch, count, axis=0)
    kv, group, width = spec.kv_heads, spec.heads // spec.kv_heads, spec.head_dim

    def after(head: str, *rest: int, tail: str | None = None) -> str:
        return g.op("Concat", head, g.constant(list(rest)), *([] if tail is None else [tail]), axis=0)

    return Shapes(
        batch_and_rows=batch_and_rows,
        heads=after(batch_and_rows, spec.heads + 2 * kv, width),
        grouped=after(batch_and_rows, kv, group, width),
        flat_queries=after(batch, kv, -1, width),
        ungrouped=after(batch, kv, group, -1, width),
        flat_scores=after(batch, kv, -1, tail=count),
        group_scores=after(batch, kv, group, -1, tail=count),
        rows=g.constant([-1, spec.heads * width]),
    )


def tables(g: GraphBuilder, cos: str, sin: str, head_dim: int) -> Tables:
    """Unsqueeze [B, S, D] tables for broadcasting over heads, and fold rotate_half's minus into sin (exact)."""
    sign = np.repeat([-1.0, 1.0], head_dim // 2)
    axis = g.constant([2])
    signed = g.op("Mul", sin, g.constant(sign, np.float32))
    return Tables(g.op("Unsqueeze", cos, axis), g.op("Unsqueeze", signed, axis))


def rotate(g: GraphBuilder, x: str, table: Tables, head_dim: int, dtype: int) -> str:
    """x * cos + rotate_half(x) * sin over [B, S, heads, D], in float32.

    The tables are full width because entries d and d + D/2 of a point token may carry different angles.
    """
    x32 = g.cast(x, FLOAT, source=dtype)
    low, high = g.ops("Split", 2, x32, g.constant([head_dim // 2, head_dim // 2]), axis=-1)
    swapped = g.op("Concat", high, low, axis=-1)
    turned = g.op("Add", g.op("Mul", x32, table.cos), g.op("Mul", swapped, table.sin))
    return g.cast(turned, dtype, source=FLOAT)


def project(
    g: GraphBuilder, x: str, prefix: str, spec: LanguageModelSpec, shape: Shapes, table: Tables, dtype: int
) -> tuple[str, str, str]:
    """Queries [B, S, H, D] and keys [B, S, K, D], both rotated, and values [B, S, K, D] of normed rows [B*S, C]."""
    bias = f"{prefix}.qkv_proj.bias" if spec.qkv_bias else None
    qkv = g.op("Reshape", linear(g, x, f"{prefix}.qkv_proj.weight", bias), shape.heads)
    both, value = g.ops("Split", 2, qkv, g.constant([spec.heads + spec.kv_heads, spec.kv_heads]), axis=2)
    turned = rotate(g, both, table, spec.head_dim, dtype)
    query, key = g.ops("Split", 2, turned, g.constant([spec.heads, spec.kv_heads]), axis=2)
    return query, key, value


def grouped_queries(g: GraphBuilder, query: str, spec: LanguageModelSpec, shape: Shapes, dtype: int) -> str:
    """[B, S, H, D] -> scaled [B, K, G*S, D]: the query heads of one key head side by side, so keys are not repeated."""
    grouped = g.op("Transpose", g.op("Reshape", query, shape.grouped), perm=[0, 2, 3, 1, 4])
    scale = spec.head_dim**-0.5 if dtype == FLOAT else Q_SCALE
    flat = g.op("Reshape", grouped, shape.flat_queries)
    return g.op("Mul", flat, g.cast(g.constant(scale, np.float32), dtype, source=FLOAT))


def scores(g: GraphBuilder, queries: str, rows: str, spec: LanguageModelSpec, dtype: int) -> str:
    """Queries [B, K, X, D] against key rows [R, B, K, D]: [B, K, X, R] in float32."""
    product = g.op("MatMul", queries, g.op("Transpose", rows, perm=[1, 2, 3, 0]))
    if dtype == FLOAT:
        return product
    restore = spec.head_dim**-0.5 / Q_SCALE
    return g.op("Mul", g.cast(product, FLOAT, source=dtype), g.constant(restore, np.float32))


def weigh(g: GraphBuilder, probabilities: str, rows: str, dtype: int) -> str:
    """Probabilities [B, K, X, R] (float32) times value rows [R, B, K, D]: [B, K, X, D]."""
    values = g.op("Transpose", rows, perm=[1, 2, 0, 3])
    return g.op("MatMul", g.cast(probabilities, dtype, source=FLOAT), values)


def mask_out(g: GraphBuilder, valid: str, values: str) -> str:
    """Keep scores where valid; choosing instead of adding leaves no trace of what stood there."""
    return g.op("Where", valid, values, g.constant(LOWEST, np.float32))


def merge_heads(g: GraphBuilder, x: str, shape: Shapes) -> str:
    """[B, K, G*S, D] -> [B*S, H*D]."""
    split = g.op("Reshape", x, shape.ungrouped)
    return g.op("Reshape", g.op("Transpose", split, perm=[0, 3, 1, 2, 4]), shape.rows)


def to_rows(g: GraphBuilder, x: str, name: str) -> str:
    """[B, S, K, D] -> [S, B, K, D], the cache's own order, under the name of a graph output."""
    return g.op("Transpose", x, perm=[1, 0, 2, 3], name=name)
