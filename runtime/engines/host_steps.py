"""A decode step's own work in numpy: the definition of the kernels in `cuda/step.cu`, and their slow plain twin."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from runtime.arrays import Array
from runtime.engines.contract import Ring, StepState, Tensor
from runtime.engines.host import host_array

ENDED, NOT_FINITE = -1, -2


def append_rows(source: Array, target: Array, starts: Array) -> None:
    """target[:, starts[b] + t, b] = source[:, t, b]; negative starts and rows beyond the target are left out."""
    for sequence, start in enumerate(starts.tolist()):
        if start >= 0:
            count = max(0, min(source.shape[1], target.shape[1] - start))
            target[:, start : start + count, sequence] = source[:, :count, sequence]


def next_tokens(
    logits: Array,
    input_ids: Array,
    past_length: Array,
    starts: Array,
    taken: Array,
    rows: tuple[Array, Array],
    tables: tuple[Array, Array],
    stop_ids: Array,
    ring: Array,
) -> None:
    """One token for each sequence from logits [B, V], everything else changed in place (see `StepState`, `Ring`).

    `rows` are cos and sin [B, D], `tables` [M, D].
    """
    for sequence, row in enumerate(logits):
        token = int(row.argmax())  # the first of the largest; where there is a NaN, the first NaN
        finite, ended = bool(np.isfinite(row[token])), starts[sequence] < 0
        ring[taken[sequence] % len(ring), sequence] = ENDED if ended else token if finite else NOT_FINITE
        taken[sequence] += 1
        input_ids[sequence] = token if finite else 0
        if not ended:
            past_length[sequence] += 1
            starts[sequence] = -1 if not finite or token in stop_ids else past_length[sequence]
        position = min(int(past_length[sequence]), len(tables[0]) - 1)
        for target, table in zip(rows, tables, strict=True):
            target[sequence] = table[position]


class HostRing:
    """The ring in ordinary memory: what was asked for is done at once."""

    def __init__(self, slots: int, batch: int) -> None:
        self.array = np.zeros((slots, batch), np.int32)

    @property
    def slots(self) -> int:
        return len(self.array)

    def mark(self) -> Callable[[], None]:
        return lambda: None

    def read(self, slot: int) -> Array:
        tokens: Array = self.array[slot].copy()
        return tokens


class HostSteps:
    """`StepKernels` in RAM."""

    def ring(self, slots: int, batch: int) -> HostRing:
        return HostRing(slots, batch)

    def append_rows(self, source: Tensor, target: Tensor, starts: Tensor) -> None:
        append_rows(host_array(source), host_array(target), host_array(starts))

    def next_tokens(self, state: StepState, ring: Ring) -> None:
        assert isinstance(ring, HostRing)
        a = host_array
        next_tokens(
            a(state.logits)[:, 0],
            a(state.input_ids)[:, 0],
            a(state.past_length),
            a(state.starts),
            a(state.taken),
            (a(state.cos)[:, 0], a(state.sin)[:, 0]),
            (a(state.cos_table), a(state.sin_table)),
            a(state.stop_ids),
            ring.array,
        )

    def replay(self, tensors: Sequence[Tensor], action: Callable[[], None]) -> None:
        action()
