"""Pieces of device memory: given back when nothing refers to them, they wait for the next of their size."""

from __future__ import annotations

import heapq
import threading
from collections import defaultdict

from cuda.bindings import runtime as cudart

from runtime.engines.cuda.library import OutOfDeviceMemory, call

ALIGNMENT = 512  # bytes; the smallest block
STEPS = 16  # sizes of blocks in each doubling: scenes of all sizes share few, and at most 6 % is wasted


class Block:
    """A piece of device memory; it returns to its pool with the last tensor that refers to it."""

    __slots__ = ("_pool", "address", "bytes")

    def __init__(self, pool: Pool, address: int, bytes: int) -> None:
        self._pool, self.address, self.bytes = pool, address, bytes

    def __del__(self) -> None:
        self._pool.give_back(self.address, self.bytes)


class Pool:
    """Blocks that were given back wait here for the next of their size: a step allocates nothing.

    All work runs on one stream, so a block may be reused as soon as the host lets go of it. The lowest address goes
    first, in whatever order blocks came back: equal runs get equal addresses, which is what captured graphs need.
    """

    def __init__(self) -> None:
        self._free: dict[int, list[int]] = defaultdict(list)
        self._lock = threading.RLock()  # Python may collect a block while this thread is in here
        self._closed = False
        self.reserved = 0  # bytes asked of CUDA and not given back to it

    def take(self, bytes: int) -> Block:
        """A block of at least so many bytes. Raises OutOfDeviceMemory."""
        step = max(ALIGNMENT, (1 << bytes.bit_length() - 1) // STEPS) if bytes else ALIGNMENT
        size = max(1, -(-bytes // step)) * step
        with self._lock:
            if self._free[size]:
                return Block(self, heapq.heappop(self._free[size]), size)
        try:
            address = int(call(cudart.cudaMalloc, size))
        except OutOfDeviceMemory:
            self.release()  # blocks of other sizes may be what is missing
            address = int(call(cudart.cudaMalloc, size))
        self.reserved += size
        return Block(self, address, size)

    def give_back(self, address: int, bytes: int) -> None:
        """Keep a block for reuse; after `close`, free it."""
        with self._lock:
            if not self._closed:
                heapq.heappush(self._free[bytes], address)
                return
        self._release(address, bytes)

    def release(self) -> None:
        """Free all blocks that nothing uses."""
        with self._lock:
            waiting, self._free = self._free, defaultdict(list)
        for size, addresses in waiting.items():
            for address in addresses:
                self._release(address, size)

    def close(self) -> None:
        """Free what waits now, and every other block as soon as it is given back."""
        self._closed = True
        self.release()

    def _release(self, address: int, bytes: int) -> None:
        cudart.cudaFree(address)  # unchecked: at exit the driver may be gone already
        self.reserved -= bytes
