"""Engines on a GPU against what the same bundle's graphs gave under ONNX Runtime on the CPU."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.arrays import Array
from runtime.pipeline import Pipeline
from tests.compare import EXACT, Tol, assert_close
from tests.gpu.cases import Case, cache_rows, decode_steps, feeds, greedy, part, smallest_cosine, start

pytestmark = pytest.mark.gpu

FLOAT32 = Tol(1e-4, 1e-4, why="float32 without TF32, sums in another order")
COSINE = 0.9999  # of half precision
TOKENS = 256


def assert_near(case: Case, name: str, got: Array, want: Array) -> None:
    """In float32 value by value, in half precision by direction."""
    if case.exact:
        assert_close(name, got, want, FLOAT32)
    else:
        assert np.isfinite(got).all(), name
        assert smallest_cosine(got, want) > COSINE, name


def test_the_encoder(pipeline: Pipeline, case: Case, recorded: dict[str, Array]) -> None:
    engine = pipeline.engines.encoder
    with pipeline.engines.backend.exclusive():
        got = engine.run(feeds(pipeline, engine, recorded))
        tokens = pipeline.engines.backend.download(got["point_tokens"])
    assert_near(case, "point_tokens", tokens, recorded["encoder.point_tokens"])


def test_prefill(pipeline: Pipeline, case: Case, recorded: dict[str, Array]) -> None:
    """Logits, and the cache rows of every layer."""
    engine, backend = pipeline.engines.prefill, pipeline.engines.backend
    layers = case.manifest.language_model.layers
    with backend.exclusive():
        got = {name: backend.download(tensor) for name, tensor in engine.run(feeds(pipeline, engine, recorded)).items()}
    assert_near(case, "logits", got["logits"], recorded["prefill.logits"])
    assert_near(case, "rows", cache_rows(got, layers), cache_rows(part(recorded, "prefill."), layers))


def test_decode_along_recorded_tokens(pipeline: Pipeline, case: Case, recorded: dict[str, Array]) -> None:
    steps = decode_steps(recorded)
    assert steps > 0
    with pipeline.engines.backend.exclusive():
        decoder, _, cache = start(pipeline, recorded)
        for step in range(steps):
            logits = decoder.step(recorded[f"decode.{step}.input_ids"], cache)
            assert_near(case, f"logits of step {step}", logits, recorded[f"decode.{step}.logits"])


def test_greedy_tokens(pipeline: Pipeline, case: Case, recorded: dict[str, Array]) -> None:
    """In half precision a small margin may fall to either side; there the logits above are the measure."""
    tokens = recorded["tokens"].tolist()
    got = greedy(pipeline, recorded, len(tokens), stays=True)
    if case.exact:
        assert got == tokens
    else:
        assert got[0] == tokens[0]


def test_with_graphs_without_and_in_the_plain_loop(
    pipeline: Pipeline, recorded: dict[str, Array], backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = pipeline.engines.backend.steps
    limit = min(TOKENS, pipeline.manifest.cache.capacity - int(recorded["prefill.lengths"].max()))
    staying = greedy(pipeline, recorded, limit, stays=True, stops=False)
    assert len(staying) == limit
    assert greedy(pipeline, recorded, limit, stays=True, stops=False) == staying, "once more, from kept graphs"
    assert steps.graphs.refused is None  # type: ignore[union-attr]
    monkeypatch.setattr(steps, "_captures", False)
    assert greedy(pipeline, recorded, limit, stays=True, stops=False) == staying
    assert greedy(pipeline, recorded, limit, stays=False, stops=False) == staying
    monkeypatch.undo()
    again = greedy(pipeline, recorded, limit, stays=True, stops=False)
    assert again == staying, "kept graphs are good though their contexts ran with other addresses since"


def test_unused_rows_are_never_read(pipeline: Pipeline, recorded: dict[str, Array]) -> None:
    """Large finite values beyond every sequence's length change no bit of the logits."""
    backend, logits = pipeline.engines.backend, []
    ids = recorded["prefill.input_ids"][:, :1]
    for poison in (0.0, 1e4, -1e4):
        with backend.exclusive():
            decoder, _, cache = start(pipeline, recorded)
            for _ in range(3):
                slab = backend.download(cache.slab)
                for sequence, length in enumerate(cache.lengths):
                    slab[:, length:, sequence] = poison
                backend.write(slab, cache.slab)
                logits.append(decoder.step(ids, cache))
    for step in range(3):
        for poisoned in (logits[3 + step], logits[6 + step]):
            assert_close(f"logits of step {step}", poisoned, logits[step], EXACT)
