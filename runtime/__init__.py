"""SpatialLM at run time: scene in, layout out, without torch and transformers.

from runtime import Pipeline
pipeline = Pipeline.load("bundle")
layout = pipeline("scene.ply").layout
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime.decode import Sampling
    from runtime.errors import SceneError
    from runtime.layout import Layout
    from runtime.pipeline import Pipeline
    from runtime.points import PointCloud
    from runtime.scene import Request, Result

__all__ = ["Layout", "Pipeline", "PointCloud", "Request", "Result", "Sampling", "SceneError"]

_ROOMS = {
    "Layout": "runtime.layout",
    "Pipeline": "runtime.pipeline",
    "PointCloud": "runtime.points",
    "Request": "runtime.scene",
    "Result": "runtime.scene",
    "Sampling": "runtime.decode",
    "SceneError": "runtime.errors",
}


def __getattr__(name: str) -> Any:
    """Import a room when it is first asked for: --doctor must run where a package is missing."""
    if name not in _ROOMS:
        raise AttributeError(f"module 'runtime' has no attribute {name!r}")
    return getattr(importlib.import_module(_ROOMS[name]), name)
