"""Doors and windows can be told from the points alone."""

from __future__ import annotations

import numpy as np

from demo.rooms import Scan
from runtime.arrays import Array
from runtime.layout import Door, Wall, Window


def in_wall_frame(wall: Wall, opening: Door | Window, points: Array) -> Array:
    """Points [N, 3] as x along the wall from the opening's centre, y into the room, z from the opening's centre."""
    way = np.array([wall.bx - wall.ax, wall.by - wall.ay])
    way /= np.linalg.norm(way)
    off = points - np.array([opening.position_x, opening.position_y, opening.position_z])
    return np.stack([off[:, :2] @ way, off[:, :2] @ np.array([-way[1], way[0]]), off[:, 2]], axis=1)


def ratio_inside(scan: Scan, opening: Door | Window, border: float = 0.12) -> float:
    """Returns from the wall's plane, for each square metre: inside the opening against right and left of it."""
    local = in_wall_frame(scan.layout.walls[opening.wall_id], opening, scan.points)
    plane = np.abs(local[:, 1]) < 0.025
    size = np.abs(local[:, [0, 2]])
    half = np.array([opening.width, opening.height]) / 2
    inside = plane & (size < half - border).all(axis=1)
    beside = plane & (size[:, 0] > half[0] + 0.06) & (size[:, 0] < half[0] + 0.14) & (size[:, 1] < half[1])
    area_inside, area_beside = 4 * float((half - border).prod()), 4 * 0.08 * float(half[1])
    return float(inside.sum() / area_inside / max(1e-9, beside.sum() / area_beside))


def test_the_wall_has_a_hole_where_an_opening_is(scans: list[Scan]) -> None:
    for kind in ("doors", "windows"):
        ratios = [ratio_inside(scan, opening) for scan in scans for opening in getattr(scan.layout, kind)]
        assert np.median(ratios) < 0.1
        assert np.quantile(ratios, 0.9) < 0.75  # a leaf may lie as little as 3 cm behind the wall


def test_most_doors_are_closed_by_a_leaf_behind_the_wall(scans: list[Scan]) -> None:
    behind = []
    for scan in scans:
        for door in scan.layout.doors:
            local = in_wall_frame(scan.layout.walls[door.wall_id], door, scan.points)
            size = np.abs(local[:, [0, 2]]) < np.array([door.width, door.height]) / 2 - 0.1
            depth = -local[size.all(axis=1) & (np.abs(local[:, 1]) < 1.8), 1]
            behind.append(float(np.median(depth[depth > 0.02])) if (depth > 0.02).any() else 0.0)
    closed = [0.02 < depth < 0.12 for depth in behind]
    assert 0.5 < sum(closed) / len(closed) < 0.95
