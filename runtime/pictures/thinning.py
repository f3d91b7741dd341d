"""A random part of a cloud, the same one each time."""

from __future__ import annotations

import numpy as np

from runtime.points import PointCloud

SEED = 0


def thinned(cloud: PointCloud, most: int) -> PointCloud:
    """The cloud, or `most` of its points in their order where it has more."""
    if len(cloud) <= most:
        return cloud
    return cloud.take(np.sort(np.random.default_rng(SEED).choice(len(cloud), most, replace=False)))
