"""Which back end runs a bundle: the one that was named, or the fastest that can."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from runtime.bundle import Bundle
from runtime.engines.contract import Backend
from runtime.engines.record import ENGINES
from runtime.errors import EngineError

BACKENDS = ("auto", "tensorrt", "onnxruntime")
CPU = "cpu"


@dataclass(frozen=True, slots=True)
class Choice:
    """A back end, a device ("cpu" or "cuda:N"), and what the user should know about the choice."""

    backend: str
    device: str
    note: str | None = None

    @property
    def reads_graphs(self) -> bool:
        """Whether the back end reads the bundle's graphs and weights; compiled engines hold both."""
        return self.backend != "tensorrt"


def choose(bundle: Bundle, backend: str = "auto", device: str | None = None) -> Choice:
    """Settle what `auto` and an open device mean for this bundle. Raises EngineError for names that are none."""
    if backend not in BACKENDS:
        raise EngineError(f"back end {backend!r} is unknown. Known: {', '.join(BACKENDS)}.")
    if device is not None:
        _ordinal(device)
    if backend == "tensorrt":
        _gpu_of(device or "cuda:0")
        return Choice(backend, device or "cuda:0")
    if backend == "onnxruntime" or device == CPU or bundle.manifest.dialect == "onnxruntime":
        return Choice("onnxruntime", device or CPU)
    if (why_not := _why_no_engines(bundle, device or "cuda:0")) is None:
        return Choice("tensorrt", device or "cuda:0")
    return Choice("onnxruntime", device or CPU, why_not or None)


def open_backend(
    name: str = "onnxruntime",
    device: str = CPU,
    *,
    threads: int | None = None,
    cuda_graphs: bool = True,
    verify: bool = True,
) -> Backend:
    """Import the back end's library and open it. Raises EngineError with what to install."""
    try:
        if name == "tensorrt":
            from runtime.engines.trt import TrtBackend

            return TrtBackend(_gpu_of(device), cuda_graphs=cuda_graphs, verify=verify)
        if device != CPU:
            from runtime.engines.ort_cuda import OrtCudaBackend

            return OrtCudaBackend(_gpu_of(device))
        from runtime.engines.ort import OrtBackend

        return OrtBackend(threads)
    except ModuleNotFoundError as error:
        raise EngineError(
            f"back end {name!r} needs the package {error.name!r}, which is not installed. "
            f"Install it: pip install '.[{_extra(name, device)}]'"
        ) from error
    except (ImportError, OSError) as error:  # installed, but one of its shared libraries does not load
        raise EngineError(
            f"back end {name!r} is installed but cannot be loaded ({error}). "
            f"Install it anew: pip install --force-reinstall '.[{_extra(name, device)}]'"
        ) from error


def _extra(backend: str, device: str) -> str:
    """What brings all that a back end needs: onnxruntime-gpu comes in place of onnxruntime, with the CUDA bindings."""
    return "onnxruntime-gpu" if backend == "onnxruntime" and device != CPU else backend


def _why_no_engines(bundle: Bundle, device: str) -> str | None:
    """None where TensorRT can run this bundle; else a sentence for the user, empty where there is nothing to say."""
    if importlib.util.find_spec("tensorrt") is None or importlib.util.find_spec("cuda") is None:
        return "" if not _has_engines(bundle.folder) else _idle("tensorrt is not installed (pip install '.[tensorrt]')")
    try:
        from runtime.engines import trt_compat
        from runtime.engines.cuda.gpu import read_gpu
        from runtime.engines.plans import find_plans

        find_plans(bundle, read_gpu(_gpu_of(device)), trt_compat.version())
    except EngineError as error:
        return f"running on ONNX Runtime: {error}"
    except (ImportError, OSError) as error:
        return _idle(f"TensorRT cannot be loaded ({error})")
    return None


def _idle(reason: str) -> str:
    return f"running on ONNX Runtime, the bundle's engines are not used: {reason}."


def _has_engines(folder: Path) -> bool:
    root = folder / ENGINES
    return root.is_dir() and any(not path.name.startswith(".") for path in root.iterdir())


def _ordinal(device: str) -> int | None:
    """N of "cuda:N"; None for "cpu". Raises EngineError."""
    if device == CPU:
        return None
    name, _, number = device.partition(":")
    if name != "cuda" or not (number.isdecimal() or device == "cuda"):
        raise EngineError(f"--device is {device!r}, but cpu, cuda or cuda:N (such as cuda:0) was expected.")
    return int(number or 0)


def _gpu_of(device: str) -> int:
    ordinal = _ordinal(device)
    if ordinal is None:
        raise EngineError("TensorRT runs on a GPU, but --device is cpu. Leave --device out, or use onnxruntime.")
    return ordinal
