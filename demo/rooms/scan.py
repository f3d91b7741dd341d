"""From a seed to a scan: a room, a scanner in it, and what comes back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from demo.rooms import palette
from demo.rooms.dice import Dice
from demo.rooms.evidence import lasting
from demo.rooms.furnish import FEWEST, Furniture, furnish
from demo.rooms.openings import Hole, make_holes
from demo.rooms.order import Motion, canonical
from demo.rooms.parts import Piece, Solids
from demo.rooms.plans import Plan, make_plan
from demo.rooms.rays import FIRST_PIECE, Scenery
from demo.rooms.scanner import Returns, scan_room
from demo.rooms.standpoints import ray_count, standpoints
from runtime.arrays import Array
from runtime.errors import SceneError
from runtime.layout import Bbox, Door, Layout, Wall, Window, translate
from runtime.layout.entities import number_names

SPLITS = {
    "train": range(10_000_000),
    "validation": range(10_000_000, 20_000_000),
    "test": range(20_000_000, 30_000_000),
}
FEWEST_ON_WALL, FEWEST_ON_OTHERS = 60, 25  # lasting returns, without which a scan does not show an entity
REACH = 6.0  # metres of the file's origin from the room's corner, along each axis


@dataclass(frozen=True, slots=True)
class Scan:
    """A scanned room.

    points: float32 [N, 3], metres, z up.
    colors: uint8 [N, 3].
    layout: metres and radians, in the frame of the points, in the order of `canonical`. A box's scale_x is its width,
        scale_y its depth; its front, if it has one, is its own +y.
    """

    points: Array
    colors: Array
    layout: Layout


def make_scan(seed: int) -> Scan:
    """The scan that belongs to a seed >= 0. Layouts name what the scan shows; a room with a wall out of sight, or with
    fewer than three pieces of furniture in sight, is given up for the seed's next one. Raises SceneError."""
    if seed < 0:
        raise SceneError(f"The seed is {seed}, but a whole number from 0 was expected.")
    attempt = 0
    while (scan := _try(seed, attempt)) is None:
        attempt += 1
    return scan


def _try(seed: int, attempt: int) -> Scan | None:
    dice = Dice(seed, attempt, 0)
    plan = make_plan(dice)
    holes = make_holes(plan, dice)
    furniture = furnish(plan, holes, dice)
    if len(furniture) < FEWEST or not any(hole.kind == "door" for hole in holes):
        return None
    rays = ray_count(plan, dice)
    places = standpoints(plan, [piece.footprint for piece in furniture], rays, dice)
    if places is None:
        return None
    scenery = _scenery(plan, holes, furniture, dice)
    returns = scan_room(scenery, places, rays, Dice(seed, attempt, 1))
    layout = _layout(plan, holes, furniture, returns)
    if layout is None:
        return None
    offset = [round(dice.between(-REACH, REACH), 3) for _ in range(3)]
    points = (returns.points + np.array(offset)).astype(np.float32)
    return Scan(points, returns.colors, canonical(_rounded(translate(layout, offset))))


def transform(scan: Scan, quarter_turns: int, mirror: bool) -> Scan:
    """The scan mirrored (x -> -x) if asked for, then turned by quarter turns about z; its layout is ordered anew."""
    motion = Motion(quarter_turns, mirror)
    return Scan(motion.points(scan.points), scan.colors, motion.layout(scan.layout))


def _scenery(plan: Plan, holes: Sequence[Hole], furniture: Sequence[Furniture], dice: Dice) -> Scenery:
    """The pieces in the order furniture, holes."""
    pieces = [
        Piece((piece.footprint.x, piece.footprint.y, 0.0), piece.footprint.angle, piece.parts) for piece in furniture
    ]
    for hole in holes:
        side = plan.sides[hole.side]
        pieces.append(Piece((*side.at(hole.along), 0.0), side.yaw, hole.parts))
    wall = dice.tone(palette.WALLS)
    accent = dice.tone(palette.FABRICS) if dice.chance(0.2) else wall
    number = dice.whole(0, len(plan.sides) - 1)
    walls = [accent if index == number else wall for index in range(len(plan.sides))]
    return Scenery(
        plan,
        tuple(holes),
        tuple(pieces),
        tuple(Solids.of(piece.parts) for piece in pieces),
        np.array(walls),
        np.array(dice.tone(palette.FLOORS)),
        np.array(dice.tone(palette.CEILINGS)),
    )


def _layout(plan: Plan, holes: Sequence[Hole], furniture: Sequence[Furniture], returns: Returns) -> Layout | None:
    """What the returns show; None where they show too little."""
    shown_by = returns.owner[(returns.owner >= 0) & lasting(returns.points)]
    seen = np.bincount(shown_by, minlength=FIRST_PIECE + len(furniture) + len(holes))
    if seen[: len(plan.sides)].min() < FEWEST_ON_WALL:
        return None
    shown = seen[FIRST_PIECE:] >= FEWEST_ON_OTHERS
    pieces = [piece for piece, is_shown in zip(furniture, shown[: len(furniture)], strict=True) if is_shown]
    openings = [hole for hole, is_shown in zip(holes, shown[len(furniture) :], strict=True) if is_shown]
    if len(pieces) < FEWEST or not any(hole.kind == "door" for hole in openings):
        return None
    return Layout(
        walls=tuple(Wall(index, *side.a, 0.0, *side.b, 0.0, plan.height, 0.0) for index, side in enumerate(plan.sides)),
        doors=tuple(Door(*_numbers(plan, hole)) for hole in openings if hole.kind == "door"),
        windows=tuple(Window(*_numbers(plan, hole)) for hole in openings if hole.kind == "window"),
        boxes=tuple(_bbox(piece) for piece in pieces),
    )


def _numbers(plan: Plan, hole: Hole) -> tuple[int, int, float, float, float, float, float]:
    x, y = plan.sides[hole.side].at(hole.along)
    return (0, hole.side, x, y, (hole.bottom + hole.top) / 2, hole.width, hole.top - hole.bottom)


def _bbox(piece: Furniture) -> Bbox:
    foot = piece.footprint
    return Bbox(0, piece.class_name, foot.x, foot.y, piece.height / 2, foot.angle, foot.width, foot.depth, piece.height)


def _rounded(layout: Layout) -> Layout:
    """Lengths in whole tenths of a millimetre, angles to 1e-6: the last digits of a sum say nothing."""

    def short(entity: Wall | Door | Window | Bbox) -> dict[str, Any]:
        digits = {name: 6 if name == "angle_z" else 4 for name in number_names(entity)}
        return {name: round(getattr(entity, name), count) + 0.0 for name, count in digits.items()}  # no -0.0

    return Layout(
        walls=tuple(replace(wall, **short(wall)) for wall in layout.walls),
        doors=tuple(replace(door, **short(door)) for door in layout.doors),
        windows=tuple(replace(window, **short(window)) for window in layout.windows),
        boxes=tuple(replace(box, **short(box)) for box in layout.boxes),
    )
