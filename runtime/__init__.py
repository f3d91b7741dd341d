"""SpatialLM at run time: scene in, layout out, without torch and transformers.

from runtime import Pipeline
pipeline = Pipeline.load("bundle")
layout = pipeline("scene.ply").layout
"""

from runtime.decode import Sampling
from runtime.errors import SceneError
from runtime.layout import Layout
from runtime.pipeline import Pipeline
from runtime.points import PointCloud
from runtime.scene import Request, Result

__all__ = ["Layout", "Pipeline", "PointCloud", "Request", "Result", "Sampling", "SceneError"]
