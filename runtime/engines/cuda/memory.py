"""Device memory on one stream: tensors, copies, and who may use them now."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import numpy as np
from cuda.bindings import runtime as cudart

from runtime.arrays import Array
from runtime.engines.contract import Tensor
from runtime.engines.cuda.library import call
from runtime.engines.cuda.pool import Pool
from runtime.errors import EngineError

TO_DEVICE = cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
TO_HOST = cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
ON_DEVICE = cudart.cudaMemcpyKind.cudaMemcpyDeviceToDevice


def item_bytes(dtype: str) -> int:
    """Bytes of one value. NumPy has no bfloat16."""
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


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

    def heads(self, first: int, count: int) -> DeviceTensor:
        """Heads of the one row of cache rows [1, 1, heads, D], as [1, 1, count, D]."""
        assert self.shape[:2] == (1, 1), f"heads of {self.shape} are no one piece"
        start = self.address + first * self.shape[-1] * item_bytes(self.dtype)
        return DeviceTensor(start, (1, 1, count, self.shape[-1]), self.dtype, self._owner)


def on_device(tensor: Tensor) -> DeviceTensor:
    """The device tensor behind the contract."""
    assert isinstance(tensor, DeviceTensor), f"a {type(tensor).__name__} came where device memory was expected"
    return tensor


class CudaMemory:
    """The memory half of a back end on a GPU. Everything is ordered on one stream."""

    def __init__(self, device: int) -> None:
        self.device = device
        self.closed = False
        self._lock, self._busy = threading.RLock(), False
        self.use()
        self.pool = Pool()
        # Apart from the default stream: whoever uses that in another thread, such as PyTorch, would spoil a capture.
        self.stream = int(call(cudart.cudaStreamCreateWithFlags, cudart.cudaStreamNonBlocking))

    def use(self) -> None:
        """Make the device current in this thread, as CUDA keeps one for each thread."""
        call(cudart.cudaSetDevice, self.device)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """One pass at a time: stream, ring and scratch memory serve no two. Raises EngineError."""
        with self._lock:
            if self._busy:
                raise EngineError(
                    "a scene is still running in this thread. Start the next one when its result is there."
                )
            if self.closed:
                raise EngineError("the pipeline was closed. Load the bundle again.")
            self._busy = True
            try:
                self.use()
                yield
            finally:
                self._busy = False

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

    def copy_heads(self, source: Tensor, target: Tensor, first: int) -> None:
        """target[:, :, first : first + source.shape[2]] = source, cache rows [T, B, heads, D] both."""
        a, b = on_device(source), on_device(target)
        assert a.shape[:2] == b.shape[:2] and a.dtype == b.dtype, f"heads of {a.dtype}{a.shape} for {b.dtype}{b.shape}"
        width, pitch = (math.prod(tensor.shape[2:]) * item_bytes(tensor.dtype) for tensor in (a, b))
        start = b.address + first * b.shape[-1] * item_bytes(b.dtype)
        rows = math.prod(a.shape[:2])
        call(cudart.cudaMemcpy2DAsync, start, pitch, a.address, width, width, rows, ON_DEVICE, self.stream)

    def synchronize(self) -> None:
        """Wait until all that was asked for is done; errors of the device show here."""
        call(cudart.cudaStreamSynchronize, self.stream)

    def close(self) -> None:
        """When the pass of another thread is over, give everything back. Tensors still held give theirs when they go.

        Raises EngineError within a pass, nothing else: also a device that failed is to be left.
        """
        if self.closed:
            return
        with self.exclusive():
            with suppress(EngineError):
                self.synchronize()
            self._unload()
            self.closed = True
            self.pool.close()
            cudart.cudaStreamDestroy(self.stream)

    def _unload(self) -> None:
        """Let go of what a back end keeps beside memory."""
