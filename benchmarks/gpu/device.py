"""The driver's few functions that launching a compiled kernel takes, through ctypes: needs nothing but libcuda."""

from __future__ import annotations

import ctypes
from typing import Any

DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_LIBRARY: list[Any] = []


def call(name: str, *arguments: Any) -> None:
    """Raises RuntimeError with the driver's own word for what is wrong."""
    if not _LIBRARY:
        _LIBRARY.append(ctypes.CDLL("libcuda.so.1"))
    code = getattr(_LIBRARY[0], name)(*arguments)
    if code:
        text = ctypes.c_char_p()
        _LIBRARY[0].cuGetErrorName(code, ctypes.byref(text))
        raise RuntimeError(f"{name}: {(text.value or str(code).encode()).decode()}")


class Module:
    """A cubin in the current context."""

    def __init__(self, cubin: bytes) -> None:
        self._module = ctypes.c_void_p()
        call("cuModuleLoadData", ctypes.byref(self._module), cubin)

    def integer(self, name: str) -> int:
        """A global int of the module."""
        address, size, value = ctypes.c_uint64(), ctypes.c_size_t(), ctypes.c_int()
        call("cuModuleGetGlobal_v2", ctypes.byref(address), ctypes.byref(size), self._module, name.encode())
        call("cuMemcpyDtoH_v2", ctypes.byref(value), address, ctypes.c_size_t(4))
        return value.value

    def kernel(self, name: str, threads: int, shared: int = 0, *, cooperative: bool = False) -> Kernel:
        function = ctypes.c_void_p()
        call("cuModuleGetFunction", ctypes.byref(function), self._module, name.encode())
        if shared:
            call("cuFuncSetAttribute", function, DYNAMIC_SHARED, shared)
        return Kernel(function, threads, shared, cooperative)


class Kernel:
    """One function with its launch shape."""

    def __init__(self, function: Any, threads: int, shared: int, cooperative: bool) -> None:
        self._function, self._threads, self._shared = function, threads, shared
        self._launch = "cuLaunchCooperativeKernel" if cooperative else "cuLaunchKernel"

    def __call__(self, grid: int, stream: int, *arguments: Any) -> None:
        """Arguments are ctypes values."""
        addresses = (ctypes.c_void_p * len(arguments))(
            *(ctypes.cast(ctypes.pointer(argument), ctypes.c_void_p) for argument in arguments)
        )
        shape = (grid, 1, 1, self._threads, 1, 1, self._shared, ctypes.c_void_p(stream), addresses)
        call(self._launch, self._function, *shape, *([] if "Cooperative" in self._launch else [None]))
