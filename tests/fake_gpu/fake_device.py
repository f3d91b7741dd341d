"""GPUs made of host memory: what the fake `cuda.bindings` and `tensorrt` share, and what tests ask and set.

Environment (child processes inherit it; `reset()` reads it again):

    FAKE_GPU_NAMES     one name a GPU, "name@major.minor", separated by commas; empty: no GPU (default: two alike)
    FAKE_GPU_MEMORY    bytes of each GPU (default 8 GiB): an allocation beyond is out of memory
    FAKE_GPU_DEFERRED  1: work on a stream waits until the host synchronizes, as on a busy GPU
    FAKE_GPU_FAULTS    comma-separated faults, `name` or `name:part of the ONNX file's name`:
                       parse, build (None), timing_cache (abort of the process when it is serialized),
                       deserialize (None), context (None), execute (False), capture (cannot be captured)

Tests may also change `device.faults` (a set), `device.memory`, `device.deferred` directly.
New memory is filled with 0xCD, freed memory is gone: reading or writing it raises IllegalAddress, which no code of
ours catches, also when it happens in the replay of a captured graph.
"""

from __future__ import annotations

import bisect
import ctypes
import os
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

POISON = 0xCD
GIB = 1 << 30


class IllegalAddress(Exception):
    """Device memory that does not exist, no longer exists, or ends before the access does."""


@dataclass(eq=False)
class Allocation:
    """Memory of a GPU, or pinned memory of the host (device None)."""

    address: int
    bytes: int
    device: int | None
    buffer: Any = field(repr=False)
    live: bool = True


@dataclass(frozen=True)
class Gpu:
    name: str
    major: int
    minor: int


class Device:
    """All GPUs of the process, their memory, and how often each thing was asked of them."""

    def __init__(self) -> None:
        self.lock, self.thread = threading.RLock(), threading.local()
        self.reset()

    def reset(self) -> None:
        """Forget all, read the environment again."""
        names = os.environ.get("FAKE_GPU_NAMES", "NVIDIA Fake 9000@9.0,NVIDIA Fake 9000@9.0")
        self.gpus = [_gpu(text) for text in names.split(",") if text]
        self.memory = int(os.environ.get("FAKE_GPU_MEMORY", 8 * GIB))
        self.deferred = os.environ.get("FAKE_GPU_DEFERRED") == "1"
        self.faults = {fault for fault in os.environ.get("FAKE_GPU_FAULTS", "").split(",") if fault}
        self.counts: Counter[str] = Counter()  # e.g. cudaMalloc, HostToDevice, launch:append_rows, execute
        self.allocations: dict[int, Allocation] = {}
        self._order: list[int] = []  # addresses, sorted

    def fault(self, name: str, subject: str = "") -> bool:
        """Whether `name` is to go wrong for a subject, such as the name of an ONNX file."""
        wanted = (fault.partition(":") for fault in self.faults)
        return any(kind == name and part in subject for kind, _, part in wanted)

    @property
    def current(self) -> int:
        """The GPU of this thread. Using it gives the thread a context, which the driver's functions need."""
        self.thread.context = True
        return getattr(self.thread, "device", 0)

    @current.setter
    def current(self, index: int) -> None:
        self.thread.device, self.thread.context = index, True

    def has_context(self) -> bool:
        return getattr(self.thread, "context", False)

    def bytes_allocated(self, device: int | None = 0) -> int:
        """Bytes in use on a GPU; None: pinned memory of the host."""
        with self.lock:
            return sum(block.bytes for block in self.allocations.values() if block.device == device)

    def live(self, device: int | None = 0) -> int:
        """Allocations in use on a GPU; None: of pinned memory."""
        with self.lock:
            return sum(block.device == device for block in self.allocations.values())

    def allocate(self, size: int, device: int | None) -> Allocation | None:
        """New memory, or None where there is no room."""
        with self.lock:
            if device is not None and self.bytes_allocated(device) + size > self.memory:
                return None
            buffer = (ctypes.c_ubyte * (size + 255))()
            address = -(-ctypes.addressof(buffer) // 256) * 256  # CUDA's alignment
            ctypes.memset(address, POISON, size)
            block = self.allocations[address] = Allocation(address, size, device, buffer)
            bisect.insort(self._order, address)
            return block

    def free(self, address: int, pinned: bool) -> bool:
        """False where no allocation begins there."""
        with self.lock:
            block = self.allocations.get(address)
            if block is None or (block.device is None) != pinned:
                return False
            block.live = False
            del self.allocations[address]
            self._order.remove(address)
            return True

    def find(self, address: int) -> Allocation | None:
        """The allocation that an address lies in."""
        with self.lock:
            place = bisect.bisect_right(self._order, address) - 1
            block = self.allocations[self._order[place]] if place >= 0 else None
        return block if block is not None and address < block.address + block.bytes else None

    def span(self, address: int, size: int) -> Span:
        """`size` bytes from an address on. Raises IllegalAddress."""
        block = self.find(address)
        if block is None:
            raise IllegalAddress(f"{address:#x} is in no allocation (freed, or never there)")
        span = Span(block, address, size)
        span.check()
        return span

    def view(self, address: int, shape: Sequence[int], dtype: Any) -> np.ndarray[Any, Any]:
        """An array over device memory or pinned memory, for twins of kernels. Raises IllegalAddress."""
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        return self.span(address, size).array().view(dtype).reshape(shape)


@dataclass(frozen=True)
class Span:
    """A piece of an allocation. It knows whether its memory is still the one it was made for."""

    block: Allocation
    address: int
    bytes: int

    def check(self) -> None:
        end = self.address + self.bytes
        if not self.block.live:
            raise IllegalAddress(f"use after free: {self.bytes} bytes at {self.address:#x}")
        if end > self.block.address + self.block.bytes:
            raise IllegalAddress(f"{self.bytes} bytes at {self.address:#x} end {end - self.block.address} bytes into "
                                 f"an allocation of {self.block.bytes}")  # fmt: skip

    def array(self) -> np.ndarray[Any, Any]:
        """uint8 [bytes], the memory itself."""
        self.check()
        return np.frombuffer(
            self.block.buffer, np.uint8, self.bytes, self.address - ctypes.addressof(self.block.buffer)
        )


def _gpu(text: str) -> Gpu:
    name, _, capability = text.strip().partition("@")
    major, minor = (capability or "9.0").split(".")
    return Gpu(name, int(major), int(minor))


Work = Callable[[], None]
device = Device()
