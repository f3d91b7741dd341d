"""The one place of the runtime that knows how TensorRT's versions differ. It looks for names, never at versions."""

from __future__ import annotations

from typing import Any

import tensorrt as trt

from plugins.library import telling

DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
    "UINT8": "uint8",
}


class Messages(trt.ILogger):  # type: ignore[misc]
    """Keeps TensorRT's errors for the sentence that needs them, instead of printing them; all else is passed over."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.errors: list[str] = []

    def log(self, severity: Any, message: str) -> None:
        if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
            self.errors.append(message.strip().rstrip("."))

    def last(self) -> str:
        """The last error, or the last of our own kernels, in brackets, or nothing; errors are forgotten then."""
        error = telling(self.errors)
        self.errors.clear()
        return "" if error is None else f" ({error})"


def version() -> str:
    """TensorRT's version, e.g. "8.6.0"."""
    return str(trt.__version__)


_LIBRARIES: set[str] = set()  # that this process has given to TensorRT, which refuses to take one twice


def load_plugins(path: str) -> bool:
    """Have TensorRT take the plugins of a library; False where it refuses."""
    if path not in _LIBRARIES and trt.get_plugin_registry().load_library(path) is not None:
        _LIBRARIES.add(path)
    return path in _LIBRARIES


def deserialize(runtime: Any, plan: Any, *, host_code: bool) -> Any:
    """An engine, or None where TensorRT refuses the plan. Version-compatible plans carry host code to allow."""
    if host_code and hasattr(runtime, "engine_host_code_allowed"):
        runtime.engine_host_code_allowed = True
    return runtime.deserialize_cuda_engine(plan)


def dtype_name(dtype: Any) -> str:
    """NumPy's name of a TensorRT type."""
    return DTYPES.get(dtype.name, str(dtype.name))


def scratch_bytes(engine: Any) -> int:
    """Device memory that a context of this engine works in, for the largest shapes of its profile."""
    if hasattr(engine, "device_memory_size_v2"):
        return int(engine.device_memory_size_v2)
    if hasattr(engine, "device_memory_size"):
        return int(engine.device_memory_size)
    raise AssertionError("this TensorRT tells no size of its working memory")


def create_context(engine: Any) -> Any:
    """A context that brings no working memory of its own; None where TensorRT cannot make one."""
    if hasattr(trt, "ExecutionContextAllocationStrategy"):
        return engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
    if hasattr(engine, "create_execution_context_without_device_memory"):
        return engine.create_execution_context_without_device_memory()
    raise AssertionError("this TensorRT makes no context without working memory")


def set_scratch(context: Any, address: int, bytes: int) -> None:
    """Give a context its working memory."""
    if hasattr(context, "set_device_memory"):
        context.set_device_memory(address, bytes)
    else:
        context.device_memory = address
