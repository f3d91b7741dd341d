"""Engines: the contract, and the one place that knows which back end is which."""

from __future__ import annotations

from runtime.engines.contract import Backend, Engine, Tensor, TensorSpec, check_dialect
from runtime.errors import EngineError

BACKENDS = ("onnxruntime",)

__all__ = ["BACKENDS", "Backend", "Engine", "Tensor", "TensorSpec", "check_dialect", "open_backend"]


def open_backend(name: str = "onnxruntime", *, threads: int | None = None) -> Backend:
    """Import the back end's library and open it. Raises EngineError with what to install."""
    if name not in BACKENDS:
        raise EngineError(f"back end {name!r} is unknown. Known: {', '.join(BACKENDS)}.")
    try:
        from runtime.engines.ort import OrtBackend
    except ModuleNotFoundError as error:
        raise EngineError(
            f"back end {name!r} needs the package {error.name!r}, which is not installed. "
            f"Install it: pip install '.[{name}]'"
        ) from error
    except ImportError as error:  # installed, but one of its shared libraries does not load
        raise EngineError(
            f"back end {name!r} is installed but cannot be loaded ({error}). "
            f"Install it anew: pip install --force-reinstall '.[{name}]'"
        ) from error
    return OrtBackend(threads)
