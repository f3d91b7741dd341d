"""The key/value cache. It is the only one to count its rows, and it checks the capacity before every write."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from runtime.arrays import Array
from runtime.bundle import PAST, ROWS
from runtime.engines.contract import Backend, Tensor
from runtime.errors import CapacityError
from runtime.manifest import Manifest

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
ITEM_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
BUCKET = 64  # a prefix grows in steps, so that shapes, and what back ends keep for each shape, stay few
FIRST_BUCKET = 512  # of stacked caches, whose prefix doubles: each of its sizes has a captured graph


class KVCache:
    """One slab of all keys and values, in one of two layouts.

    By layer: [2L, M, B, K, D], keys of all layers, then values; a layer's prefix is contiguous (layout MBKD).
    Stacked: [1, M, B, 2L*K, D], for graphs that take all layers as one tensor; any prefix is contiguous, and so are
    the rows that one token brings.
    """

    def __init__(self, backend: Backend, manifest: Manifest, batch: int, *, stacked: bool = False) -> None:
        spec = manifest.language_model
        self.capacity = manifest.cache.capacity
        self._backend = backend
        self._stacked = stacked
        self._layers, self._kinds, self._kv_heads = spec.layers, 2 * spec.layers, spec.kv_heads
        self._stacks, heads = (1, 2 * spec.layers * spec.kv_heads) if stacked else (2 * spec.layers, spec.kv_heads)
        self._row = (batch, heads, spec.head_dim)
        self._dtype = DTYPES[manifest.precision]
        self.slab = backend.zeros((self._stacks, self.capacity, *self._row), self._dtype)
        self._lengths = [0] * batch
        self._ended = [False] * batch
        self._past: tuple[int, dict[str, Tensor]] = (0, {})
        self._staging: dict[int, Tensor] = {}

    @property
    def lengths(self) -> tuple[int, ...]:
        """Rows written, for each sequence."""
        return tuple(self._lengths)

    @property
    def room(self) -> int:
        """Rows that still fit behind the longest sequence that has not ended."""
        return self.capacity - max(self._growing(), default=0)

    def end(self, sequence: int) -> None:
        """A sequence takes no more rows; it runs along in the batch without limiting the others."""
        self._ended[sequence] = True

    def prefill_rows(self, rows: int) -> dict[str, Tensor]:
        """Where prefill writes its rows, by output name: the cache itself. Raises CapacityError if they do not fit."""
        if rows > self.capacity:
            raise CapacityError(
                f"the prompt has {rows} positions, but this bundle's cache holds {self.capacity}. Crop the scene, "
                f"or export again with --max_length {rows + 1024} or more."
            )
        return self._named(self.slab, "", slice(0, rows))

    def prefilled(self, lengths: Sequence[int]) -> None:
        """Prefill has written this many valid rows of each sequence, from row 0 on."""
        assert max(lengths) <= self.capacity, f"{max(lengths)} rows were written into a cache of {self.capacity}"
        self._lengths = list(lengths)

    def past_rows(self, ahead: int = 0) -> int:
        """Rows of the prefix that decode reads: at least `lengths` and `ahead` more, at most the capacity."""
        needed = max(self._lengths) + ahead
        if self._stacked:
            doubled = FIRST_BUCKET << max(0, -(-needed // FIRST_BUCKET) - 1).bit_length()
            return min(self.capacity, doubled)
        return min(self.capacity, -(-needed // BUCKET) * BUCKET)

    def past(self, ahead: int = 0) -> dict[str, Tensor]:
        """The prefix itself, by input name."""
        rows = self.past_rows(ahead)
        if self._past[0] != rows:
            self._past = (rows, self._named(self.slab, "past_", slice(0, rows)))
        return self._past[1]

    def new_rows(self, count: int) -> dict[str, Tensor]:
        """Where decode writes `count` new rows, by output name. Raises CapacityError when they would not fit."""
        if count > self.room:
            raise CapacityError(
                f"{count} more rows do not fit: the cache holds {self.capacity} and {self.capacity - self.room} are "
                f"taken. Ask for fewer new tokens, or export again with a larger --max_length."
            )
        return self._named(self.staged(count), "", slice(None))

    def append(self, count: int) -> None:
        """Take over the `count` rows that decode wrote into `new_rows`, each sequence behind its own length."""
        assert count <= self.room, f"{count} rows appended to a cache with room for {self.room}"
        starts = [None if ended else length for length, ended in zip(self._lengths, self._ended, strict=True)]
        self._backend.scatter_rows(self.staged(count), self.slab, starts)
        self.count(count)

    def count(self, rows: int) -> None:
        """So many rows now stand behind each sequence that has not ended; the device has put them there."""
        assert rows <= self.room, f"{rows} rows appended to a cache with room for {self.room}"
        self._lengths = [
            length + (0 if ended else rows) for length, ended in zip(self._lengths, self._ended, strict=True)
        ]

    def download_rows(self, count: int) -> Array:
        """The first rows as float32 on the host: [count, B, 2L, K, D], keys of all layers, then values."""
        spec = self._kinds, self._kv_heads, self._row[-1]
        if self._stacked:
            rows = self._backend.download(self.slab[0][:count])
            return rows.astype(np.float32).reshape(count, self._row[0], *spec)
        kinds = [self._backend.download(self.slab[kind][:count]) for kind in range(self._kinds)]
        return np.stack([rows.astype(np.float32) for rows in kinds], axis=2)

    def _growing(self) -> list[int]:
        return [length for length, ended in zip(self._lengths, self._ended, strict=True) if not ended]

    def staged(self, count: int) -> Tensor:
        """Where `count` new rows of all layers wait, in the slab's layout: [stacks, count, B, heads, D]."""
        if count not in self._staging:
            self._staging[count] = self._backend.zeros((self._stacks, count, *self._row), self._dtype)
        return self._staging[count]

    def _named(self, slab: Tensor, prefix: str, rows: slice) -> dict[str, Tensor]:
        if self._stacked:
            return {PAST if prefix else ROWS: slab[0][rows]}
        kinds = [(kind, layer) for kind in ("key", "value") for layer in range(self._layers)]
        return {f"{prefix}{kind}.{layer}": slab[index][rows] for index, (kind, layer) in enumerate(kinds)}
