"""Plugins of the fake: a library that is loaded brings our nodes, which onnx's reference evaluator computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fake_device import device

from tensorrt._common import Native, native

NAMES = ("SpatialLMDecodeStep", "SpatialLMPrefill")
NODE_FAILS = "SpatialLMDecodeStep: libcublasLt was not found; install CUDA's cuBLAS"
_loaded: list[str] = []


def has(name: str) -> bool:
    return name in NAMES and bool(_loaded)


@native
class IPluginRegistry(Native):
    def load_library(self, plugin_path: str) -> object | None:
        """None where there is no such file, or its plugins are registered already."""
        if not isinstance(plugin_path, str):
            raise TypeError("load_library(): incompatible function arguments")
        if device.fault("plugins", plugin_path) or not Path(plugin_path).is_file() or _loaded:
            return None
        _loaded.append(plugin_path)
        return object()


REGISTRY = IPluginRegistry()


def session(path: str) -> Any:
    """What runs a graph with the plugin."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    from tests.passes.plugin_ops import OPERATORS

    return ReferenceEvaluator(onnx.load(path), new_ops=OPERATORS)
