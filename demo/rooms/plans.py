"""Floor plans: a rectangle, or one without one or two of its parts."""

from __future__ import annotations

import math
from dataclasses import dataclass

from demo.rooms.dice import Dice
from demo.rooms.footprints import Footprint

Corner = tuple[float, float]
SHORTEST, LONGEST = 2.2, 7.0  # metres, of the edges of a rectangle and the arms of the other shapes
NOTCH = 1.2  # metres, the shortest edge of a part that is left out
SHAPES = {"rectangle": 0.62, "l": 0.23, "t": 0.05, "u": 0.05, "z": 0.05}  # and how often each comes


@dataclass(frozen=True, slots=True)
class Side:
    """One wall of a plan, from a to b with the room on its left."""

    a: Corner
    b: Corner

    @property
    def length(self) -> float:
        return math.dist(self.a, self.b)

    @property
    def yaw(self) -> float:
        """The direction from a to b, one of 0, pi / 2, pi, -pi / 2. Furniture that stands at this wall has it too."""
        return math.atan2(self.b[1] - self.a[1], self.b[0] - self.a[0])

    @property
    def along(self) -> Corner:
        """Unit vector from a to b."""
        return ((self.b[0] - self.a[0]) / self.length, (self.b[1] - self.a[1]) / self.length)

    def at(self, along: float, inwards: float = 0.0) -> Corner:
        """The place `along` metres from a and `inwards` metres into the room."""
        x, y = self.along
        return (self.a[0] + along * x - inwards * y, self.a[1] + along * y + inwards * x)


@dataclass(frozen=True, slots=True)
class Plan:
    """Corners counter-clockwise; `outline` without `notches` is the floor; `height` of the walls in metres."""

    corners: tuple[Corner, ...]
    outline: Footprint
    notches: tuple[Footprint, ...]
    height: float

    @property
    def sides(self) -> tuple[Side, ...]:
        following = (*self.corners[1:], self.corners[0])
        return tuple(Side(a, b) for a, b in zip(self.corners, following, strict=True))

    def holds(self, footprint: Footprint) -> bool:
        """Whether the whole footprint lies on the floor."""
        outline = self.outline
        for x, y in footprint.corners():
            if abs(x - outline.x) > outline.width / 2 or abs(y - outline.y) > outline.depth / 2:
                return False
        return not any(footprint.overlaps(notch) for notch in self.notches)

    def is_outer(self, side: Side) -> bool:
        """Whether the side lies on the outline: behind it there is nothing of this room."""
        x, y = side.at(side.length / 2, -0.01)
        return not self.outline.holds(x, y)


def make_plan(dice: Dice) -> Plan:
    """A plan with its low corner at (0, 0)."""
    names = list(SHAPES)
    shape = names[dice.weighted(list(SHAPES.values()))]
    height = round(dice.between(2.4, 3.0), 3)
    if shape == "rectangle":
        width, depth = (round(dice.between(SHORTEST, LONGEST), 3) for _ in range(2))
        if width * depth < 9.0:  # too small for three pieces and a door
            width = round(width + 1.6, 3)
        return _plan([(0.0, 0.0), (width, 0.0), (width, depth), (0.0, depth)], [], height, dice)
    corners, notches = _MAKERS[shape](dice)
    return _plan(corners, notches, height, dice)


Shape = tuple[list[Corner], list[tuple[float, float, float, float]]]


def _l_shape(dice: Dice) -> Shape:
    width, depth = (dice.between(SHORTEST + NOTCH, LONGEST) for _ in range(2))
    x = dice.between(SHORTEST, width - NOTCH)
    y = dice.between(SHORTEST, depth - NOTCH)
    return [(0, 0), (width, 0), (width, y), (x, y), (x, depth), (0, depth)], [(x, y, width, depth)]


def _t_shape(dice: Dice) -> Shape:
    width, depth = dice.between(SHORTEST + 2 * NOTCH, LONGEST), dice.between(SHORTEST + NOTCH, LONGEST)
    left = dice.between(NOTCH, width - SHORTEST - NOTCH)
    right = dice.between(left + SHORTEST, width - NOTCH)
    y = dice.between(SHORTEST, depth - NOTCH)
    corners = [(0, 0), (width, 0), (width, y), (right, y), (right, depth), (left, depth), (left, y), (0, y)]
    return corners, [(0, y, left, depth), (right, y, width, depth)]


def _u_shape(dice: Dice) -> Shape:
    width, depth = dice.between(2 * SHORTEST + NOTCH, LONGEST), dice.between(SHORTEST + NOTCH, LONGEST)
    left = dice.between(SHORTEST, width - SHORTEST - NOTCH)
    right = dice.between(left + NOTCH, width - SHORTEST)
    y = dice.between(SHORTEST, depth - NOTCH)
    corners = [(0, 0), (width, 0), (width, depth), (right, depth), (right, y), (left, y), (left, depth), (0, depth)]
    return corners, [(left, y, right, depth)]


def _z_shape(dice: Dice) -> Shape:
    width, depth = dice.between(SHORTEST + 2 * NOTCH, LONGEST), dice.between(SHORTEST + NOTCH, LONGEST)
    left = dice.between(NOTCH, width - SHORTEST - NOTCH)
    right = dice.between(left + SHORTEST, width - NOTCH)
    low, high = dice.between(NOTCH, depth - SHORTEST), dice.between(SHORTEST, depth - NOTCH)
    corners = [(0, 0), (right, 0), (right, low), (width, low), (width, depth), (left, depth), (left, high), (0, high)]
    return corners, [(right, 0, width, low), (0, high, left, depth)]


_MAKERS = {"l": _l_shape, "t": _t_shape, "u": _u_shape, "z": _z_shape}


def _plan(corners: list[Corner], notches: list[tuple[float, float, float, float]], height: float, dice: Dice) -> Plan:
    """The shape turned or mirrored at random, in whole millimetres."""
    turns, mirror = dice.whole(0, 3), dice.chance(0.5)
    width, depth = max(x for x, _ in corners), max(y for _, y in corners)

    def move(x: float, y: float) -> Corner:
        x, y, right, top = (width - x if mirror else x), y, width, depth
        for _ in range(turns):
            x, y, right, top = top - y, x, top, right
        return (round(x, 3), round(y, 3))

    moved = [move(x, y) for x, y in corners]
    spans = [Footprint.spanning(*move(x0, y0), *move(x1, y1)) for x0, y0, x1, y1 in notches]
    outline = Footprint.spanning(0.0, 0.0, max(x for x, _ in moved), max(y for _, y in moved))
    return Plan(tuple(reversed(moved) if mirror else moved), outline, tuple(spans), height)
