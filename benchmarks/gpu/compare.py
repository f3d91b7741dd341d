"""Logits, cache rows and tokens of two implementations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.gpu.report import digits
from runtime.arrays import Array
from runtime.bundle import ROWS


def cosines(got: Array, want: Array) -> Array:
    """Cosine of each row, over the last axis, in float64."""
    got, want = got.astype(np.float64), want.astype(np.float64)
    lengths = np.linalg.norm(got, axis=-1) * np.linalg.norm(want, axis=-1)
    both: Array = (got * want).sum(-1) / np.maximum(lengths, 1e-300)
    return both


def closeness(got: Array, want: Array) -> dict[str, Any]:
    """How near rows of logits or of point tokens are: [N, V] each. A value that is not finite makes cosines NaN."""
    cosine, error = cosines(got, want), np.abs(got.astype(np.float64) - want.astype(np.float64))
    return {
        "cosine_min": digits(cosine.min()),
        "cosine_mean": digits(cosine.mean()),
        "max_abs": digits(error.max()),
        "mean_abs": digits(error.mean()),
        "largest_wanted": digits(np.abs(want).max()),
    }


def layer_rows(outputs: Mapping[str, Array], layers: int, kv_heads: int) -> Array:
    """Cache rows of either dialect as float32 [2L, S, K, D], keys of all layers first. Batch of one."""
    if ROWS in outputs:
        rows = outputs[ROWS][:, 0]  # [S, 2L*K, D]
        split = rows.reshape(len(rows), 2 * layers, kv_heads, -1)
        return np.ascontiguousarray(split.transpose(1, 0, 2, 3), np.float32)
    names = [f"{kind}.{layer}" for kind in ("key", "value") for layer in range(layers)]
    return np.stack([outputs[name][:, 0] for name in names]).astype(np.float32)


def layers_closeness(got: Array, want: Array) -> dict[str, list[float]]:
    """Cache rows [2L, S, K, D] layer by layer: the cosine of all of a layer's rows, and the largest error."""
    half = len(want) // 2
    cosine = cosines(got.reshape(len(got), -1), want.reshape(len(want), -1))
    error = np.abs(got - want).reshape(len(want), -1).max(-1)
    return {
        "key_cosine": [digits(value) for value in cosine[:half]],
        "value_cosine": [digits(value) for value in cosine[half:]],
        "key_max_abs": [digits(value) for value in error[:half]],
        "value_max_abs": [digits(value) for value in error[half:]],
    }


def margins(logits: Array) -> Array:
    """Largest less second largest logit of each row [N, V]."""
    best = np.partition(logits, -2, axis=-1)
    gap: Array = best[..., -1] - best[..., -2]
    return gap


def tokens_in_step(got: Array, want: Array, margin: Array, error: float) -> dict[str, Any]:
    """Choices made from the same text, [N] each: a choice is decided where the margin exceeds twice the error."""
    equal, decided = got == want, margin > 2 * error
    return {
        "of": len(want),
        "equal": int(equal.sum()),
        "decided": int(decided.sum()),
        "decided_and_equal": int((equal & decided).sum()),
        "largest_margin_of_a_difference": digits(margin[~equal].max()) if (~equal).any() else None,
        "passed": bool(equal[decided].all()),
    }


def tokens_running_free(got: Array, want: Array, margin: Array, error: float) -> dict[str, Any]:
    """Texts that each model continued from its own tokens: they may part only where the choice was a coin toss."""
    count = min(len(got), len(want))
    different = np.flatnonzero(got[:count] != want[:count])
    first = int(different[0]) if len(different) else None
    at = None if first is None else digits(margin[first])
    whole = len(got) == len(want) and first is None
    facts = {"of": len(want), "equal_until": count if first is None else first, "margin_there": at}
    return {**facts, "passed": whole or (at is not None and at <= 2 * error)}
