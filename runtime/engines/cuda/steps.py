"""A decode step's own work on the GPU. Definitions: `runtime/engines/host_steps.py`; kernels: `step.cu`."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from cuda.bindings import runtime as cudart

from runtime.arrays import Array
from runtime.engines.contract import Ring, StepState, Tensor
from runtime.engines.cuda.graphs import Graphs
from runtime.engines.cuda.kernels import Kernels, integer, pointer
from runtime.engines.cuda.library import call
from runtime.engines.cuda.memory import CudaMemory, item_bytes, on_device

UNIT = 16  # bytes that a thread of append_rows moves at a time
COPY_THREADS, CHOICE_THREADS = 256, 512
PARTS = 48  # blocks that share the logits of one sequence
BEST_BYTES, TICKET_BYTES = 8, 4  # struct Best and a counter


class Mark:
    """An event; calling it waits. It goes when nobody will wait any more, as for steps that were surplus."""

    def __init__(self, event: Any) -> None:
        self.event = event

    def __call__(self) -> None:
        call(cudart.cudaEventSynchronize, self.event)

    def __del__(self) -> None:
        cudart.cudaEventDestroy(self.event)


class PinnedRing:
    """The ring in pinned memory, which the GPU writes directly."""

    def __init__(self, slots: int, batch: int, stream: int) -> None:
        self._stream = stream
        self.address = int(call(cudart.cudaMallocHost, 4 * slots * batch))
        values = (ctypes.c_int32 * (slots * batch)).from_address(self.address)
        self._array: Array = np.ctypeslib.as_array(values).reshape(slots, batch)

    @property
    def slots(self) -> int:
        return len(self._array)

    def mark(self) -> Mark:
        mark = Mark(call(cudart.cudaEventCreate))
        call(cudart.cudaEventRecord, mark.event, self._stream)
        return mark

    def read(self, slot: int) -> Array:
        tokens: Array = self._array[slot].copy()
        return tokens

    def free(self) -> None:
        cudart.cudaFreeHost(self.address)  # unchecked: at exit the driver may be gone already


class CudaSteps:
    """`StepKernels` on one stream. `captures` says whether engines run on it can be captured."""

    def __init__(self, memory: CudaMemory, *, captures: bool) -> None:
        self._memory = memory
        self._kernels = Kernels(memory.device)
        self.graphs = Graphs(memory.stream)
        self._captures = captures
        self._rings: dict[tuple[int, int], PinnedRing] = {}
        self._scratch: dict[int, tuple[Tensor, Tensor]] = {}

    def ring(self, slots: int, batch: int) -> PinnedRing:
        """One for each size is kept, since captured graphs hold its address."""
        if (slots, batch) not in self._rings:
            self._rings[slots, batch] = PinnedRing(slots, batch, self._memory.stream)
        return self._rings[slots, batch]

    def append_rows(self, source: Tensor, target: Tensor, starts: Tensor) -> None:
        stacks, count, batch = source.shape[:3]
        width = math.prod(source.shape[3:]) * item_bytes(source.dtype)
        assert width % UNIT == 0, f"a cache row of {width} bytes is no multiple of {UNIT}"
        addresses = [pointer(on_device(tensor).address) for tensor in (source, target, starts)]
        sizes = [integer(size) for size in (count, target.shape[1], batch, width // UNIT)]
        grid = stacks * count * batch, -(-width // UNIT // COPY_THREADS)
        self._kernels.launch("append_rows", grid, COPY_THREADS, self._memory.stream, [*addresses, *sizes])

    def next_tokens(self, state: StepState, ring: Ring) -> None:
        assert isinstance(ring, PinnedRing)
        batch, _, vocabulary = state.logits.shape
        partial, tickets = self._choice_scratch(batch)

        def address(tensor: Tensor) -> tuple[int, type]:
            return pointer(on_device(tensor).address)

        changed = [state.input_ids, state.past_length, state.starts, state.taken, state.cos, state.sin]
        arguments = [
            address(state.logits),
            integer(vocabulary),
            *map(address, [*changed, state.cos_table, state.sin_table]),
            *map(integer, state.cos_table.shape),
            address(state.stop_ids),
            integer(state.stop_ids.shape[0]),
            pointer(ring.address),
            integer(ring.slots),
            integer(batch),
            address(partial),
            address(tickets),
        ]
        self._kernels.launch("next_tokens", (PARTS, batch), CHOICE_THREADS, self._memory.stream, arguments)

    def replay(self, tensors: Sequence[Tensor], action: Callable[[], None]) -> None:
        if not self._captures:
            action()
            return
        key = tuple((on_device(tensor).address, tensor.shape) for tensor in tensors)
        self.graphs.run(key, action)

    def close(self) -> None:
        self.graphs.clear()
        self._scratch.clear()
        for ring in self._rings.values():
            ring.free()
        self._kernels.close()

    def _choice_scratch(self, batch: int) -> tuple[Tensor, Tensor]:
        if batch not in self._scratch:
            partial = self._memory.empty((PARTS * batch * BEST_BYTES,), "uint8")
            self._scratch[batch] = partial, self._memory.zeros((batch * TICKET_BYTES,), "uint8")
        return self._scratch[batch]
