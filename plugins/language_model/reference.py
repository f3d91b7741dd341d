"""The definition of the language model's operator: T new rows of B sequences, in the precision of the arrays given."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from plugins.decode_step.reference import Array, Heads, Weights, rms_norm, rotate


def language_model(
    weights: Weights,
    heads: Heads,
    epsilon: float,
    ids: Array,
    cos: Array,
    sin: Array,
    *,
    point_embeds: Array | None = None,
    point_mask: Array | None = None,
    lengths: Array | None = None,
    past: Array | None = None,
    past_length: Array | None = None,
    causal: bool = True,
    all_logits: bool = False,
    stored: Callable[[Array], Array] = np.asarray,
) -> tuple[Array, Array]:
    """Feed tokens `ids` [B, T]: logits [B, V] after the last valid row of each sequence, and the new cache rows.

    The rows are [T, B, 2L*K, D]; with `all_logits` the logits are [B, T, V]. Where `point_mask` [B, T] is set, a row
    begins with that of `point_embeds` [B, T, C]. `cos`, `sin` [B, T, D] are each row's angles, already chosen by the
    mask. `lengths` [B] are valid new rows, which come first (none: all); `past_length` [B] are valid rows of `past`
    [M, B, 2L*K, D] (none: all), which come before the new ones. `causal`: a row sees no new row behind it; else every
    row sees all valid ones. What comes out for rows at and beyond `lengths` is finite and means nothing. `stored`
    rounds new cache rows to the cache's type; attention sees what was stored.
    """
    x = weights.embedding[ids]
    if point_embeds is not None and point_mask is not None:
        x = np.where(point_mask[..., None], point_embeds, x)
    batch, count = ids.shape
    if past is None:
        past = np.zeros((0, batch, 2 * len(weights.layers) * heads.key, heads.size), x.dtype)
    lengths = np.full(batch, count) if lengths is None else lengths
    past_length = np.full(batch, len(past)) if past_length is None else past_length
    valid = visible(lengths, count, past_length, len(past), causal)
    keys, values = [], []
    for index, layer in enumerate(weights.layers):
        qkv = rms_norm(x, layer.input_norm, epsilon) @ layer.qkv.T
        qkv = (qkv if layer.qkv_bias is None else qkv + layer.qkv_bias).reshape(batch, count, -1, heads.size)
        turned = rotate(qkv[:, :, : heads.query + heads.key], cos[:, :, None], sin[:, :, None])
        keys.append(stored(turned[:, :, heads.query :].swapaxes(0, 1)))  # [T, B, K, D]
        values.append(stored(qkv[:, :, heads.query + heads.key :].swapaxes(0, 1)))
        key, value = (slice(n * heads.key, (n + 1) * heads.key) for n in (index, len(weights.layers) + index))
        seen = (np.concatenate([past[:, :, key], keys[-1]]), np.concatenate([past[:, :, value], values[-1]]))
        mixed = attend(turned[:, :, : heads.query], *seen, valid)
        x = x + mixed.reshape(batch, count, -1) @ layer.o.T
        gate, up = np.split(rms_norm(x, layer.post_norm, epsilon) @ layer.gate_up.T, 2, axis=-1)
        x = x + (gate / (1 + np.exp(-gate)) * up) @ layer.down.T
    if not all_logits:
        x = x[np.arange(batch), np.clip(lengths, 1, count) - 1]
    return rms_norm(x, weights.final_norm, epsilon) @ weights.head.T, np.concatenate([*keys, *values], axis=2)


def visible(lengths: Array, count: int, past_length: Array, past_rows: int, causal: bool) -> Array:
    """Which rows, M of the past and T new ones, each new row sees: [B, T, M + T]."""
    places = np.arange(count)
    new = places <= places[:, None] if causal else places < lengths[:, None, None]
    past = np.arange(past_rows) < past_length[:, None, None]
    whole = (len(lengths), count)
    return np.concatenate([np.broadcast_to(past, (*whole, past_rows)), np.broadcast_to(new, (*whole, count))], axis=-1)


def attend(queries: Array, keys: Array, values: Array, valid: Array) -> Array:
    """Queries [B, T, H, D] over rows [R, B, K, D] where `valid` [B, T, R]: [B, T, H, D].

    Rows that are not valid may hold anything, also what is not finite. A query that sees none mixes nothing: zeros.
    """
    held = valid.any(axis=1).T[:, :, None, None]  # [R, B, 1, 1]; zero times what is not finite is not zero
    keys, values = np.where(held, keys, 0), np.where(held, values, 0)
    grouped = queries.reshape(*queries.shape[:2], keys.shape[2], -1, queries.shape[-1])  # [B, T, K, G, D]
    scores = np.einsum("btkgd,rbkd->bkgtr", grouped, keys) / np.sqrt(queries.shape[-1])
    seen = valid[:, None, None]
    peaks = np.max(scores, axis=-1, keepdims=True, where=seen, initial=np.finfo(scores.dtype).min)
    chances = np.where(seen, np.exp(np.where(seen, scores - peaks, 0)), 0)
    chances = chances / np.maximum(chances.sum(-1, keepdims=True), np.finfo(scores.dtype).tiny)
    mixed: Array = np.einsum("bkgtr,rbkd->btkgd", chances, values).reshape(queries.shape)
    return mixed
