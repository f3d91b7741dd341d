"""The greedy loop without a way back to the host: engine, new rows, next token and its table rows, step after step.

The plain twin is `Decoder.generate`; both give the same tokens.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from runtime.arrays import Array
from runtime.decode.cache import KVCache
from runtime.decode.sampling import refuse_overflow
from runtime.engines.contract import Backend, Engine, Ring, StepKernels, StepState, Tensor

CHUNK = 8  # steps asked for at a time; the host looks at their tokens when all of them are done
AHEAD = 2  # chunks under way, so that the device has work while the host looks
SLOTS = CHUNK * AHEAD
NOT_FINITE = -2


@dataclass(frozen=True, slots=True)
class _Chunk:
    wait: Callable[[], None]
    first: int  # index of its first token since the loop began
    count: int


class DeviceLoop:
    """Decode steps for one batch from a filled cache on."""

    def __init__(
        self,
        backend: Backend,
        steps: StepKernels,
        decode: Engine,
        cache: KVCache,
        table: tuple[Tensor, Tensor],
        stop_ids: Sequence[int],
    ) -> None:
        """`table` holds cos and sin [M, D] on the device."""
        self._backend, self._steps, self._decode, self._cache = backend, steps, decode, cache
        self._table, self._stop_ids = table, tuple(stop_ids)
        self._ring: Ring = steps.ring(SLOTS, len(cache.lengths))
        self._bound: dict[int, tuple[list[Tensor], Callable[[], None]]] = {}

    def tokens(self, first: Array, ended: Sequence[bool], limit: int) -> Iterator[list[int | None]]:
        """Feed tokens `first` [B] and go on: up to `limit` more of each sequence, None where it has ended.

        Steps that were under way when the last sequence ended are surplus; nobody sees them.
        """
        try:
            yield from self._tokens(self._start(first, ended), list(ended), limit)
        finally:
            self._bound.clear()  # its steps refer to this loop, a circle that would keep the cache's memory

    def _tokens(self, state: StepState, ended: list[bool], limit: int) -> Iterator[list[int | None]]:
        waiting: deque[_Chunk] = deque()
        asked = 0
        while True:
            ahead = sum(chunk.count for chunk in waiting)
            count = min(CHUNK, limit - asked, self._cache.room - ahead)
            if count > 0 and len(waiting) < AHEAD:
                waiting.append(self._ask(state, asked, count, ahead))
                asked += count
                continue
            if not waiting:
                return
            for tokens in self._look(waiting.popleft()):
                yield self._take(tokens, ended)
                if all(ended):
                    return

    def _start(self, first: Array, ended: Sequence[bool]) -> StepState:
        """The state that feeds `first`: each sequence stands behind its own length."""
        lengths = np.asarray(self._cache.lengths, np.int32)
        starts = np.where(np.asarray(ended), -1, lengths).astype(np.int32)
        batch, width = len(lengths), self._table[0].shape[1]
        vocabulary = self._decode.outputs["logits"].shape[-1]
        assert isinstance(vocabulary, int)
        upload, zeros = self._backend.upload, self._backend.zeros
        state = StepState(
            input_ids=upload(first.astype(np.int32)[:, None]),
            past_length=upload(lengths),
            starts=upload(starts),
            taken=upload(np.zeros(batch, np.int32)),
            cos=zeros((batch, 1, width), "float32"),
            sin=zeros((batch, 1, width), "float32"),
            cos_table=self._table[0],
            sin_table=self._table[1],
            stop_ids=upload(np.asarray(self._stop_ids, np.int32)),
            logits=zeros((batch, 1, vocabulary), "float32"),
        )
        for sequence, length in enumerate(lengths.tolist()):
            row = min(length, self._cache.capacity - 1)  # only an ended sequence can stand at the border
            self._backend.copy(self._table[0][row], state.cos[sequence][0])
            self._backend.copy(self._table[1][row], state.sin[sequence][0])
        return state

    def _ask(self, state: StepState, first: int, count: int, ahead: int) -> _Chunk:
        for step in range(count):
            rows = self._cache.past_rows(ahead + step)
            if rows not in self._bound:
                self._bound[rows] = self._bind(state, ahead + step)
            self._steps.replay(*self._bound[rows])
        return _Chunk(self._ring.mark(), first, count)

    def _bind(self, state: StepState, ahead: int) -> tuple[list[Tensor], Callable[[], None]]:
        """One step over a prefix: all tensors it touches, and the work itself."""
        feeds = {
            "input_ids": state.input_ids,
            "cos": state.cos,
            "sin": state.sin,
            "past_length": state.past_length,
            **self._cache.past(ahead),
        }
        outputs = {"logits": state.logits, **self._cache.new_rows(1)}
        rows, slab = self._cache.staged(1), self._cache.slab

        def step() -> None:
            self._decode.run(feeds, outputs)
            self._steps.append_rows(rows, slab, state.starts)
            self._steps.next_tokens(state, self._ring)

        others = [rows, slab, state.starts, state.taken, state.cos_table, state.sin_table, state.stop_ids]
        return [*feeds.values(), *outputs.values(), *others], step

    def _look(self, chunk: _Chunk) -> Iterator[Array]:
        chunk.wait()
        for index in range(chunk.first, chunk.first + chunk.count):
            yield self._ring.read(index % self._ring.slots)

    def _take(self, tokens: Array, ended: list[bool]) -> list[int | None]:
        """Count the row that the step appended, and the sequences that its token ended."""
        if (tokens == NOT_FINITE).any():
            refuse_overflow(np.where(tokens == NOT_FINITE, np.nan, 0.0))
        self._cache.count(1)
        result = [None if done else int(token) for done, token in zip(ended, tokens, strict=True)]
        for sequence, token in enumerate(result):
            if token in self._stop_ids:
                ended[sequence] = True
                self._cache.end(sequence)
        return result
