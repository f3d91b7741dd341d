"""Memory in ordinary RAM: the tensors of back ends that compute on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np

from runtime.arrays import Array
from runtime.engines.contract import StepKernels, Tensor


class HostTensor:
    """A contiguous numpy array under the contract of `Tensor`."""

    __slots__ = ("array",)

    def __init__(self, array: Array) -> None:
        self.array = array

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape)

    @property
    def dtype(self) -> str:
        return str(self.array.dtype)

    def __getitem__(self, index: int | slice, /) -> HostTensor:
        return HostTensor(self.array[index])


def host_array(tensor: Tensor) -> Array:
    """The array behind a host tensor."""
    assert isinstance(tensor, HostTensor), f"a {type(tensor).__name__} came where host memory was expected"
    return tensor.array


class HostMemory:
    """The memory half of a back end in RAM."""

    steps: StepKernels | None = None

    def exclusive(self) -> AbstractContextManager[object]:
        return nullcontext()

    def synchronize(self) -> None:
        return

    def close(self) -> None:
        return

    def zeros(self, shape: Sequence[int], dtype: str) -> HostTensor:
        """Zeros: pages are not touched until written, and a masked row never multiplies garbage."""
        return HostTensor(np.zeros(tuple(shape), dtype))

    def upload(self, array: Array) -> HostTensor:
        return HostTensor(np.ascontiguousarray(array))

    def write(self, array: Array, tensor: Tensor) -> None:
        host_array(tensor)[...] = array

    def download(self, tensor: Tensor) -> Array:
        return host_array(tensor)

    def copy(self, source: Tensor, target: Tensor) -> None:
        host_array(target)[...] = host_array(source)

    def scatter_rows(self, source: Tensor, target: Tensor, starts: Sequence[int | None]) -> None:
        rows, cache = host_array(source), host_array(target)
        for sequence, start in enumerate(starts):
            if start is None:
                continue
            cache[:, start : start + rows.shape[1], sequence] = rows[:, :, sequence]
