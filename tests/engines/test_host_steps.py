"""The decode step's own work by definition: against loops over Python's numbers."""

from __future__ import annotations

import numpy as np

from runtime.arrays import Array
from runtime.engines.contract import StepState
from runtime.engines.host import host_array
from runtime.engines.host_steps import HostSteps
from runtime.engines.ort import OrtBackend


def brute_tokens(rows: Array) -> list[int]:
    """Index of the first NaN, or of the first of the largest."""
    best = []
    for row in rows.tolist():
        place = 0
        for index, value in enumerate(row):
            if row[place] != row[place]:
                break
            if value != value or value > row[place]:
                place = index
        best.append(place)
    return best


def hard_logits(rng: np.random.Generator, batch: int, vocabulary: int) -> Array:
    """Ties, both zeros, NaNs, infinities, and ordinary rows."""
    rows = rng.integers(-3, 4, (batch, vocabulary)).astype(np.float32)
    for row in rows:
        match rng.integers(0, 7):
            case 0:
                row[:] = -np.inf
            case 1:
                row[rng.integers(0, vocabulary, 3)] = np.nan
            case 2:
                row[:] = -0.0
                row[rng.integers(0, vocabulary)] = 0.0
            case 3:
                row[rng.integers(0, vocabulary)] = np.inf
            case 4:
                row[:] = rng.normal(size=vocabulary)
    return rows


def test_the_choice_by_definition() -> None:
    """Against a loop over Python's numbers, many times over random states."""
    rng, capacity, width = np.random.default_rng(0), 12, 4
    cos, sin = rng.normal(size=(2, capacity, width)).astype(np.float32)
    seen = set()
    for _ in range(400):
        batch, vocabulary, slots = int(rng.integers(1, 5)), int(rng.integers(1, 40)), int(rng.integers(1, 5))
        logits = hard_logits(rng, batch, vocabulary)
        lengths = rng.integers(0, capacity + 1, batch).astype(np.int32)
        starts = np.where(rng.random(batch) < 0.3, -1, lengths).astype(np.int32)
        starts[lengths == capacity] = -1  # no live sequence stands beyond the last row
        taken = np.full(batch, rng.integers(0, 30), np.int32)
        stops = rng.integers(0, vocabulary, 2).astype(np.int32)
        memory = HostSteps()
        ring = memory.ring(slots, batch)
        ring.array[...] = 7777
        upload = OrtBackend().upload
        state = StepState(
            input_ids=upload(np.full((batch, 1), 5, np.int32)), past_length=upload(lengths.copy()),
            starts=upload(starts.copy()), taken=upload(taken.copy()), cos=upload(np.zeros((batch, 1, width), "f4")),
            sin=upload(np.zeros((batch, 1, width), "f4")), cos_table=upload(cos), sin_table=upload(sin),
            stop_ids=upload(stops), logits=upload(logits[:, None]),
        )  # fmt: skip
        memory.next_tokens(state, ring)
        after = {name: host_array(getattr(state, name)) for name in ("input_ids", "past_length", "starts", "taken")}
        for sequence, token in enumerate(brute_tokens(logits)):
            finite, live = abs(float(logits[sequence, token])) < np.inf, starts[sequence] >= 0
            length = int(lengths[sequence]) + int(live)
            goes_on = live and finite and token not in stops.tolist()
            shown = (token if finite else -2) if live else -1
            assert ring.read(int(taken[sequence]) % slots)[sequence] == shown
            assert after["input_ids"][sequence, 0] == (token if finite else 0)
            assert after["past_length"][sequence] == length
            assert after["starts"][sequence] == (length if goes_on else -1)
            assert after["taken"][sequence] == taken[sequence] + 1
            place = min(length, capacity - 1)
            assert (host_array(state.cos)[sequence, 0] == cos[place]).all()
            assert (host_array(state.sin)[sequence, 0] == sin[place]).all()
            seen.add((finite, live, goes_on, length == capacity))
        others = [slot for slot in range(slots) if slot != taken[0] % slots]
        assert (ring.array[others] == 7777).all()
    assert len(seen) >= 7, f"states that came up: {seen}"


def test_rows_are_appended_by_definition() -> None:
    """Ended sequences and rows beyond the capacity are left out; all else of the target stays."""
    rng = np.random.default_rng(1)
    for _ in range(200):
        stacks, count, batch, capacity = (int(rng.integers(1, high)) for high in (4, 5, 5, 9))
        source = rng.normal(size=(stacks, count, batch, 2, 3)).astype(np.float32)
        target = rng.normal(size=(stacks, capacity, batch, 2, 3)).astype(np.float32)
        starts = rng.integers(-1, capacity + 1, batch).astype(np.int32)
        want = target.copy()
        for x, t, b in np.ndindex(stacks, count, batch):
            if starts[b] >= 0 and starts[b] + t < capacity:
                want[x, starts[b] + t, b] = source[x, t, b]
        upload = OrtBackend().upload
        tensor = upload(target)
        HostSteps().append_rows(upload(source), tensor, upload(starts))
        np.testing.assert_array_equal(tensor.array, want)
