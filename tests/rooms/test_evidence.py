"""What is called lasting is what the pipeline's clean-up keeps."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from demo.rooms import Scan
from demo.rooms.evidence import VOXEL, lasting
from runtime.points import PointCloud, clean_up


def test_lasting_points_survive_the_clean_up(scans: list[Scan]) -> None:
    for scan in scans[:10]:
        points = scan.points.astype(np.float64)
        cleaned = clean_up(PointCloud(points), VOXEL).points
        near, _ = cKDTree(cleaned).query(points)
        survives = near < VOXEL  # a voxel's mean is nearer than that to most of its points
        assert (lasting(points) == survives).mean() > 0.97


def test_a_point_far_from_all_others_does_not_last() -> None:
    room = np.random.default_rng(0).random((4000, 3)) * [2, 2, 0.01]
    kept = lasting(np.concatenate([room, [[1.0, 1.0, 3.0]]]))
    assert not kept[-1]
    assert kept[:-1].mean() > 0.9
