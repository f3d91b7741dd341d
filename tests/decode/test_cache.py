"""The cache against a dictionary, and its limits."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.arrays import Array
from runtime.decode import KVCache
from runtime.errors import CapacityError
from tests.fakes import HEAD_DIM, KV_HEADS, LAYERS, CountingBackend, ScriptedModel, on_device, rows_of, small_manifest

SMALL = 40  # less than a bucket, so that the prefix shows every row


def empty(capacity: int, batch: int) -> KVCache:
    return KVCache(CountingBackend(), small_manifest(capacity), batch)


def contents(cache: KVCache) -> dict[str, Array]:
    """Every row of a small cache, copied."""
    cache_rows = {name: on_device(tensor) for name, tensor in cache.past().items()}
    return {name: rows.copy() for name, rows in cache_rows.items()}


def write(cache: KVCache, ids: Array) -> None:
    """What decode does with tokens [B, T]."""
    for name, tensor in cache.new_rows(ids.shape[1]).items():
        on_device(tensor)[...] = rows_of(ids)[name]
    cache.append(ids.shape[1])


def filled(capacity: int, lengths: list[int]) -> KVCache:
    cache = empty(capacity, len(lengths))
    ids = np.full((len(lengths), max(lengths)), 7)
    for name, tensor in cache.prefill_rows(max(lengths)).items():
        on_device(tensor)[...] = rows_of(ids)[name]
    cache.prefilled(lengths)
    return cache


@pytest.mark.parametrize("capacity", [1, 63, 64, 65, 200])
def test_the_prefix_is_at_least_the_lengths_and_at_most_the_capacity(capacity: int) -> None:
    cache = empty(capacity, 2)
    sizes = set()
    for length in range(1, capacity + 1):
        cache.prefilled([length, 1])
        past = cache.past()
        rows = {tensor.shape for tensor in past.values()}
        assert len(rows) == 1
        shape = rows.pop()
        assert length <= shape[0] <= capacity
        assert shape[1:] == (2, KV_HEADS, HEAD_DIM)
        sizes.add(shape[0])
    assert past.keys() == {f"past_{kind}.{layer}" for kind in ("key", "value") for layer in range(LAYERS)}
    assert len(sizes) <= capacity // 64 + 1, "a back end keeps something for each shape: they must stay few"


def test_rows_land_where_a_dictionary_has_them() -> None:
    rng = np.random.default_rng(0)
    lengths = [9, 2, 5]
    cache = empty(SMALL, 3)
    prompt = rng.integers(1, 50, (3, 9))
    for name, tensor in cache.prefill_rows(9).items():
        on_device(tensor)[...] = rows_of(prompt)[name]
    cache.prefilled(lengths)
    twin = {(b, row): prompt[b, row] for b in range(3) for row in range(lengths[b])}
    for count in (1, 5, 1, 2, 5, 1):
        ids = rng.integers(1, 50, (3, count))
        write(cache, ids)
        twin |= {(b, lengths[b] + t): ids[b, t] for b in range(3) for t in range(count)}
        lengths = [length + count for length in lengths]
        assert cache.lengths == tuple(lengths)
        assert cache.room == SMALL - max(lengths)
        rows = contents(cache)
        for (b, row), token in twin.items():
            for name, want in rows_of(np.array([[token]])).items():
                np.testing.assert_array_equal(rows[f"past_{name}"][row, b], want[0, 0], err_msg=f"{name} {row} {b}")


def test_nothing_is_written_beyond_the_new_rows() -> None:
    cache = filled(SMALL, [4, 11])
    before = contents(cache)
    write(cache, np.array([[3, 4, 5], [6, 7, 8]]))
    for name, rows in contents(cache).items():
        changed = (rows != before[name]).any(axis=(2, 3))  # [M, B]
        assert np.flatnonzero(changed[:, 0]).tolist() == [4, 5, 6], name
        assert np.flatnonzero(changed[:, 1]).tolist() == [11, 12, 13], name


@pytest.mark.parametrize("rows", [SMALL - 1, SMALL])
def test_a_prompt_up_to_the_capacity_fits(rows: int) -> None:
    cache = filled(SMALL, [rows])
    assert cache.room == SMALL - rows
    want = rows_of(np.array([[7]]))
    for name, got in contents(cache).items():
        np.testing.assert_array_equal(got[rows - 1, 0], want[name.removeprefix("past_")][0, 0])


def test_a_longer_prompt_is_refused_before_anything_is_written() -> None:
    model = ScriptedModel([[1]], capacity=8)
    sentence = r"the prompt has 9 positions, but this bundle's cache holds 8\..*--max_length"
    with pytest.raises(CapacityError, match=sentence):
        model.start([[5] * 9])
    assert model.prefill.fed == []


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("spare", [0, 1])
def test_new_rows_fit_up_to_the_last_row(count: int, spare: int) -> None:
    cache = filled(SMALL, [SMALL - count - spare, 3])
    ids = np.arange(1, 2 * count + 1).reshape(2, count)
    write(cache, ids)
    assert cache.room == spare
    for name, rows in contents(cache).items():
        want = rows_of(ids)[name.removeprefix("past_")]
        np.testing.assert_array_equal(rows[SMALL - count - spare : SMALL - spare, 0], want[:, 0])
        np.testing.assert_array_equal(rows[3 : 3 + count, 1], want[:, 1])


@pytest.mark.parametrize("count", [1, 5])
def test_one_row_too_many_is_refused_and_nothing_is_lost(count: int) -> None:
    """The longest sequence decides: the shorter one would still have room."""
    model = ScriptedModel([[1], [1]], capacity=12)
    _, cache = model.start([[5] * (13 - count), [6]])
    before, calls = contents(cache), model.backend.calls.copy()
    with pytest.raises(CapacityError, match=rf"{count} more rows do not fit: the cache holds 12 and {13 - count} are"):
        model.decoder.step(np.ones((2, count), np.int32), cache)
    assert cache.lengths == (13 - count, 1)
    assert model.decode.fed == []
    assert model.backend.calls == calls
    for name, rows in contents(cache).items():
        np.testing.assert_array_equal(rows, before[name])


def test_append_never_drops_rows_in_silence() -> None:
    cache = filled(SMALL, [SMALL])
    with pytest.raises(AssertionError, match="1 rows appended to a cache with room for 0"):
        cache.append(1)
    with pytest.raises(AssertionError, match="were written into a cache of 40"):
        cache.prefilled([SMALL + 1])
