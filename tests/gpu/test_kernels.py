"""The decode step's kernels against their definitions in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from runtime.arrays import Array
from runtime.engines import host_steps
from runtime.engines.contract import StepState

pytestmark = pytest.mark.gpu

ROWS = [  # stacks, rows, batch, capacity, heads, channels, dtype
    (1, 1, 1, 2048, 96, 64, "float16"),
    (1, 1, 8, 512, 256, 64, "float16"),
    (48, 1, 1, 64, 2, 64, "float32"),
    (1, 776, 1, 1024, 96, 64, "float16"),
    (4, 5, 3, 9, 1, 8, "float16"),
    (2, 3, 2, 7, 3, 4, "float32"),
]


@pytest.mark.parametrize(("stacks", "count", "batch", "capacity", "heads", "width", "dtype"), ROWS)
def test_rows_are_appended_as_defined(
    memory: Any, steps: Any, rng: np.random.Generator, stacks: int, count: int, batch: int, capacity: int, heads: int,
    width: int, dtype: str,
) -> None:  # fmt: skip
    """Bits are moved, whatever they mean: NaN rows too. At the border and for ended sequences nothing is written."""
    source = rng.normal(size=(stacks, count, batch, heads, width)).astype(dtype)
    source[:, :, 0] = np.nan
    before = rng.normal(size=(stacks, capacity, batch, heads, width)).astype(dtype)
    for starts in ([0, 3, -1], [capacity - count, capacity - 1, capacity], [capacity, -1, 1]):
        at = np.resize(np.array(starts, np.int32), batch)
        want = before.copy()
        host_steps.append_rows(source, want, at)
        target = memory.upload(before)
        steps.append_rows(memory.upload(source), target, memory.upload(at))
        np.testing.assert_array_equal(memory.download(target), want)


def logits_of(rng: np.random.Generator, kind: str, batch: int, vocabulary: int) -> Array:
    """Rows that tell a wrong choice from the right one."""
    if kind == "normal":
        return rng.normal(size=(batch, vocabulary)).astype(np.float32)
    rows = rng.integers(-4, 5, (batch, vocabulary)).astype(np.float32)  # ties all over
    places = rng.integers(0, vocabulary, (batch, 3))
    for row, place in zip(rows, places, strict=True):
        if kind == "nan":
            row[place] = np.nan
        elif kind == "infinite":
            row[place[0]] = np.inf
        elif kind == "none":
            row[:] = -np.inf
        elif kind == "zeros":
            row[:] = -0.0
            row[place] = 0.0
        elif kind == "ends":
            row[[0, -1]] = 9.0
    return rows


def uploaded(memory: Any, arrays: dict[str, Array]) -> StepState:
    return StepState(**{name: memory.upload(array) for name, array in arrays.items()})


def state_of(rng: np.random.Generator, batch: int, vocabulary: int, width: int, capacity: int) -> dict[str, Array]:
    lengths = rng.integers(0, capacity, batch).astype(np.int32)
    lengths[:2] = [capacity - 1, capacity][:batch]
    starts = np.where(rng.random(batch) < 0.3, -1, lengths).astype(np.int32)
    starts[lengths == capacity] = -1
    cos, sin = rng.normal(size=(2, capacity, width)).astype(np.float32)
    return {
        "input_ids": np.zeros((batch, 1), np.int32), "past_length": lengths, "starts": starts,
        "taken": np.full(batch, 5, np.int32), "cos": np.zeros((batch, 1, width), np.float32),
        "sin": np.zeros((batch, 1, width), np.float32), "cos_table": cos, "sin_table": sin,
        "stop_ids": rng.integers(0, vocabulary, 3).astype(np.int32),
        "logits": np.zeros((batch, 1, vocabulary), np.float32),
    }  # fmt: skip


def choose(twin: dict[str, Array], ring: Array) -> None:
    host_steps.next_tokens(
        twin["logits"][:, 0], twin["input_ids"][:, 0], twin["past_length"], twin["starts"], twin["taken"],
        (twin["cos"][:, 0], twin["sin"][:, 0]), (twin["cos_table"], twin["sin_table"]), twin["stop_ids"], ring,
    )  # fmt: skip


def assert_same(memory: Any, state: StepState, twin: dict[str, Array]) -> None:
    for name in ("input_ids", "past_length", "starts", "taken", "cos", "sin"):
        np.testing.assert_array_equal(memory.download(getattr(state, name)), twin[name], err_msg=name)


@pytest.mark.parametrize("kind", ["normal", "ties", "nan", "infinite", "none", "zeros", "ends"])
@pytest.mark.parametrize(
    ("batch", "vocabulary", "width"), [(1, 151936, 64), (8, 128262, 64), (3, 1000, 64), (2, 31, 8), (1, 1, 128)]
)
def test_tokens_are_chosen_as_defined(
    memory: Any, steps: Any, rng: np.random.Generator, batch: int, vocabulary: int, width: int, kind: str
) -> None:
    """Launch after launch on one state: the counters of finished blocks begin at zero again."""
    twin = state_of(rng, batch, vocabulary, width, capacity=40)
    state, ring, twin_ring = uploaded(memory, twin), steps.ring(4, batch), np.zeros((4, batch), np.int32)
    for step in range(6):
        twin["logits"][:, 0] = logits_of(rng, kind, batch, vocabulary)
        memory.write(twin["logits"], state.logits)
        steps.next_tokens(state, ring)
        choose(twin, twin_ring)
        ring.mark()()
        slot = (5 + step) % 4
        np.testing.assert_array_equal(ring.read(slot), twin_ring[slot])
        assert_same(memory, state, twin)


def test_two_hundred_replays_of_one_graph(memory: Any, steps: Any, rng: np.random.Generator) -> None:
    """The host looks at the end only; every position, token and table row is the definition's."""
    batch, vocabulary, count = 2, 50000, 200
    twin = state_of(rng, batch, vocabulary, 64, capacity=300)
    twin["past_length"][:], twin["starts"][:], twin["stop_ids"][:] = [7, 90], [7, 90], vocabulary - 1
    twin["logits"][:, 0] = rng.normal(size=(batch, vocabulary))
    twin["logits"][:, 0, vocabulary - 1] = -9.0
    state, ring, twin_ring = uploaded(memory, twin), steps.ring(256, batch), np.zeros((256, batch), np.int32)
    rows, slab = (rng.normal(size=(1, size, batch, 4, 8)).astype(np.float16) for size in (1, 300))
    tensors = memory.upload(rows), memory.upload(slab)

    def step() -> None:
        steps.append_rows(*tensors, state.starts)
        steps.next_tokens(state, ring)

    for _ in range(count):
        steps.replay([*tensors, state.logits, state.starts], step)
    ring.mark()()
    for _ in range(count):
        host_steps.append_rows(rows, slab, twin["starts"])
        choose(twin, twin_ring)
    assert steps.graphs.refused is None
    assert twin["past_length"].tolist() == [207, 290]
    np.testing.assert_array_equal(np.stack([ring.read(slot) for slot in range(5, 5 + count)]), twin_ring[5 : 5 + count])
    np.testing.assert_array_equal(memory.download(tensors[1]), slab)
    assert_same(memory, state, twin)
