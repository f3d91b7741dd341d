"""Fake of `cuda.bindings.driver`: modules made by the fake nvrtc, kernels that run their numpy twins."""

from __future__ import annotations

import ctypes
import json
from enum import IntEnum
from typing import Any

import fake_kernels
from fake_device import device
from fake_streams import new_handle, stream_of

from cuda.bindings._handles import Handle

MAGIC = b"FAKECUBIN"


class CUresult(IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_NOT_INITIALIZED = 3
    CUDA_ERROR_NO_DEVICE = 100
    CUDA_ERROR_INVALID_IMAGE = 200
    CUDA_ERROR_INVALID_CONTEXT = 201
    CUDA_ERROR_NO_BINARY_FOR_GPU = 209
    CUDA_ERROR_INVALID_HANDLE = 400
    CUDA_ERROR_NOT_FOUND = 500
    CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES = 701


class CUmodule(Handle): ...


class CUfunction(Handle): ...


class CUstream(Handle): ...


class CUdeviceptr(Handle): ...


OK, BAD = CUresult.CUDA_SUCCESS, CUresult.CUDA_ERROR_INVALID_VALUE
modules: dict[int, tuple[int, list[str]]] = {}  # handle -> GPU, kernels
functions: dict[int, tuple[int, str]] = {}  # handle -> module, kernel


def cuInit(flags: int) -> Any:
    return (OK if device.gpus else CUresult.CUDA_ERROR_NO_DEVICE,)


def cuGetErrorString(error: int) -> Any:
    return OK, CUresult(error).name.removeprefix("CUDA_ERROR_").replace("_", " ").lower().encode()


def cuGetErrorName(error: int) -> Any:
    return OK, CUresult(error).name.encode()


def cuModuleLoadData(image: bytes) -> Any:
    if not device.has_context():
        return CUresult.CUDA_ERROR_INVALID_CONTEXT, None
    if not image.startswith(MAGIC):
        return CUresult.CUDA_ERROR_INVALID_IMAGE, None
    facts, gpu = json.loads(image[len(MAGIC) :]), device.gpus[device.current]
    if facts["arch"] != f"sm_{gpu.major}{gpu.minor}":
        return CUresult.CUDA_ERROR_NO_BINARY_FOR_GPU, None
    handle = new_handle()
    modules[handle] = device.current, facts["kernels"]
    return OK, CUmodule(handle)


def cuModuleUnload(hmod: Any) -> Any:
    return (OK if modules.pop(int(hmod), None) else CUresult.CUDA_ERROR_INVALID_HANDLE,)


def cuModuleGetFunction(hmod: Any, name: bytes) -> Any:
    if int(hmod) not in modules:
        return CUresult.CUDA_ERROR_INVALID_HANDLE, None
    if name.decode() not in modules[int(hmod)][1]:
        return CUresult.CUDA_ERROR_NOT_FOUND, None
    handle = new_handle()
    functions[handle] = int(hmod), name.decode()
    return OK, CUfunction(handle)


def cuLaunchKernel(f: Any, gridDimX: int, gridDimY: int, gridDimZ: int, blockDimX: int, blockDimY: int, blockDimZ: int,
                   sharedMemBytes: int, hStream: Any, kernelParams: Any, extra: int) -> Any:  # fmt: skip
    """Run the twin with the values of `kernelParams`, a pair (values, ctypes of them)."""
    module, name = functions.get(int(f), (0, ""))
    stream = stream_of(hStream)
    if not device.has_context():
        return (CUresult.CUDA_ERROR_INVALID_CONTEXT,)
    if module not in modules or stream is None or modules[module][0] != stream.device:
        return (CUresult.CUDA_ERROR_INVALID_HANDLE,)
    if fake_kernels.find(name) is None:
        return (CUresult.CUDA_ERROR_NOT_FOUND,)
    sizes = (gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ)
    if min(sizes) < 1 or gridDimY > 65535 or blockDimX * blockDimY * blockDimZ > 1024:
        return (BAD,)
    values, kinds = kernelParams
    if len(values) != len(kinds):
        return (BAD,)
    arguments = [_value(value, kind) for value, kind in zip(values, kinds, strict=True)]
    pointers = [value for value, kind in zip(arguments, kinds, strict=True) if kind in (None, ctypes.c_void_p)]
    spans = [device.span(address, 1) for address in pointers if address]  # a replay must find the same memory
    device.counts[f"launch:{name}"] += 1

    def run() -> None:
        for span in spans:
            span.check()
        fake_kernels.run(name, (gridDimX, gridDimY, gridDimZ), list(arguments))
        device.counts[f"ran:{name}"] += 1

    stream.submit(run)
    return (OK,)


def _value(value: Any, kind: Any) -> Any:
    """What the kernel gets: the value in its C type."""
    if kind is None or kind is ctypes.c_void_p:
        return int(value)
    return kind(value).value
