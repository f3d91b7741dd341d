"""IoU of walls, doors and windows: rectangles in nearly the same plane, compared as flat shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from runtime.arrays import Array
from runtime.evaluation.polygons import overlap_areas, ratio
from runtime.layout import Door, Layout, Wall, Window

MIN_EXTENT = 1e-6  # metres; a wall shorter than this along both x and y is none
MIN_NORMALS = 1e-6  # m^4; where two normals are shorter than this together, there is no plane to compare
MAX_SINE = math.sin(math.radians(5.0))
MAX_DISTANCE = 0.2  # metres between two planes


@dataclass(frozen=True, slots=True)
class Rectangle:
    """A wall, a door or a window as a flat shape."""

    name: str  # as in the file, `wall_3`
    corners: Array  # [4, 3] float64, metres: start and end at the bottom, end and start at the top

    @property
    def normal(self) -> Array:
        """Of the first three corners [3]; as long as the shape is large, in square metres."""
        return np.cross(self.corners[1] - self.corners[0], self.corners[2] - self.corners[0])


def rectangles(layout: Layout) -> dict[str, list[Rectangle]]:
    """The layout's usable walls, doors and windows by class.

    A wall without extent in x and y is left out, and so is what hangs in it. Of several walls with one id, the last
    holds the doors and windows: so does the original.
    """
    walls = {wall.id: wall for wall in layout.walls}
    return {
        "wall": [_wall_rectangle(wall) for wall in layout.walls if _is_valid(wall)],
        "door": [_opening_rectangle(door, walls[door.wall_id]) for door in layout.doors if _hangs(door, walls)],
        "window": [_opening_rectangle(it, walls[it.wall_id]) for it in layout.windows if _hangs(it, walls)],
    }


def _is_valid(wall: Wall) -> bool:
    return abs(wall.bx - wall.ax) > MIN_EXTENT or abs(wall.by - wall.ay) > MIN_EXTENT


def _hangs(opening: Door | Window, walls: dict[int, Wall]) -> bool:
    return opening.wall_id in walls and _is_valid(walls[opening.wall_id])


def _wall_rectangle(wall: Wall) -> Rectangle:
    start, end = np.array([wall.ax, wall.ay, wall.az]), np.array([wall.bx, wall.by, wall.bz])
    up = np.array([0.0, 0.0, wall.height])
    return Rectangle(f"wall_{wall.id}", np.stack([start, end, end + up, start + up]))


def _opening_rectangle(opening: Door | Window, wall: Wall) -> Rectangle:
    """Along the wall as it is seen from above: a wall whose ends differ in z does not tilt what hangs in it."""
    along = np.array([wall.bx - wall.ax, wall.by - wall.ay, 0.0])
    centre = np.array([opening.position_x, opening.position_y, opening.position_z])
    with np.errstate(invalid="ignore"):
        half = along / np.linalg.norm(along) * opening.width / 2
    up = np.array([0.0, 0.0, opening.height / 2])
    corners = np.stack([centre - half - up, centre + half - up, centre + half + up, centre - half + up])
    return Rectangle(f"{opening.label}_{opening.id}", corners)


def plane_iou(
    predicted: Sequence[Rectangle], truth: Sequence[Rectangle], *, strict: bool
) -> tuple[Array, tuple[list[str], list[str]]]:
    """IoU of every pair [P, G] float32, as the original keeps it; and the names, on each side, of shapes without area.

    The original stops at such a shape; here it overlaps nothing. Unless `strict`, the distance of two planes has a
    sign, as in the original: however far a prediction lies on the side to which its normal does not point, it is near.
    """
    iou = np.zeros((len(predicted), len(truth)), dtype=np.float32)
    flat: tuple[set[str], set[str]] = set(), set()
    corners = np.array([it.corners for it in truth]).reshape(-1, 4, 3)  # [G, 4, 3]
    normals = np.array([it.normal for it in truth]).reshape(-1, 3)  # [G, 3]
    lengths = np.linalg.norm(normals, axis=1)  # [G]
    for row, shape in enumerate(predicted):
        size = np.linalg.norm(shape.normal)
        usable = np.isfinite(size * lengths) & (size * lengths > MIN_NORMALS)  # [G]
        for other in map(int, np.flatnonzero(~usable)):
            side = _smaller(float(size), float(lengths[other]))
            flat[side].add((shape, truth[other])[side].name)
        near = np.flatnonzero(usable)
        near = near[_share_a_plane(shape, corners[near], normals[near], strict=strict)]
        iou[row, near] = _flat_iou(shape.corners, corners[near])
    return iou, (sorted(flat[0]), sorted(flat[1]))


def _smaller(first: float, second: float) -> int:
    """Which of two areas is to blame that there is no plane: 0 or 1, first of all one that is not finite."""
    if not (math.isfinite(first) and math.isfinite(second)):
        return 1 if math.isfinite(first) else 0
    return 1 if second < first else 0


def _share_a_plane(shape: Rectangle, corners: Array, normals: Array, *, strict: bool) -> Array:
    """Whether each of `corners` [G, 4, 3] with `normals` [G, 3] lies in nearly the plane of `shape`: [G] bool."""
    size = np.linalg.norm(shape.normal)
    lengths = np.linalg.norm(normals, axis=1)
    sine = np.linalg.norm(np.cross(shape.normal, normals), axis=1) / (size * lengths)
    distance = (corners[:, 0] - shape.corners[0]) @ shape.normal / size
    shared: Array = (sine < MAX_SINE) & ((np.abs(distance) if strict else distance) < MAX_DISTANCE)
    return shared


def _flat_iou(predicted: Array, truth: Array) -> Array:
    """IoU of one shape [4, 3] with each of `truth` [G, 4, 3], all projected to the plane of the latter: [G]."""
    right = truth[:, 1] - truth[:, 0]
    right = right / np.linalg.norm(right, axis=1, keepdims=True)
    up = truth[:, 3] - truth[:, 0]
    up = up - (up * right).sum(axis=1, keepdims=True) * right  # Gram-Schmidt: what of it is not along `right`
    up = up / np.linalg.norm(up, axis=1, keepdims=True)
    axes = np.stack([right, up], axis=2)  # [G, 3, 2]
    origin = truth[:, :1]  # [G, 1, 3]
    areas = overlap_areas((predicted - origin) @ axes, (truth - origin) @ axes)
    return ratio(areas[2], areas[0] + areas[1] - areas[2])
