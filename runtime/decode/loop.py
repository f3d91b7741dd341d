"""From a filled cache to tokens: prefill once, then one decode step per token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from runtime.arrays import Array
from runtime.bundle import PAST
from runtime.decode.cache import KVCache
from runtime.decode.device import DeviceLoop
from runtime.decode.sampling import TokenChooser
from runtime.engines.contract import Backend, Engine, Tensor
from runtime.manifest import Manifest


class Decoder:
    """The language model over its two engines and one cache at a time."""

    def __init__(
        self,
        backend: Backend,
        prefill: Engine,
        decode: Engine,
        manifest: Manifest,
        table: tuple[Array, Array],
        device_table: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """`table` holds cos and sin [M, D] of every position of the cache, so that a step only gathers.

        With the same table on the device, greedy steps stay there where the back end can do that.
        """
        self._backend = backend
        self._device_table = device_table
        self._prefill, self._decode = prefill, decode
        self._manifest = manifest
        self._cos, self._sin = table

    def start(self, feeds: dict[str, Tensor], lengths: Sequence[int], rows: int) -> tuple[Array, KVCache]:
        """Run prefill over `rows` positions: logits [B, V] of each last valid position, and the filled cache."""
        cache = KVCache(self._backend, self._manifest, len(lengths), stacked=PAST in self._decode.inputs)
        results = self._prefill.run(feeds, cache.prefill_rows(rows))
        cache.prefilled(lengths)
        return self._backend.download(results["logits"]), cache

    def step(self, token_ids: Array, cache: KVCache) -> Array:
        """Append tokens [B, T] to the sequences: logits [B, T, V] after each. Raises CapacityError."""
        count = token_ids.shape[1]
        new_rows = cache.new_rows(count)
        lengths = np.asarray(cache.lengths, np.int32)
        positions = lengths[:, None] + np.arange(count)  # [B, T]: point tokens have advanced them by their count
        positions = np.minimum(positions, cache.capacity - 1)  # only an ended sequence can stand at the border
        feeds = {
            "input_ids": token_ids.astype(np.int32),
            "cos": self._cos[positions],
            "sin": self._sin[positions],
            "past_length": lengths,
        }
        tensors = {name: self._backend.upload(array) for name, array in feeds.items()} | cache.past()
        results = self._decode.run(tensors, new_rows)
        cache.append(count)
        return self._backend.download(results["logits"])

    def generate(
        self, logits: Array, cache: KVCache, choose: TokenChooser, stop_ids: Sequence[int], max_new_tokens: int
    ) -> Iterator[list[int | None]]:
        """Yield each step's token per sequence, None where the sequence has ended.

        A stop token is yielded and ends its sequence. The last token is not fed back, so `max_new_tokens` tokens need
        one row less; the end of the cache ends generation like `max_new_tokens` does.
        """
        done = [False] * len(cache.lengths)
        for left in range(max_new_tokens - 1, -1, -1):
            ids = choose(logits)
            yield [None if ended else int(token) for ended, token in zip(done, ids, strict=True)]
            for sequence, token in enumerate(ids):
                if int(token) in stop_ids and not done[sequence]:
                    done[sequence] = True
                    cache.end(sequence)
            if all(done) or left == 0 or cache.room == 0:
                return
            if (steps := self._backend.steps) is not None and self._device_table is not None and choose.greedy:
                loop = DeviceLoop(self._backend, steps, self._decode, cache, self._device_table, stop_ids)
                yield from loop.tokens(ids, done, left)
                return
            logits = self.step(ids[:, None], cache)[:, -1]
