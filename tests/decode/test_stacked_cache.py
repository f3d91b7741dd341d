"""The cache of all layers in one tensor: its shapes, its prefixes, its rows beside those of a cache by layer."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.arrays import Array
from runtime.bundle import PAST, ROWS
from runtime.decode import KVCache
from runtime.engines.ort import OrtBackend
from runtime.errors import CapacityError
from tests.fakes import HEAD_DIM, KV_HEADS, LAYERS, rows_of, small_manifest

HEADS = 2 * LAYERS * KV_HEADS


def empty(capacity: int, batch: int, *, stacked: bool = True) -> KVCache:
    return KVCache(OrtBackend(), small_manifest(capacity), batch, stacked=stacked)


def joined(rows: dict[str, Array]) -> Array:
    """Rows [T, B, K, D] of all layers as [T, B, 2L*K, D]: keys first."""
    return np.concatenate([rows[f"{kind}.{layer}"] for kind in ("key", "value") for layer in range(LAYERS)], axis=2)


@pytest.mark.parametrize(
    ("capacity", "sizes"),
    [(1, [1]), (500, [500]), (512, [512]), (513, [512, 513]), (3000, [512, 1024, 2048, 3000]), (1024, [512, 1024])],
)
def test_the_prefix_doubles_up_to_the_capacity(capacity: int, sizes: list[int]) -> None:
    """Each size has a captured graph, so they must stay few."""
    cache, seen = empty(capacity, 2), set()
    for length in range(1, capacity + 1):
        cache.prefilled([length, 1])
        rows = cache.past_rows()
        assert length <= rows <= capacity
        assert rows == min(size for size in sizes if size >= length)
        seen.add(rows)
    assert sorted(seen) == sizes


def test_a_prefix_for_steps_that_are_still_under_way() -> None:
    cache = empty(2000, 2)
    cache.prefilled([500, 3])
    assert [cache.past_rows(ahead) for ahead in (0, 12, 13, 524, 525, 1500)] == [512, 512, 1024, 1024, 2000, 2000]
    assert cache.past(13)[PAST].shape == (1024, 2, HEADS, HEAD_DIM)


def test_shapes_and_memory() -> None:
    cache = empty(700, 3)
    assert cache.slab.shape == (1, 700, 3, HEADS, HEAD_DIM)
    prefill, new = cache.prefill_rows(9), cache.new_rows(2)
    assert {name: tensor.shape for name, tensor in prefill.items()} == {ROWS: (9, 3, HEADS, HEAD_DIM)}
    assert {name: tensor.shape for name, tensor in new.items()} == {ROWS: (2, 3, HEADS, HEAD_DIM)}
    cache.prefilled([9, 9, 9])
    past = OrtBackend().download(cache.past()[PAST])
    OrtBackend().write(np.ones((9, 3, HEADS, HEAD_DIM)), prefill[ROWS])
    assert past[:9].all(), "prefill writes into the cache itself"
    assert not past[9:].any()
    assert not any(np.shares_memory(past, OrtBackend().download(tensor)) for tensor in new.values())


def test_rows_lie_as_in_a_cache_by_layer() -> None:
    rng = np.random.default_rng(0)
    one, many = empty(40, 3), empty(40, 3, stacked=False)
    memory = OrtBackend()
    prompt = rng.integers(1, 50, (3, 9))
    memory.write(joined(rows_of(prompt)), one.prefill_rows(9)[ROWS])
    for name, tensor in many.prefill_rows(9).items():
        memory.write(rows_of(prompt)[name], tensor)
    for cache in (one, many):
        cache.prefilled([9, 2, 5])
    for count in (1, 5, 1):
        ids = rng.integers(1, 50, (3, count))
        memory.write(joined(rows_of(ids)), one.new_rows(count)[ROWS])
        for name, tensor in many.new_rows(count).items():
            memory.write(rows_of(ids)[name], tensor)
        for cache in (one, many):
            cache.append(count)
        assert one.lengths == many.lengths
        past = {name.removeprefix("past_"): memory.download(tensor) for name, tensor in many.past().items()}
        np.testing.assert_array_equal(memory.download(one.past()[PAST]), joined(past))


def test_ended_sequences_and_the_last_row() -> None:
    cache, memory = empty(10, 2), OrtBackend()
    cache.prefilled([9, 4])
    memory.write(np.full((1, 2, HEADS, HEAD_DIM), 3.0), cache.new_rows(1)[ROWS])
    cache.append(1)
    with pytest.raises(CapacityError, match="1 more rows do not fit: the cache holds 10 and 10 are taken"):
        cache.new_rows(1)
    cache.end(0)
    assert cache.room == 5
    memory.write(np.full((1, 2, HEADS, HEAD_DIM), 4.0), cache.new_rows(1)[ROWS])
    cache.append(1)
    assert cache.lengths == (10, 6)
    slab = memory.download(cache.slab)[0, :, :, 0, 0]
    np.testing.assert_array_equal(slab[:, 0], [0] * 9 + [3])
    np.testing.assert_array_equal(slab[:, 1], [0] * 4 + [3, 4] + [0] * 4)


def test_rows_that_the_device_wrote_are_only_counted() -> None:
    cache = empty(10, 2)
    cache.prefilled([9, 4])
    cache.count(1)
    assert (cache.lengths, cache.room) == ((10, 5), 0)
    assert not OrtBackend().download(cache.slab).any()
    with pytest.raises(AssertionError, match="1 rows appended to a cache with room for 0"):
        cache.count(1)
