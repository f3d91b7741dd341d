"""The definition of several rows of several sequences, against that of one and against the module of prefill."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from export.modules import LanguageModel, Prefill
from plugins.decode_step.reference import Heads, Weights, decode_step
from plugins.language_model.reference import language_model
from tests.compare import Tol, assert_close
from tests.modules.tiny import TinyCheckpoint, tiny_checkpoint_of, tiny_config
from tests.plugins.halves import Array
from tests.plugins.test_reference import weights_of

SAME = Tol(1e-9, why="float64 in another order")
CLOSE = Tol(2e-4, why="float64 against float32")
BATCH, ROWS, PAST = 3, 5, 11
FAMILIES = ["qwen", "llama"]


def made(family: str) -> tuple[TinyCheckpoint, Weights, Heads, float]:
    checkpoint = tiny_checkpoint_of(tiny_config(family, tied=family == "qwen"), seed=4)
    spec = checkpoint.config.language_model
    return (
        checkpoint,
        weights_of(checkpoint),
        Heads(query=spec.heads, key=spec.kv_heads, size=spec.head_dim),
        spec.rms_norm_eps,
    )


def drawn(weights: Weights, heads: Heads, seed: int) -> tuple[Array, Array, Array, Array]:
    """Tokens, angles that are no rotation of two halves by one angle, and a full cache prefix."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, len(weights.embedding), (BATCH, ROWS))
    cos, sin = rng.uniform(-1, 1, (2, BATCH, ROWS, heads.size))
    past = rng.normal(0, 1, (PAST, BATCH, 2 * len(weights.layers) * heads.key, heads.size))
    return ids, cos, sin, past


def rounded(rows: Array) -> Array:
    return rows.astype(np.float16).astype(np.float64)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_over_a_prefix_equal_steps_one_by_one(family: str) -> None:
    _, weights, heads, epsilon = made(family)
    ids, cos, sin, past = drawn(weights, heads, 0)
    past_length = np.array([0, 4, PAST])
    for sequence, length in enumerate(past_length):
        past[length:, sequence] = np.nan
    logits, rows = language_model(
        weights, heads, epsilon, ids, cos, sin,
        past=past, past_length=past_length, all_logits=True, stored=rounded,
    )  # fmt: skip
    for sequence, length in enumerate(past_length):
        cache = np.concatenate([past[:length, sequence], np.full((ROWS, *past.shape[2:]), np.nan)])
        for row in range(ROWS):
            angles = cos[sequence, row], sin[sequence, row]
            want = decode_step(
                weights, heads, epsilon, ids[sequence, row], length + row, cache, *angles, stored=rounded
            )
            assert_close("logits", logits[sequence, row], want, SAME)
        assert_close("rows", rows[:, sequence], cache[length:], SAME)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_equals_the_module(family: str, causal: bool) -> None:
    checkpoint, weights, heads, epsilon = made(family)
    ids, cos, sin, _ = drawn(weights, heads, 1)
    rng = np.random.default_rng(2)
    mask, lengths = rng.random((BATCH, ROWS)) < 0.5, np.array([ROWS, 3, 1])
    points, far = rng.normal(0, 1, (BATCH, ROWS, weights.embedding.shape[1])), rng.uniform(-1, 1, (2, *cos.shape))
    feeds = {"point_embeds": points, "cos_3d": far[0], "sin_3d": far[1], "cos_1d": cos, "sin_1d": sin}
    model = LanguageModel(checkpoint.config, checkpoint.float_tensor)
    with torch.no_grad():
        want = Prefill(model, "causal" if causal else "full")(
            input_ids=torch.from_numpy(ids),
            point_mask=torch.from_numpy(mask),
            lengths=torch.from_numpy(lengths),
            **{name: torch.from_numpy(array).float() for name, array in feeds.items()},
        )
    tables = [np.where(mask[..., None], far_table, table) for far_table, table in zip(far, (cos, sin), strict=True)]
    logits, rows = language_model(
        weights, heads, epsilon, ids, *tables,
        point_embeds=points, point_mask=mask, lengths=lengths, causal=causal,
    )  # fmt: skip
    assert_close("logits", logits, want["logits"], CLOSE)
    layers = range(len(weights.layers))
    whole = torch.cat([want[f"{kind}.{layer}"] for kind in ("key", "value") for layer in layers], 2)
    for sequence, length in enumerate(lengths):
        assert_close("rows", rows[:length, sequence], whole[:length, sequence], CLOSE)


@pytest.mark.parametrize("causal", [True, False])
def test_rows_that_are_not_valid_change_nothing_and_are_finite(causal: bool) -> None:
    _, weights, heads, epsilon = made("qwen")
    ids, cos, sin, past = drawn(weights, heads, 3)
    lengths, past_length = np.array([ROWS, 2, 0]), np.array([3, 0, 0])
    found = []
    for seed in (4, 5):
        others, far_cos, far_sin, garbage = drawn(weights, heads, seed)
        valid = np.arange(ROWS) < lengths[:, None]
        tables = [np.where(valid[..., None], *pair) for pair in ((cos, far_cos), (sin, far_sin))]
        held = (np.arange(PAST)[:, None] < past_length)[..., None, None]
        logits, rows = language_model(
            weights, heads, epsilon,
            np.where(valid, ids, others), *tables,
            lengths=lengths, past=np.where(held, past, garbage), past_length=past_length, causal=causal,
        )  # fmt: skip
        assert np.isfinite(logits).all() and np.isfinite(rows).all()
        found.append((logits, rows))
    (logits, rows), (same, same_rows) = found
    assert_close("logits", logits[:2], same[:2], SAME)
    for sequence, length in enumerate(lengths):
        assert_close("rows", rows[:length, sequence], same_rows[:length, sequence], SAME)


def test_the_last_rows_are_among_all() -> None:
    _, weights, heads, epsilon = made("llama")
    ids, cos, sin, past = drawn(weights, heads, 6)
    given = {"lengths": np.array([1, 3, ROWS]), "past": past}
    last, _ = language_model(weights, heads, epsilon, ids, cos, sin, **given)
    whole, _ = language_model(weights, heads, epsilon, ids, cos, sin, all_logits=True, **given)
    assert_close("logits", last, np.stack([whole[0, 0], whole[1, 2], whole[2, -1]]), SAME)
