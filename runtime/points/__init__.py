"""From a scene file to the encoder's inputs: everything that depends on where points lie, in numpy.

    scene.ply -> PointCloud -> clean_up -> grid_sample -> VoxelGrid -> encoder_inputs -> EncoderInputs

What other rooms may use stands here; the rest is private. Nothing here draws random numbers, and no result depends on
the number of threads.
"""

from runtime.points.cleaning import clean_up
from runtime.points.cloud import PointCloud
from runtime.points.curves import CURVES, curve_codes, curve_depth
from runtime.points.inputs import EncoderInputs, encoder_inputs
from runtime.points.readers import POINT_CLOUD_ENDINGS, read_point_cloud
from runtime.points.report import CloudReport, inspect_cloud
from runtime.points.sampling import VoxelGrid, grid_sample

__all__ = [
    "CURVES",
    "POINT_CLOUD_ENDINGS",
    "CloudReport",
    "EncoderInputs",
    "PointCloud",
    "VoxelGrid",
    "clean_up",
    "curve_codes",
    "curve_depth",
    "encoder_inputs",
    "grid_sample",
    "inspect_cloud",
    "read_point_cloud",
]
