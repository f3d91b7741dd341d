"""The graph that TensorRT compiles once for prefill and decode computes what each of them computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from export.tensorrt_graphs import SHARED
from runtime.arrays import Array
from runtime.bundle import PAST, ROWS
from runtime.manifest import LanguageModelSpec
from tests.compare import EXACT, Tol, assert_close
from tests.exported import FAMILIES, Export, Exported
from tests.graphs.test_against_modules import decode_feeds, prefill_feeds, run_graph

SAME = Tol(1e-6, 1e-6, why="the same products in the same order")
SOFTMAX = Tol(1e-5, 1e-6, why="without masked keys of a past a softmax adds in another order; logits of 8")
PIECES = Tol(2e-5, 1e-5, why="products of other shapes add in another order; logits of 8")
DIRT = 1e30  # in rows that are not the cache's
ATTENTIONS = ["causal", "full"]
KINDS = ("key", "value")


def made(exported: Export, family: str, attention: str = "causal") -> Exported:
    return exported(family, "3D_RoPE", "3D_only", attention)


def dirt(case: Exported, rows: int, batch: int) -> Array:
    """A cache prefix [rows, batch, 2L*K, D] in which no row is valid."""
    spec = case.bundle.manifest.language_model
    return np.full((rows, batch, 2 * spec.layers * spec.kv_heads, spec.head_dim), DIRT, np.float32)


def stacked(tensors: Mapping[str, Array], spec: LanguageModelSpec, prefix: str = "") -> Array:
    """The cache tensors of all layers [X, B, K, D] as one [X, B, 2L*K, D]: keys first, then values."""
    return np.concatenate([tensors[f"{prefix}{kind}.{n}"] for kind in KINDS for n in range(spec.layers)], axis=2)


def as_shared(case: Exported, decode: Mapping[str, Array]) -> dict[str, Array]:
    """Inputs of the decode graph as the shared graph takes them: no points, one table twice."""
    spec, (batch, new) = case.bundle.manifest.language_model, decode["input_ids"].shape
    return {
        "input_ids": decode["input_ids"],
        "point_embeds": np.zeros((batch, new, spec.hidden_size), np.float32),
        "point_mask": np.zeros((batch, new), bool),
        **{f"{name}_{kind}": decode[name] for name in ("cos", "sin") for kind in ("1d", "3d")},
        "lengths": np.full(batch, new, np.int32),
        "past_length": decode["past_length"],
        PAST: stacked(decode, spec, "past_"),
    }


def without_past(case: Exported, feeds: Mapping[str, Array], rows: int) -> dict[str, Array]:
    batch = len(feeds["lengths"])
    return {**feeds, "past_length": np.zeros(batch, np.int32), PAST: dirt(case, rows, batch)}


@pytest.mark.parametrize("rows", [1, 6])
@pytest.mark.parametrize("lengths", [[40], [40, 17, 33]], ids=["batch1", "batch3"])
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_as_prefill(exported: Export, family: str, attention: str, lengths: list[int], rows: int) -> None:
    case = made(exported, family, attention)
    feeds = prefill_feeds(case, lengths, seed=11)
    want, got = run_graph(case, "prefill", feeds), run_graph(case, SHARED, without_past(case, feeds, rows))
    assert sorted(got) == ["logits", ROWS]
    assert_close("logits", got["logits"], want["logits"], SOFTMAX)
    wanted = stacked(want, case.bundle.manifest.language_model)
    assert got[ROWS].shape == wanted.shape
    for sequence, length in enumerate(lengths):  # rows of the padding mean nothing
        assert_close(f"rows of {sequence}", got[ROWS][:length, sequence], wanted[:length, sequence], SOFTMAX)


@pytest.mark.parametrize("past_lengths", [[37], [37, 5]], ids=["batch1", "batch2"])
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_as_decode(exported: Export, family: str, attention: str, past_lengths: list[int]) -> None:
    """A single token sees itself and the past, whatever a prompt sees."""
    case = made(exported, family, attention)
    feeds = decode_feeds(case, past_lengths, rows=64, new=1, poison=DIRT, seed=12)
    want, got = run_graph(case, "decode", feeds), run_graph(case, SHARED, as_shared(case, feeds))
    assert_close("logits", got["logits"], want["logits"][:, 0], SAME)
    assert_close(ROWS, got[ROWS], stacked(want, case.bundle.manifest.language_model), SAME)


@pytest.mark.parametrize("family", FAMILIES)
def test_several_tokens_as_decode(exported: Export, family: str) -> None:
    """Of T tokens the logits are those after the last one."""
    case = made(exported, family)
    feeds = decode_feeds(case, [37, 5], rows=64, new=5, poison=DIRT, seed=13)
    want, got = run_graph(case, "decode", feeds), run_graph(case, SHARED, as_shared(case, feeds))
    assert_close("logits", got["logits"], want["logits"][:, -1], SAME)
    assert_close(ROWS, got[ROWS], stacked(want, case.bundle.manifest.language_model), SAME)


def piece(feeds: Mapping[str, Array], starts: Sequence[int], count: int) -> dict[str, Array]:
    """`count` positions of each prompt, from its own start on."""
    columns = np.asarray(starts)[:, None] + np.arange(count)  # [B, count]
    cut = {name: array[np.arange(len(starts))[:, None], columns] for name, array in feeds.items() if name != "lengths"}
    return cut | {"lengths": np.full(len(starts), count, np.int32)}


@pytest.mark.parametrize("lengths", [[40], [40, 17]], ids=["batch1", "batch2"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_in_two_pieces(exported: Export, family: str, lengths: list[int]) -> None:
    """All but the last five positions, then these, point tokens among them, over the rows of the others."""
    case = made(exported, family)
    feeds = prefill_feeds(case, lengths, seed=14)
    whole = run_graph(case, SHARED, without_past(case, feeds, 1))
    starts = [length - 5 for length in lengths]
    head = piece(feeds, [0] * len(lengths), max(starts)) | {"lengths": np.array(starts, np.int32)}
    rows = run_graph(case, SHARED, without_past(case, head, 1))[ROWS]
    rows[np.arange(len(rows))[:, None] >= np.array(starts)] = DIRT  # padding, [M, B]
    tail = piece(feeds, starts, 5)
    assert tail["point_mask"].any() and not tail["point_mask"].all()
    past = {"past_length": np.array(starts, np.int32), PAST: np.concatenate([rows, dirt(case, 3, len(lengths))])}
    got = run_graph(case, SHARED, tail | past)
    assert_close("logits", got["logits"], whole["logits"], PIECES)
    for sequence, length in enumerate(lengths):
        assert_close("rows", got[ROWS][:, sequence], whole[ROWS][length - 5 : length, sequence], PIECES)


def test_rows_that_are_not_the_caches_change_nothing(exported: Export) -> None:
    case = made(exported, "qwen")
    for poison in (0.0, -DIRT):
        feeds = decode_feeds(case, [37, 5, 60], 64, 1, poison, seed=15)
        got = run_graph(case, SHARED, as_shared(case, feeds))
        dirty = decode_feeds(case, [37, 5, 60], 64, 1, DIRT, seed=15)
        for name, want in run_graph(case, SHARED, as_shared(case, dirty)).items():
            assert_close(name, got[name], want, EXACT)
