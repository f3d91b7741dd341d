"""What of a layout can be drawn: finite boxes in space, and which wall a door or a window hangs in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from runtime.arrays import Array
from runtime.layout import Layout, OrientedBox, to_boxes

LARGEST = 1e7  # metres; beyond it a number is noise, and sums of squares begin to overflow
_SIGNS = np.array([[x, y, z] for z in (-0.5, 0.5) for x, y in ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5))])


@dataclass(frozen=True, slots=True)
class Shape:
    """A wall, a door, a window or a piece of furniture as a box that stands upright."""

    box: OrientedBox
    wall: OrientedBox | None = None  # that of a door or a window

    @property
    def kind(self) -> str:
        return self.box.kind

    @property
    def center(self) -> Array:
        return np.array(self.box.center)

    @property
    def along(self) -> Array:
        """Unit vector [2] of the first edge, seen from above."""
        return np.array([np.cos(self.box.yaw), np.sin(self.box.yaw)])

    @property
    def normal(self) -> Array:
        """Unit vector [2] square to it."""
        return np.array([-np.sin(self.box.yaw), np.cos(self.box.yaw)])

    @property
    def corners(self) -> Array:
        """[8, 3] float64: four at the bottom, going round, then the four above them."""
        return np.asarray(self.center + (_SIGNS * self.box.scale) @ self.box.rotation.T)

    def footprint(self, least: float = 0.0) -> Array:
        """[4, 2], the outline seen from above, at least `least` metres wide across."""
        half = np.array([self.box.scale[0], max(self.box.scale[1], least)]) / 2
        signs = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
        return np.asarray(self.center[:2] + (signs * half) @ np.array([self.along, self.normal]))


@dataclass(frozen=True, slots=True)
class Shapes:
    """All that can be drawn, and how many entities cannot: a number of theirs is not finite or beyond all measure."""

    walls: tuple[Shape, ...] = ()
    openings: tuple[Shape, ...] = ()
    boxes: tuple[Shape, ...] = ()
    left_out: int = 0

    def __iter__(self) -> Iterator[Shape]:
        yield from (*self.walls, *self.openings, *self.boxes)

    @property
    def corners(self) -> Array:
        """Of all shapes, [8 n, 3]."""
        return np.concatenate([np.empty((0, 3)), *(shape.corners for shape in self)])


def shapes(layout: Layout) -> Shapes:
    """The layout's entities that can be drawn, in its order."""
    hosts = {wall.id for wall in layout.walls}
    wall_ids = [opening.wall_id for opening in (*layout.doors, *layout.windows) if opening.wall_id in hosts]
    with np.errstate(over="ignore"):
        boxes = to_boxes(layout)
    walls = {box.id: box for box in boxes if box.kind == "wall"}
    openings = [box for box in boxes if box.kind in ("door", "window")]
    found = (
        tuple(Shape(box) for box in boxes if box.kind == "wall" and _usable(box)),
        tuple(Shape(box, walls[id]) for box, id in zip(openings, wall_ids, strict=True) if _usable(box)),
        tuple(Shape(box) for box in boxes if box.kind == "bbox" and _usable(box)),
    )
    return Shapes(*found, left_out=sum(1 for _ in layout.entities()) - sum(map(len, found)))


def _usable(box: OrientedBox) -> bool:
    numbers = np.array([*box.center, *box.scale, box.yaw])
    return bool(np.isfinite(numbers).all() and np.abs(numbers).max() < LARGEST)
