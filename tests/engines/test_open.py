"""Opening a back end whose library is missing or broken."""

from __future__ import annotations

from tests.blocked import run_without

ON_A_GPU = """
from runtime.engines import open_backend
from runtime.errors import EngineError
try:
    open_backend("onnxruntime", "cuda:0")
except EngineError as error:
    print(error)
"""
OPEN = """
from runtime.engines import open_backend
from runtime.errors import EngineError
try:
    open_backend("onnxruntime")
except EngineError as error:
    print(error)
"""


def test_a_missing_library_says_how_to_install_it() -> None:
    result = run_without(["onnxruntime"], OPEN)
    assert result.stdout == (
        "back end 'onnxruntime' needs the package 'onnxruntime', which is not installed. "
        "Install it: pip install '.[onnxruntime]'\n"
    ), result.stderr


def test_on_a_gpu_another_package_is_named() -> None:
    """The CUDA bindings come with onnxruntime-gpu; TensorRT would be gigabytes for nothing."""
    for missing in ("onnxruntime", "cuda"):
        result = run_without([missing], ON_A_GPU)
        assert result.stdout == (
            f"back end 'onnxruntime' needs the package '{missing}', which is not installed. "
            f"Install it: pip install '.[onnxruntime-gpu]'\n"
        ), result.stderr


def test_a_library_that_does_not_load_says_so() -> None:
    result = run_without(["onnxruntime"], OPEN, error="ImportError")
    assert result.stdout == (
        "back end 'onnxruntime' is installed but cannot be loaded (onnxruntime is blocked). "
        "Install it anew: pip install --force-reinstall '.[onnxruntime]'\n"
    ), result.stderr
