"""The GPU and what drives it: facts for records, names of folders and limits. Nothing is allocated on it."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from typing import Any

from runtime.errors import EngineError


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One CUDA device."""

    index: int
    name: str
    compute_capability: str  # e.g. "9.0"
    memory: int  # bytes in all
    cuda: str  # of the runtime library, e.g. "12.9"
    driver: str  # e.g. "580.65.06"; where only the CUDA version it offers is known, "for CUDA 13.0"


def read_gpu(index: int = 0) -> Gpu:
    """Facts about a device. Raises EngineError where there is no such device or the bindings are missing."""
    cuda = _open()
    if not 0 <= index < (count := _count(cuda)):
        devices = "device cuda:0" if count == 1 else f"devices cuda:0 to cuda:{count - 1}"
        raise EngineError(f"there is no device cuda:{index}, only {devices}. Choose another --device.")
    properties = cuda.call(cuda.runtime.cudaGetDeviceProperties, index)
    name = properties.name
    return Gpu(
        index=index,
        name=(name.decode() if isinstance(name, bytes) else str(name)).strip("\0 "),
        compute_capability=f"{properties.major}.{properties.minor}",
        memory=int(properties.totalGlobalMem),
        cuda=_version(cuda.call(cuda.runtime.cudaRuntimeGetVersion)),
        driver=_driver() or f"for CUDA {_version(cuda.call(cuda.runtime.cudaDriverGetVersion))}",
    )


def select_gpu(index: int) -> None:
    """Make a device the calling thread's. Raises EngineError."""
    cuda = _open()
    cuda.call(cuda.runtime.cudaSetDevice, index)


def free_memory() -> tuple[int, int]:
    """Bytes free and in all on the calling thread's device. This starts CUDA there, which itself takes memory."""
    cuda = _open()
    free, total = cuda.call(cuda.runtime.cudaMemGetInfo)
    return int(free), int(total)


@dataclass(frozen=True, slots=True)
class _Cuda:
    runtime: Any
    call: Any


def _open() -> _Cuda:
    """The bindings, imported when first asked for: without them the module must still be importable."""
    try:
        from cuda.bindings import runtime as cudart

        from runtime.engines.cuda.library import call
    except ModuleNotFoundError as error:
        raise EngineError(
            f"TensorRT needs the package {error.name!r}, which is not installed. Install it: pip install '.[tensorrt]'"
        ) from error
    except ImportError as error:
        raise EngineError(
            f"the CUDA bindings are installed but cannot be loaded ({error}). "
            f"Install them anew: pip install --force-reinstall '.[tensorrt]'"
        ) from error
    return _Cuda(cudart, call)


def _count(cuda: _Cuda) -> int:
    """How many devices there are; none is an error here."""
    try:
        count = int(cuda.call(cuda.runtime.cudaGetDeviceCount))
    except (EngineError, RuntimeError) as error:  # no device, no driver, or a driver older than the library
        raise EngineError(
            f"no GPU can be used here ({error}). Engines are built and run on an NVIDIA GPU; see `nvidia-smi`."
        ) from error
    if count == 0:
        raise EngineError("there is no GPU here. Engines are built and run on an NVIDIA GPU; see `nvidia-smi`.")
    return count


def _version(number: Any) -> str:
    """12090 -> "12.9"."""
    return f"{int(number) // 1000}.{int(number) % 1000 // 10}"


def _driver() -> str | None:
    """The driver's version, which only NVIDIA's own tool tells. All GPUs of a machine share one driver."""
    if (tool := shutil.which("nvidia-smi")) is None:
        return None
    query = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return None
    return said[0] if said else None
