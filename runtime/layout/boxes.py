"""Every entity as a box in space, for pictures and viewers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from runtime.arrays import Array
from runtime.layout.entities import Bbox, Door, Layout, Opening, Wall

DOOR_IDS, WINDOW_IDS, BBOX_IDS = 1000, 2000, 3000  # added to the id, so that one number names one box


@dataclass(frozen=True, slots=True)
class OrientedBox:
    """A box turned about z: centre and full edge lengths in metres, yaw in radians."""

    id: int
    kind: str  # wall, door, window, bbox
    label: str  # the kind, or a bbox's class name
    center: tuple[float, float, float]
    scale: tuple[float, float, float]
    yaw: float

    @property
    def rotation(self) -> Array:
        """Rotation about z by the yaw, [3, 3] float64."""
        with np.errstate(invalid="ignore"):  # an infinite yaw has no direction: nan, as everywhere
            cos, sin = np.cos(self.yaw), np.sin(self.yaw)
        return np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])


def to_boxes(layout: Layout) -> tuple[OrientedBox, ...]:
    """Walls, doors, windows, boxes as oriented boxes, in this order.

    A wall has no thickness here; a door or a window takes its wall's thickness and direction and is left out where
    that wall is missing (the last one counts where an id stands twice).
    """
    walls = {wall.id: wall for wall in layout.walls}
    openings = [opening for opening in (*layout.doors, *layout.windows) if opening.wall_id in walls]
    return (
        *(_wall_box(wall) for wall in layout.walls),
        *(_opening_box(opening, walls[opening.wall_id]) for opening in openings),
        *(_bbox_box(box) for box in layout.boxes),
    )


def _wall_box(wall: Wall) -> OrientedBox:
    a, b = np.array([wall.ax, wall.ay, wall.az]), np.array([wall.bx, wall.by, wall.bz])
    with np.errstate(invalid="ignore"):
        x, y, z = ((a + b) * 0.5 + np.array([0.0, 0.0, 0.5 * wall.height])).tolist()
        length = float(np.linalg.norm(a - b))
    return OrientedBox(wall.id, wall.label, wall.label, (x, y, z), (length, 0.0, wall.height), _yaw(wall))


def _opening_box(opening: Opening, wall: Wall) -> OrientedBox:
    first_id = DOOR_IDS if isinstance(opening, Door) else WINDOW_IDS
    center = (opening.position_x, opening.position_y, opening.position_z)
    scale = (opening.width, wall.thickness, opening.height)
    return OrientedBox(opening.id + first_id, opening.label, opening.label, center, scale, _yaw(wall))


def _bbox_box(box: Bbox) -> OrientedBox:
    center = (box.position_x, box.position_y, box.position_z)
    scale = (box.scale_x, box.scale_y, box.scale_z)
    return OrientedBox(box.id + BBOX_IDS, box.label, box.class_name, center, scale, box.angle_z)


def _yaw(wall: Wall) -> float:
    return float(np.arctan2(wall.by - wall.ay, wall.bx - wall.ax))
