"""The definition of the decode kernel: one step of one sequence, in the precision of the arrays it is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """Matrices [out, in], as in the checkpoint; q, k, v stacked, gate and up stacked."""

    input_norm: Array  # [C]
    qkv: Array  # [(H + 2K) * D, C]
    qkv_bias: Array | None  # [(H + 2K) * D]
    o: Array  # [C, H * D]
    post_norm: Array  # [C]
    gate_up: Array  # [2 * I, C]
    down: Array  # [C, I]


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    embedding: Array  # [V, C]
    layers: Sequence[Layer]
    final_norm: Array  # [C]
    head: Array  # [V, C]


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    query: int  # H
    key: int  # K
    size: int  # D


def decode_step(
    weights: Weights,
    heads: Heads,
    epsilon: float,
    token: int,
    position: int,
    past: Array,
    cos: Array,
    sin: Array,
    stored: Callable[[Array], Array] = np.asarray,
) -> Array:
    """Feed `token` at `position`: logits [V].

    Row `position` of `past` [M, 2L*K, D] is written, rows behind it are not read. Keys of all layers come first in
    a row, then values. `cos`, `sin` [D] are the position's angles; entries d and d + D/2 may differ. `stored` rounds
    what goes to the cache to the cache's type; attention sees what was stored.
    """
    x = weights.embedding[token]
    count = len(weights.layers)
    for index, layer in enumerate(weights.layers):
        qkv = layer.qkv @ rms_norm(x, layer.input_norm, epsilon)
        qkv = (qkv if layer.qkv_bias is None else qkv + layer.qkv_bias).reshape(-1, heads.size)
        turned = rotate(qkv[: heads.query + heads.key], cos, sin)
        key, value = (slice(n * heads.key, (n + 1) * heads.key) for n in (index, count + index))
        past[position, key] = stored(turned[heads.query :])
        past[position, value] = stored(qkv[heads.query + heads.key :])
        mixed = attend(turned[: heads.query], past[: position + 1, key], past[: position + 1, value])
        x = x + layer.o @ mixed.reshape(-1)
        gate, up = np.split(layer.gate_up @ rms_norm(x, layer.post_norm, epsilon), 2)
        x = x + layer.down @ (gate / (1 + np.exp(-gate)) * up)
    logits: Array = weights.head @ rms_norm(x, weights.final_norm, epsilon)
    return logits


def rms_norm(x: Array, gain: Array, epsilon: float) -> Array:
    """x [..., C] over the root of its mean square, times gain [C]."""
    normed: Array = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + epsilon) * gain
    return normed


def rotate(x: Array, cos: Array, sin: Array) -> Array:
    """x * cos + rotate_half(x) * sin over heads [..., D]."""
    low, high = np.split(x, 2, axis=-1)
    turned: Array = x * cos + np.concatenate([-high, low], axis=-1) * sin
    return turned


def attend(queries: Array, keys: Array, values: Array) -> Array:
    """Queries [H, D] over rows [R, K, D], each key head for H / K query heads: [H, D]."""
    grouped = queries.reshape(keys.shape[1], -1, queries.shape[-1])  # [K, G, D]
    scores = np.einsum("kgd,rkd->kgr", grouped, keys) / np.sqrt(queries.shape[-1])
    chances = np.exp(scores - scores.max(-1, keepdims=True))
    chances = chances / chances.sum(-1, keepdims=True)
    mixed: Array = np.einsum("kgr,rkd->kgd", chances, values).reshape(queries.shape)
    return mixed
