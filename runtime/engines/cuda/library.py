"""Calls of the CUDA runtime, checked: a failure becomes a sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cuda.bindings import driver, nvrtc
from cuda.bindings import runtime as cudart

from runtime.errors import EngineError

OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation and CUDA_ERROR_OUT_OF_MEMORY; NVRTC's numbers mean other things
INSTALL_NVRTC = "pip install --upgrade 'cuda-bindings[all]'"  # brings the libraries of its own CUDA version


class OutOfDeviceMemory(EngineError):
    """The GPU has no room for what was asked."""


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of the CUDA runtime: its result, the results as a tuple, or None. Raises EngineError."""
    error, *results = function(*arguments)
    if int(error) != 0:
        cudart.cudaGetLastError()  # CUDA keeps it until asked, and libraries take it for one of their own launches
        raise _refusal(function, int(error), _text(cudart.cudaGetErrorString(error)[1]))
    return results[0] if len(results) == 1 else tuple(results) or None


def call_driver(function: Callable[..., Any], *arguments: Any) -> Any:
    """The same for the driver's functions."""
    error, *results = function(*arguments)
    if int(error) != 0:
        raise _refusal(function, int(error), _text(driver.cuGetErrorString(error)[1]))
    return results[0] if len(results) == 1 else tuple(results) or None


def call_nvrtc(function: Callable[..., Any], *arguments: Any) -> Any:
    """The same for the runtime compiler's functions."""
    error, *results = function(*arguments)
    if int(error) != 0:
        text = _text(nvrtc.nvrtcGetErrorString(error)[1])
        raise EngineError(f"NVRTC refused {function.__name__}: {text}. Install it anew: {INSTALL_NVRTC}")
    return results[0] if len(results) == 1 else tuple(results) or None


def _refusal(function: Callable[..., Any], code: int, text: str) -> EngineError:
    if code != OUT_OF_MEMORY:
        return EngineError(
            f"CUDA refused {function.__name__}: {text}. Check the driver with: python run_engine.py --doctor"
        )
    free, total = (value / 1e9 for value in _memory())
    return OutOfDeviceMemory(
        f"the GPU has no room left ({free:.1f} of {total:.1f} GB are free). Crop the scene, end other programs "
        f"that use the GPU, or build the engines again with smaller --max_voxels or --max_length."
    )


def _memory() -> tuple[int, int]:
    error, free, total = cudart.cudaMemGetInfo()
    return (int(free), int(total)) if int(error) == 0 else (0, 0)


def _text(text: bytes | str) -> str:
    return text.decode() if isinstance(text, bytes) else str(text)
