"""The decode kernel, run on the CPU by an emulation of the GPU's threads, against its reference in float64."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.compare import assert_close
from tests.plugins.halves import from_bits, to_bits
from tests.plugins.small import CACHE, CAPACITY, LIMITS, LLAMA, QWEN, TUNINGS, Emulated, Small, compiled_for_cpu, follow

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is needed to run the kernel on the CPU")
MODELS = {"qwen": QWEN, "llama": LLAMA}
BUILDS = [("qwen", "one_tile"), ("llama", "idle_warps"), ("qwen", "gathered"), ("llama", "checked")]


@pytest.fixture(scope="module", params=BUILDS, ids="-".join)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    model, tuning = request.param
    return model, compiled_for_cpu(MODELS[model], TUNINGS[tuning], tmp_path_factory.mktemp("kernel"))


@pytest.mark.parametrize(
    ("length", "steps", "seed"), [(0, 1, 0), (63, 2, 1), (130, 1, 2), (CAPACITY - 1, 1, 3)], ids=lambda x: str(x)
)
def test_steps_equal_the_reference(built: tuple[str, Any], length: int, steps: int, seed: int) -> None:
    name, library = built
    small = Small.random(MODELS[name], seed)
    kernel, past = Emulated(library, small), small.past(length, seed)
    kernel.token[0], kernel.past_length[0], before = 17, length, past.copy()
    tokens, logits = kernel.run(past, steps, seed)
    wanted_past = before.copy()
    assert_close("logits", logits, follow(small, 17, length, wanted_past, tokens), LIMITS[name])
    assert tokens.tolist() == logits.argmax(1).tolist()
    assert (kernel.token[0], kernel.past_length[0]) == (tokens[-1], length + steps)
    bf16, written = small.sizes.bf16, slice(length, length + steps)
    assert_close("rows", from_bits(past[written], bf16), from_bits(wanted_past[written], bf16), CACHE[name])
    past[written] = before[written]
    assert np.array_equal(past, before), "other rows of the cache have changed"


def test_launches_go_on_where_the_last_one_ended_in_any_order_of_events(built: tuple[str, Any]) -> None:
    name, library = built
    small = Small.random(MODELS[name], 5)
    found = []
    for cut in ([2], [1, 1]):
        kernel, past = Emulated(library, small), small.past(70, 5)
        kernel.token[0], kernel.past_length[0] = 3, 70
        runs = [kernel.run(past, steps, seed) for seed, steps in enumerate(cut, start=len(cut))]
        found.append([np.concatenate(parts) for parts in zip(*runs, strict=True)] + [past])
    for one, other in zip(*found, strict=True):
        assert np.array_equal(one, other, equal_nan=one.dtype == np.float32)


def test_large_keys_stay_finite(built: tuple[str, Any]) -> None:
    """Products of queries and keys near 130 are beyond float16; their sums are float32."""
    name, library = built
    small = Small.random(MODELS[name], 6)
    for layer in range(small.sizes.layers):
        bits = small.bits[f"{layer}.qkv"]
        bits[:] = to_bits(40 * from_bits(bits, small.sizes.bf16), small.sizes.bf16)
    kernel, past = Emulated(library, small), small.past(40, 6)
    kernel.token[0], kernel.past_length[0] = 3, 40
    assert np.isfinite(kernel.run(past, 1)[1]).all()


def test_a_hidden_state_that_grows_a_hundredfold_in_a_layer(built: tuple[str, Any]) -> None:
    """What goes into products is scaled by the norm of the state before, since its own is not known yet."""
    name, library = built
    small = Small.random(MODELS[name], 10)
    bits = small.bits["0.down"]
    bits[:] = to_bits(300 * from_bits(bits, small.sizes.bf16), small.sizes.bf16)
    kernel, past = Emulated(library, small), small.past(40, 10)
    kernel.token[0], kernel.past_length[0], before = 3, 40, past.copy()
    tokens, logits = kernel.run(past, 1)
    assert_close("logits", logits, follow(small, 3, 40, before, tokens), LIMITS[name])


def test_as_large_models_are_run(tmp_path: Path) -> None:
    """More warps than there are columns for, and a ring that never comes around."""
    small = Small.random(QWEN, 7)
    kernel, past = Emulated(compiled_for_cpu(QWEN, TUNINGS["published"], tmp_path), small), small.past(64, 7)
    kernel.token[0], kernel.past_length[0], before = 17, 64, past.copy()
    tokens, logits = kernel.run(past, 1)
    assert_close("logits", logits, follow(small, 17, 64, before, tokens), LIMITS["qwen"])


@pytest.mark.parametrize("model", MODELS)
def test_as_a_function_it_writes_logits_and_the_new_row_alone(model: str, tmp_path: Path) -> None:
    """The prefix may end before the new row's place; and twice the same gives the same bits."""
    small = Small.random(MODELS[model], 8)
    kernel = Emulated(compiled_for_cpu(MODELS[model], TUNINGS["one_tile"], tmp_path, pure=True), small)
    for length, rows in ((0, 64), (64, 64), (63, 128)):
        past = small.past(length, 8)
        kernel.token[0], kernel.past_length[0], wanted = 17, length, past.copy()
        given = np.ascontiguousarray(past[:rows])
        before = given.copy()
        logits, row = kernel.run_pure(given, length)
        assert np.array_equal(given, before), "the cache is read only"
        assert (kernel.token[0], kernel.past_length[0]) == (17, length)
        assert_close("logits", logits, small.reference(17, length, wanted), LIMITS[model])
        bf16 = small.sizes.bf16
        assert_close("row", from_bits(row, bf16), from_bits(wanted[length], bf16), CACHE[model])
        again, same = kernel.run_pure(given, length + 1)
        assert np.array_equal(again, logits) and np.array_equal(same, row)


def test_as_a_function_it_takes_no_address_from_garbage(tmp_path: Path) -> None:
    """Positions and tokens far outside are moved to the border, since nothing behind it may be touched."""
    small = Small.random(QWEN, 9)
    kernel = Emulated(compiled_for_cpu(QWEN, TUNINGS["one_tile"], tmp_path, pure=True), small)
    past = small.past(CAPACITY, 9)[:64].copy()
    found = []
    for token, length in ((2**31 - 1, 2**31 - 1), (QWEN.vocabulary - 1, 64), (-(2**31), -(2**31)), (0, 0)):
        kernel.token[0], kernel.past_length[0] = token, length
        found.append(kernel.run_pure(past)[0])
        assert np.isfinite(found[-1]).all()
    assert not np.array_equal(found[0], found[2])
    assert np.array_equal(found[2], found[3])
