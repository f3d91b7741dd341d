"""A furnished room of 5 x 4 x 2.6 metres as a layout and as points, and what may go wrong with a layout."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from runtime.layout import Layout, parse_layout
from runtime.points import PointCloud

SIZE = np.array([5.0, 4.0, 2.6])
TEXT = """\
wall_0=Wall(0,0,0,5,0,0,2.6,0)
wall_1=Wall(5,0,0,5,4,0,2.6,0)
wall_2=Wall(5,4,0,0,4,0,2.6,0.2)
wall_3=Wall(0,4,0,0,0,0,2.6,0)
door_0=Door(wall_0,1,0,1,0.9,2)
door_1=Door(wall_2,3,4,1,1.8,2)
window_0=Window(wall_1,5,2,1.5,1.6,1.2)
bbox_0=Bbox(bed,2,3,0.3,0,1.6,2,0.6)
bbox_1=Bbox(dining_table,3.6,1.4,0.4,0.5236,1.4,0.8,0.75)
bbox_2=Bbox(chair,4.3,1.2,0.45,0.6,0.45,0.45,0.9)"""
ROOM = parse_layout(TEXT)


def cloud(points: int = 3000, *, colors: bool = True, seed: int = 0) -> PointCloud:
    """Points on floor, ceiling and walls, and in the boxes."""
    rng = np.random.default_rng(seed)
    places = rng.random((points, 3))
    side = rng.integers(0, 6, points)
    places[np.arange(points), side % 3] = side // 3
    places = places * SIZE
    for box in ROOM.boxes:
        rows = rng.random(points) < 0.05
        inside = (rng.random((rows.sum(), 3)) - 0.5) * (box.scale_x, box.scale_y, box.scale_z)
        places[rows] = inside + np.array([box.position_x, box.position_y, box.position_z])
    return PointCloud(places, rng.random((points, 3)) if colors else None)


def moved(layout: Layout, x: float) -> Layout:
    """The same boxes, moved along x; the walls stay."""
    boxes = tuple(dataclasses.replace(box, position_x=box.position_x + x) for box in layout.boxes)
    return dataclasses.replace(layout, boxes=boxes)


def names(folder: Path) -> list[str]:
    """What lies in a folder."""
    return sorted(path.name for path in folder.iterdir())
