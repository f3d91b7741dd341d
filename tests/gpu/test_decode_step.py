"""The decode kernel on a GPU, compiled by NVRTC, against its reference in float64."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

from plugins.decode_step.arguments import LAYER_FIELDS, StepArguments, buffer_bytes
from plugins.decode_step.sizes import Sizes, Tuning, source
from tests.compare import assert_close
from tests.plugins.halves import from_bits
from tests.plugins.small import CACHE, CAPACITY, LIMITS, LLAMA, QWEN, TUNINGS, Array, Small, follow

pytestmark = pytest.mark.gpu
MODELS = {"qwen": QWEN, "llama": LLAMA}
BLOCKS = 40


class OnGpu:
    """The kernel over one model; state goes on from launch to launch."""

    def __init__(self, memory: Any, model: Small, tuning: Tuning) -> None:
        from runtime.engines.cuda.memory import on_device

        self._memory, self._model, self._address = memory, model, lambda tensor: on_device(tensor).address
        self._launch = compiled(model.sizes, tuning)
        self._weights = {name: memory.upload(bits) for name, bits in model.bits.items()}
        rows = [[self._weight(f"{i}.{name}") for name in LAYER_FIELDS] for i in range(model.sizes.layers)]
        sizes = {**buffer_bytes(model.sizes, BLOCKS), "turns": 8, "token": 4, "past_length": 4}
        self._state = {name: memory.zeros((size,), "uint8") for name, size in sizes.items()}
        tables = dict(zip(("cos_table", "sin_table"), map(memory.upload, model.tables()), strict=True))
        self._constant = {"layers": memory.upload(np.array(rows, np.int64)), **tables}

    def _weight(self, name: str) -> int:
        return self._address(self._weights[name]) if name in self._weights else 0

    def start(self, token: int, length: int) -> None:
        for name, value in (("token", token), ("past_length", length)):
            self._state[name] = self._memory.upload(np.array([value], np.int32).view(np.uint8))

    def state(self) -> tuple[int, ...]:
        found = (self._memory.download(self._state[name]).view(np.int32) for name in ("token", "past_length"))
        return tuple(int(values[0]) for values in found)

    def run(self, past: Array, steps: int) -> tuple[Array, Array]:
        """Tokens [steps] and logits [steps, V]; `past` becomes what the cache is afterwards."""
        memory, vocabulary = self._memory, self._model.sizes.vocabulary
        given = {"past": memory.upload(past.view(np.int16)), "tokens": memory.zeros((steps,), "int32")}
        given["logits"] = memory.upload(np.full((steps, vocabulary), np.nan, np.float32))
        tensors = {**self._state, **self._constant, **given}
        arguments = StepArguments(
            **{name: self._address(tensor) for name, tensor in tensors.items()},
            embedding=self._weight("embedding"),
            final_norm=self._weight("final_norm"),
            head=self._weight("embedding"),
            steps=steps,
        )
        self._launch(BLOCKS, memory.stream, arguments)
        past[:] = memory.download(given["past"]).view(np.uint16)
        return memory.download(given["tokens"]), memory.download(given["logits"])


def compiled(sizes: Sizes, tuning: Tuning) -> Any:
    """The kernel, ready to be launched on the current device."""
    from benchmarks.gpu.device import Module
    from runtime.engines.cuda.kernels import compile_cubin

    text, wait = source(sizes, tuning), "LONGEST_WAIT = 2000000000ull"
    assert wait in text
    if longer := os.environ.get("SPATIALLM_LONGEST_WAIT"):  # nanoseconds; of tools under which the kernel is slow
        text = text.replace(wait, f"LONGEST_WAIT = {int(longer)}ull")
    module = Module(compile_cubin(text.encode(), "decode_step.cu", "sm_90"))
    shared = module.integer("memory_bytes")
    return module.kernel("decode_step", tuning.threads, shared, cooperative=True)


@pytest.fixture
def needs_bulk_copies(gpu: Any) -> None:
    if gpu.compute_capability != "9.0":
        pytest.skip(
            f"the decode kernel is compiled for compute capability 9.0, and this GPU has {gpu.compute_capability}"
        )


@pytest.mark.parametrize("length", [0, 1, 62, 63, 64, 130, CAPACITY - 3, CAPACITY - 1])
@pytest.mark.parametrize("tuning", TUNINGS)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.usefixtures("needs_bulk_copies")
def test_steps_equal_the_reference(memory: Any, name: str, tuning: str, length: int) -> None:
    """At both borders of the cache and of a tile; what lies behind the prefix is NaN."""
    steps = min(3, CAPACITY - length)
    small = Small.random(MODELS[name], length)
    kernel, past = OnGpu(memory, small, TUNINGS[tuning]), small.past(length, length)
    before = past.copy()
    kernel.start(17, length)
    tokens, logits = kernel.run(past, steps)
    wanted = before.copy()
    assert_close("logits", logits, follow(small, 17, length, wanted, tokens), LIMITS[name])
    assert tokens.tolist() == logits.argmax(1).tolist()
    assert kernel.state() == (tokens[-1], length + steps)
    written, bf16 = slice(length, length + steps), small.sizes.bf16
    assert_close("rows", from_bits(past[written], bf16), from_bits(wanted[written], bf16), CACHE[name])
    past[written] = before[written]
    assert np.array_equal(past, before), "other rows of the cache have changed"


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.usefixtures("needs_bulk_copies")
def test_many_runs_are_equal_to_the_bit(memory: Any, name: str) -> None:
    small = Small.random(MODELS[name], 5)
    found: list[Array] = []
    for cut in [[24], *([[8, 1, 15]] * 10)]:
        kernel, past = OnGpu(memory, small, TUNINGS["published"]), small.past(70, 5)
        kernel.start(3, 70)
        runs = [kernel.run(past, steps) for steps in cut]
        found.append(np.concatenate([logits for _, logits in runs]))
        assert np.array_equal(found[0], found[-1])
