"""The language model's operator on a GPU, called in the library of `make plugins`, against its definition in float64.

Needs PyTorch for CUDA, for memory and graphs, but no TensorRT.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks.gpu.operators import Operators
from plugins.decode_step.reference import Array
from plugins.library import VARIABLE, library_path
from tests.gpu.rows import Asked, OnGpu, prompt, steps, wanted
from tests.plugins.halves import from_bits
from tests.plugins.small import LLAMA, QWEN, Small

pytestmark = pytest.mark.gpu
MODELS = {"qwen": QWEN, "llama": LLAMA, "llama_fp16": replace(LLAMA, bf16=False)}
# Of the length of a row of logits, or of a head's row of the cache: rounding of some ten steps, 2^-11 or 2^-8 each.
LIMITS = {False: 5e-3, True: 4e-2}
SEEDS = range(2)


@pytest.fixture(scope="session")
def operators() -> Operators:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("PyTorch sees no GPU")
    if not library_path().is_file() and VARIABLE not in os.environ:
        pytest.skip(f"{library_path()} is not built: make plugins")
    return Operators(library_path())  # one that is named but missing, or lacks the functions, is a failure


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Another for each case, the same from run to run."""
    return np.random.default_rng(zlib.crc32(request.node.name.encode()))


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest, operators: Operators, rng: np.random.Generator) -> Iterator[Any]:
    small = Small.random(MODELS[request.param], int(rng.integers(1 << 30)))
    yield small, OnGpu(operators, small)


def assert_as_defined(small: Small, asked: Asked, logits: Array, rows: Array) -> None:
    """Where rows are valid."""
    wanted_logits, wanted_rows = wanted(small, asked)
    limit, kept = LIMITS[small.sizes.bf16], asked.valid
    assert_near("logits", *((x[kept] if asked.all_logits else x) for x in (logits, wanted_logits)), limit)
    assert_near("new rows", *(x[kept.T] for x in (from_bits(rows, small.sizes.bf16), wanted_rows)), limit)


def assert_near(name: str, got: Array, want: Array, limit: float) -> None:
    """Along the last axis."""
    assert np.isfinite(got).all(), f"{name}: {(~np.isfinite(got)).sum()} of {got.size} values are not finite"
    errors = np.linalg.norm(got - want, axis=-1) / np.linalg.norm(want, axis=-1)
    worst = tuple(map(int, np.unravel_index(errors.argmax(), errors.shape)))
    assert errors.max() <= limit, f"{name}: off by {errors.max():.3g} of its length at {worst}, {limit:g} is allowed"


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "full"])
@pytest.mark.parametrize("rows", [1, 17, 64, 65, 200], ids="s{}".format)
@pytest.mark.parametrize("batch", [1, 3], ids="b{}".format)
def test_prefill(model: Any, rng: np.random.Generator, batch: int, rows: int, causal: bool) -> None:
    small, on_gpu = model
    asked = prompt(small, rng, batch, rows, causal=causal)
    assert_as_defined(small, asked, *on_gpu.run(asked))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("rows", [1, 3, 16], ids="t{}".format)
@pytest.mark.parametrize("batch", [1, 4, 8], ids="b{}".format)
def test_decode(model: Any, rng: np.random.Generator, batch: int, rows: int, seed: int) -> None:
    """Over prefixes of all lengths from none to whole."""
    small, on_gpu = model
    asked = steps(small, rng, batch, rows)
    assert_as_defined(small, asked, *on_gpu.run(asked))


@pytest.mark.parametrize("seed", SEEDS)
def test_tokens_alone_are_a_prompt(model: Any, rng: np.random.Generator, seed: int) -> None:
    """With neither point tokens, nor lengths, nor a past."""
    small, on_gpu = model
    asked = replace(prompt(small, rng, 2, 33, causal=True), point_embeds=None, point_mask=None, lengths=None)
    asked = replace(asked, tables={name: asked.tables[name] for name in ("cos_1d", "sin_1d")})
    assert_as_defined(small, asked, *on_gpu.run(asked))


@pytest.mark.parametrize("rows", [1, 70])
def test_what_is_behind_the_lengths_changes_no_bit(model: Any, rng: np.random.Generator, rows: int) -> None:
    """Ids, tables and embeddings of padding, rows of the past that are not valid, and what the workspace held."""
    small, on_gpu = model
    asked = steps(small, rng, 3, rows)
    asked = replace(asked, lengths=rng.integers(1, rows + 1, 3).astype(np.int32))
    first = on_gpu.run(asked)
    behind = ~asked.valid
    ids = np.where(behind, rng.integers(0, small.sizes.vocabulary, behind.shape), asked.ids).astype(np.int32)
    tables = {name: np.where(behind[..., None], np.float32(3), table) for name, table in asked.tables.items()}
    unused = np.arange(asked.past_rows)[:, None] >= asked.past_length
    past = np.where(unused[..., None, None], np.uint16(0x3C00), asked.past)
    second = on_gpu.run(replace(asked, ids=ids, tables=tables, past=past), fill=0)
    assert np.array_equal(first[0][asked.valid], second[0][asked.valid])
    assert np.array_equal(first[1][asked.valid.T], second[1][asked.valid.T])


@pytest.mark.parametrize("kind", ["prefill", "decode"])
def test_runs_are_equal_to_the_bit_also_captured_in_a_graph(model: Any, rng: np.random.Generator, kind: str) -> None:
    import torch

    small, on_gpu = model
    asked = prompt(small, rng, 3, 65, causal=True) if kind == "prefill" else steps(small, rng, 4, 3)
    call = on_gpu.call(asked)
    call.launch()
    first = [result.copy() for result in call.results()]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call.launch()
    for again in (call.launch, graph.replay, graph.replay):
        call.clear()
        again()
        logits, rows = call.results()
        kept = asked.valid if asked.all_logits else slice(None)
        assert np.array_equal(first[0][kept], logits[kept])
        assert np.array_equal(first[1][asked.valid.T], rows[asked.valid.T])


@pytest.mark.parametrize("kind", ["prefill", "decode"])
def test_no_address_comes_from_garbage(model: Any, rng: np.random.Generator, kind: str) -> None:
    """Ids and lengths far outside: nothing beside the outputs is written, and what follows still runs."""
    small, on_gpu = model
    asked = prompt(small, rng, 2, 20, causal=True) if kind == "prefill" else steps(small, rng, 2, 3)
    low, high = -(2**31), 2**31 - 1
    for value in (low, high):
        wrong = {"ids": np.full_like(asked.ids, value)}
        wrong |= {
            name: np.full(2, value, np.int32) for name in ("lengths", "past_length") if getattr(asked, name) is not None
        }
        on_gpu.run(replace(asked, **wrong))  # type: ignore[arg-type]
    assert_as_defined(small, asked, *on_gpu.run(asked))


def test_a_model_that_does_not_fit_is_a_sentence(operators: Operators, rng: np.random.Generator) -> None:
    """Before anything is launched."""
    small = Small.random(replace(QWEN, heads=5, kv_heads=3), 1)  # heads that no key heads can share
    with pytest.raises(RuntimeError, match=r"\w+ \w+"):
        OnGpu(operators, small).run(prompt(small, rng, 1, 4, causal=True))
