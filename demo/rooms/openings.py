"""Doors and windows: where they are, and what stands in the hole.

The parts of an opening lie in the frame of its wall: x along it from the opening's centre, y into the room, z up from
the floor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from demo.rooms import palette
from demo.rooms.dice import Color, Dice, shaded
from demo.rooms.footprints import Footprint
from demo.rooms.parts import Part, block, cylinder
from demo.rooms.plans import Plan

APART = 0.15  # metres between two openings, and to a corner
SWING = 0.9  # metres before a door that stay free


@dataclass(frozen=True, slots=True)
class Hole:
    """A rectangle cut out of wall number `side`: its centre along the wall, its width, and the heights it spans."""

    kind: str  # door, window
    side: int
    along: float
    width: float
    bottom: float
    top: float
    parts: tuple[Part, ...]

    def before(self, plan: Plan, depth: float) -> Footprint:
        """The floor before it."""
        side = plan.sides[self.side]
        x, y = side.at(self.along, depth / 2)
        return Footprint(x, y, self.width, depth, side.yaw)


def make_holes(plan: Plan, dice: Dice) -> list[Hole]:
    """One or two doors, then up to four windows, as far as they find room."""
    holes: list[Hole] = []
    for _ in range(1 if dice.chance(0.7) else 2):
        _add_door(plan, dice, holes)
    for _ in range(dice.weighted((0.12, 0.33, 0.3, 0.17, 0.08))):
        _add_window(plan, dice, holes)
    return holes


def _add_door(plan: Plan, dice: Dice, holes: list[Hole]) -> None:
    width = dice.between(1.2, 1.6) if dice.chance(0.15) else dice.between(0.7, 1.0)
    top = dice.between(1.95, 2.2)
    if found := _free_place(plan, dice, holes, width):
        side, along = found
        width, top = round(width, 3), round(top, 3)
        is_open = plan.is_outer(plan.sides[side]) and dice.chance(0.3)
        parts = _open_door(dice, width, top) if is_open else _closed_door(dice, width, top)
        holes.append(Hole("door", side, along, width, 0.0, top, tuple(parts)))


def _add_window(plan: Plan, dice: Dice, holes: list[Hole]) -> None:
    width, bottom = dice.between(0.6, 2.4), dice.between(0.4, 1.1)
    top = min(bottom + dice.between(0.8, 1.6), plan.height - 0.12)
    if found := _free_place(plan, dice, holes, width):
        side, along = found
        width, bottom, top = round(width, 3), round(bottom, 3), round(top, 3)
        parts = _window(dice, width, bottom, top)
        holes.append(Hole("window", side, along, width, bottom, top, tuple(parts)))


def _free_place(plan: Plan, dice: Dice, holes: Sequence[Hole], width: float) -> tuple[int, float] | None:
    """A wall, the longer the likelier, and the distance of a centre from its a; none where nothing fits."""
    sides = plan.sides
    for _ in range(12):
        side = dice.weighted([edge.length for edge in sides])
        room = sides[side].length - width - 2 * APART
        if room < 0:
            continue
        along = round(APART + width / 2 + dice.between(0, room), 3)
        if not any(hole.side == side and abs(hole.along - along) < (hole.width + width) / 2 + APART for hole in holes):
            return side, along
    return None


def _frame(half: float, bottom: float, top: float, thick: float, y: tuple[float, float], color: Color) -> list[Part]:
    """Two posts and a lintel inside the hole."""
    return [
        block((-half, -half + thick), y, (bottom, top), color),
        block((half - thick, half), y, (bottom, top), color),
        block((-half, half), y, (top - thick, top), color),
    ]


def _closed_door(dice: Dice, width: float, top: float) -> list[Part]:
    """A frame that stands proud of the wall, and one or two leaves set back in it."""
    half, thick, back = width / 2, dice.between(0.05, 0.08), dice.between(0.03, 0.08)
    leaf = dice.tone(palette.DOORS)
    frame = dice.tone(palette.FRAMES) if dice.chance(0.5) else shaded(leaf, 0.8)
    parts = _frame(half, 0.0, top, thick, (-0.12, dice.between(0.01, 0.03)), frame)
    inside, y = half - thick, (-back - 0.04, -back)
    leaves = [(-inside, -0.006), (0.006, inside)] if width > 1.1 else [(-inside, inside)]
    for number, x in enumerate(leaves):
        parts.append(block(x, y, (0.005, top - thick), leaf))
        for z in ((0.2, 0.9), (1.05, top - thick - 0.15)):
            panel = (x[0] + 0.12, x[1] - 0.12)
            parts.append(block(panel, (-back, -back + 0.012), z, shaded(leaf, 0.88)))
        handle = x[1] - 0.1 if number == 0 else x[0] + 0.1
        parts.append(block((handle - 0.06, handle + 0.06), (-back, -back + 0.06), (1.0, 1.03), palette.STEELS[1]))
    return parts


def _open_door(dice: Dice, width: float, top: float) -> list[Part]:
    """A frame, the leaf swung outwards, and a little of what lies behind."""
    half, thick, leaf = width / 2, dice.between(0.05, 0.08), dice.tone(palette.DOORS)
    inside, beyond = half - thick, dice.between(0.9, 1.6)
    parts = _frame(half, 0.0, top, thick, (-0.12, dice.between(0.01, 0.03)), shaded(leaf, 0.8))
    floor, wall = dice.tone(palette.FLOORS), dice.tone(palette.WALLS)
    parts.append(block((-half - 0.5, half + 0.5), (-beyond, -0.0), (-0.05, 0.0), floor, returns=0.5))
    parts.append(block((-half - 0.5, half + 0.5), (-beyond - 0.05, -beyond), (0, top + 0.3), wall, returns=0.25))
    hinge = inside if dice.chance(0.5) else -inside + 0.04
    parts.append(block((hinge - 0.04, hinge), (-0.1 - 2 * inside, -0.1), (0.005, top - thick), leaf))
    return parts


def _window(dice: Dice, width: float, bottom: float, top: float) -> list[Part]:
    """A frame set back in its reveal, bars, a sill that reaches into the room, and glass that returns hardly a ray."""
    half, thick, back = width / 2, dice.between(0.05, 0.08), dice.between(0.04, 0.12)
    color, wall = dice.tone(palette.FRAMES, 6), (226.0, 224.0, 220.0)
    y = (-back - 0.06, -back)
    parts = _frame(half, bottom, top, thick, y, color)
    parts.append(block((-half, half), y, (bottom, bottom + thick), color))
    for bar in range(1, max(1, round(width / 0.7))):
        x = -half + bar * width / max(1, round(width / 0.7))
        parts.append(block((x - thick / 2, x + thick / 2), y, (bottom, top), color))
    parts += _frame(half + 0.02, bottom, top + 0.02, 0.02, (-back - 0.06, 0.0), wall)  # the reveal
    parts.append(block((-half - 0.05, half + 0.05), (-back, dice.between(0.04, 0.14)), (bottom - 0.03, bottom), color))
    glow = 0.6 if dice.chance(0.15) else dice.between(0.02, 0.1)  # a blind behind the glass, or the glass alone
    parts.append(block((-half, half), (-back - 0.04, -back - 0.03), (bottom, top), dice.tone(palette.SKY, 8), glow))
    if dice.chance(0.5):
        x = half - thick / 2
        parts.append(cylinder(x - 0.01, -back + 0.02, 0.012, ((bottom + top) / 2, (bottom + top) / 2 + 0.12), color))
    return parts
