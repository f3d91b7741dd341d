"""Device memory: one stream, one pool, tensors that give their block back when nothing refers to them."""

from __future__ import annotations

import heapq
import math
import threading
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from cuda.bindings import runtime as cudart

from runtime.arrays import Array
from runtime.engines.contract import Tensor
from runtime.engines.cuda.library import OutOfDeviceMemory, call

ALIGNMENT = 512  # bytes; the smallest block
STEPS = 16  # sizes of blocks in each doubling: scenes of all sizes share few, and at most 6 % is wasted
TO_DEVICE = cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
TO_HOST = cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
ON_DEVICE = cudart.cudaMemcpyKind.cudaMemcpyDeviceToDevice


def item_bytes(dtype: str) -> int:
    """Bytes of one value. NumPy has no bfloat16."""
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


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


class DeviceTensor:
    """Row-major device memory under the contract of `Tensor`. `owner` keeps it alive."""

    __slots__ = ("_owner", "address", "dtype", "shape")

    def __init__(self, address: int, shape: Sequence[int], dtype: str, owner: object) -> None:
        self.address, self.shape, self.dtype, self._owner = address, tuple(shape), dtype, owner

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * item_bytes(self.dtype)

    def __getitem__(self, index: int | slice, /) -> DeviceTensor:
        row = math.prod(self.shape[1:]) * item_bytes(self.dtype)
        if isinstance(index, int):
            start, shape = range(self.shape[0])[index], self.shape[1:]
        else:
            start, stop, step = index.indices(self.shape[0])
            assert step == 1, "a view along the first axis has consecutive rows"
            shape = (max(0, stop - start), *self.shape[1:])
        return DeviceTensor(self.address + start * row, shape, self.dtype, self._owner)


def on_device(tensor: Tensor) -> DeviceTensor:
    """The device tensor behind the contract."""
    assert isinstance(tensor, DeviceTensor), f"a {type(tensor).__name__} came where device memory was expected"
    return tensor


class CudaMemory:
    """The memory half of a back end on a GPU. Everything is ordered on one stream."""

    def __init__(self, device: int) -> None:
        self.device = device
        self.closed = False
        self.use()
        self.pool = Pool()
        self.stream = int(call(cudart.cudaStreamCreate))

    def use(self) -> None:
        """Make the device current in this thread, as CUDA keeps one for each thread."""
        call(cudart.cudaSetDevice, self.device)

    def empty(self, shape: Sequence[int], dtype: str) -> DeviceTensor:
        """Memory with whatever stood there."""
        block = self.pool.take(math.prod(shape) * item_bytes(dtype))
        return DeviceTensor(block.address, shape, dtype, block)

    def zeros(self, shape: Sequence[int], dtype: str) -> DeviceTensor:
        tensor = self.empty(shape, dtype)
        call(cudart.cudaMemsetAsync, tensor.address, 0, tensor.bytes, self.stream)
        return tensor

    def upload(self, array: Array) -> DeviceTensor:
        tensor = self.empty(array.shape, str(array.dtype))
        self.write(array, tensor)
        return tensor

    def write(self, array: Array, tensor: Tensor) -> None:
        """Into memory that is there already. CUDA has taken over pageable memory when the call returns."""
        array, target = np.ascontiguousarray(array), on_device(tensor)
        assert array.nbytes == target.bytes, f"{array.nbytes} bytes for a tensor of {target.bytes}"
        if array.nbytes:
            call(cudart.cudaMemcpyAsync, target.address, array.ctypes.data, array.nbytes, TO_DEVICE, self.stream)

    def download(self, tensor: Tensor) -> Array:
        """A copy on the host; bfloat16 comes widened to float32."""
        source = on_device(tensor)
        half = source.dtype == "bfloat16"
        array = np.empty(source.shape, np.uint16 if half else source.dtype)
        if array.nbytes:
            call(cudart.cudaMemcpyAsync, array.ctypes.data, source.address, array.nbytes, TO_HOST, self.stream)
        self.synchronize()
        return (array.astype(np.uint32) << 16).view(np.float32) if half else array

    def copy(self, source: Tensor, target: Tensor) -> None:
        a, b = on_device(source), on_device(target)
        assert a.shape == b.shape and a.dtype == b.dtype, f"copy of {a.dtype}{a.shape} into {b.dtype}{b.shape}"
        call(cudart.cudaMemcpyAsync, b.address, a.address, a.bytes, ON_DEVICE, self.stream)

    def synchronize(self) -> None:
        """Wait until all that was asked for is done; errors of the device show here."""
        call(cudart.cudaStreamSynchronize, self.stream)

    def close(self) -> None:
        """Give the memory back to the driver. Tensors that are still held give theirs back when they go."""
        self.closed = True
        self.pool.close()
        cudart.cudaStreamDestroy(self.stream)
