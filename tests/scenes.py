"""Small rooms made in memory: walls, a floor and a box, seeded."""

from __future__ import annotations

import numpy as np

from runtime.points import PointCloud


def room(seed: int, points: int = 4000, size: tuple[float, float, float] = (4.0, 3.0, 2.5)) -> PointCloud:
    """A cuboid room with a box in it: float64 points on its surfaces, 8-bit colours over 255."""
    rng = np.random.default_rng(seed)
    inside = rng.random((points, 3))
    side = rng.integers(0, 6, points)
    inside[np.arange(points), side % 3] = side // 3  # onto one of the six faces
    cloud = inside * size + rng.normal(0, 0.004, (points, 3))
    boxed = rng.random(points) < 0.2
    cloud[boxed] = inside[boxed] * (1.2, 0.8, 0.7) + (0.5, 0.5, 0.0)
    return PointCloud(cloud, rng.integers(0, 256, (points, 3)) / 255.0)
