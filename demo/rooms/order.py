"""One order of a layout's entities, whichever way the room is turned; and rooms turned and mirrored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from runtime.arrays import Array
from runtime.errors import SceneError
from runtime.layout import Bbox, Door, Layout, Wall, Window

QUARTER = math.pi / 2
CELL = 0.25  # metres; boxes are ordered by the cell that their centre is in, so that noise seldom swaps two
MEET = 0.01  # metres between the ends of two walls that follow each other
SYMMETRIC = ("dining_table", "coffee_table", "plants")  # look the same after half a turn, or less where they are square
AnyOpening = TypeVar("AnyOpening", Door, Window)


def canonical(layout: Layout) -> Layout:
    """The same room with its entities in order and numbered from 0. Moving the room moves nothing in the order.

    Walls run counter-clockwise seen from above; the first starts at the corner with the smallest x + y, of two such at
    the one with the smaller x. Doors and windows go by wall, then by the distance of their centre from its a. Boxes go
    by x, then y, both in steps of 0.25 m from the smallest wall corner. Angles lie in (-pi, pi], of what looks the same
    after half a turn in (-pi / 2, pi / 2], after a quarter in (-pi / 4, pi / 4]. Raises SceneError where the walls
    close no loop, or an opening has no wall.
    """
    loop = _from_first_corner(_counter_clockwise(_loop(layout.walls)))
    number = {wall.id: index for index, wall in enumerate(loop)}
    walls = tuple(replace(wall, id=index) for index, wall in enumerate(loop))
    return replace(
        layout,
        walls=walls,
        doors=_openings(layout.doors, walls, number),
        windows=_openings(layout.windows, walls, number),
        boxes=_boxes(layout.boxes, walls),
    )


def _loop(walls: Sequence[Wall]) -> list[Wall]:
    """The walls one after another, each starting where the one before it ends."""
    left = list(walls[1:])
    loop = list(walls[:1])
    while left:
        end = (loop[-1].bx, loop[-1].by)
        ends = [(math.dist(end, (wall.ax, wall.ay)), index, wall) for index, wall in enumerate(left)]
        ends += [(math.dist(end, (wall.bx, wall.by)), index, _swapped(wall)) for index, wall in enumerate(left)]
        gap, index, wall = min(ends, key=lambda found: found[0])
        if gap > MEET:
            raise SceneError(f"wall_{loop[-1].id} ends {gap:.3g} m from the next wall, but walls must close a loop.")
        loop.append(wall)
        del left[index]
    if loop and math.dist((loop[-1].bx, loop[-1].by), (loop[0].ax, loop[0].ay)) > MEET:
        raise SceneError(f"The {len(loop)} walls leave a gap, but they must close a loop. Mend the layout's walls.")
    return loop


def _swapped(wall: Wall) -> Wall:
    return replace(wall, ax=wall.bx, ay=wall.by, az=wall.bz, bx=wall.ax, by=wall.ay, bz=wall.az)


def _counter_clockwise(loop: list[Wall]) -> list[Wall]:
    area = sum(wall.ax * wall.by - wall.bx * wall.ay for wall in loop)
    return loop if area >= 0 else [_swapped(wall) for wall in reversed(loop)]


def _from_first_corner(loop: list[Wall]) -> list[Wall]:
    if not loop:
        return loop
    x0, y0 = _low_corner(loop)
    places = [(round(wall.ax - x0 + wall.ay - y0, 3), round(wall.ax - x0, 3)) for wall in loop]
    start = places.index(min(places))
    return loop[start:] + loop[:start]


def _low_corner(walls: Sequence[Wall]) -> tuple[float, float]:
    if not walls:
        return 0.0, 0.0
    return min(min(wall.ax, wall.bx) for wall in walls), min(min(wall.ay, wall.by) for wall in walls)


def _openings(openings: Sequence[AnyOpening], walls: Sequence[Wall], number: dict[int, int]) -> tuple[AnyOpening, ...]:
    placed = []
    for opening in openings:
        if opening.wall_id not in number:
            raise SceneError(f"{opening.label}_{opening.id} is in wall_{opening.wall_id}, which is not in the layout.")
        wall_id = number[opening.wall_id]
        wall = walls[wall_id]
        along = math.dist((opening.position_x, opening.position_y), (wall.ax, wall.ay))
        placed.append((wall_id, along, opening))
    placed.sort(key=lambda place: place[:2])
    return tuple(replace(opening, id=index, wall_id=wall_id) for index, (wall_id, _, opening) in enumerate(placed))


def _boxes(boxes: Sequence[Bbox], walls: Sequence[Wall]) -> tuple[Bbox, ...]:
    x0, y0 = _low_corner(walls)

    def place(box: Bbox) -> tuple[float | str, ...]:
        x, y = round(box.position_x - x0, 3), round(box.position_y - y0, 3)
        return (round(x / CELL), round(y / CELL), x, y, box.class_name)

    ordered = sorted((_with_plain_angle(box) for box in boxes), key=place)
    return tuple(replace(box, id=index) for index, box in enumerate(ordered))


def _with_plain_angle(box: Bbox) -> Bbox:
    period = 2 * math.pi
    if box.class_name in SYMMETRIC:
        period = math.pi / 2 if abs(box.scale_x - box.scale_y) < 1e-3 else math.pi
    return replace(box, angle_z=wrapped(box.angle_z, period))


def wrapped(angle: float, period: float = 2 * math.pi) -> float:
    """The angle plus whole periods, in (-period / 2, period / 2]; multiples of a quarter turn come out exact."""
    quarters = round(angle / QUARTER)
    if abs(angle - quarters * QUARTER) < 1e-6:
        span = round(period / QUARTER)
        lowest = span // 2 - span + 1
        return ((quarters - lowest) % span + lowest) * QUARTER
    return angle - period * math.ceil(angle / period - 0.5)


@dataclass(frozen=True, slots=True)
class Motion:
    """Mirror x -> -x or not, then quarter turns about z."""

    quarter_turns: int
    mirror: bool

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where a point goes, exactly."""
        x = -x if self.mirror else x
        for _ in range(self.quarter_turns % 4):
            x, y = -y, x
        return x + 0.0, y + 0.0  # no -0.0

    def points(self, points: Array) -> Array:
        """Where points [N, 3] go."""
        x, y = -points[:, 0] if self.mirror else points[:, 0], points[:, 1]
        for _ in range(self.quarter_turns % 4):
            x, y = -y, x
        return np.stack([x, y, points[:, 2]], axis=1)

    def angle(self, angle: float) -> float:
        """What becomes of an angle_z.

        A piece's front is its local +y, in the direction angle_z + pi / 2. A mirror takes the direction d to pi - d,
        so the angle_z goes to -angle_z.
        """
        return (-angle if self.mirror else angle) + self.quarter_turns % 4 * QUARTER

    def layout(self, layout: Layout) -> Layout:
        """The layout in its new place, ordered anew."""
        moved = replace(
            layout,
            walls=tuple(self._wall(wall) for wall in layout.walls),
            doors=tuple(self._opening(door) for door in layout.doors),
            windows=tuple(self._opening(window) for window in layout.windows),
            boxes=tuple(self._box(box) for box in layout.boxes),
        )
        return canonical(moved)

    def _wall(self, wall: Wall) -> Wall:
        (ax, ay), (bx, by) = self.place(wall.ax, wall.ay), self.place(wall.bx, wall.by)
        return replace(wall, ax=ax, ay=ay, bx=bx, by=by)

    def _opening(self, opening: AnyOpening) -> AnyOpening:
        x, y = self.place(opening.position_x, opening.position_y)
        return replace(opening, position_x=x, position_y=y)

    def _box(self, box: Bbox) -> Bbox:
        x, y = self.place(box.position_x, box.position_y)
        return replace(box, position_x=x, position_y=y, angle_z=self.angle(box.angle_z))
