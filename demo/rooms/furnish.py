"""Which furniture a room gets, and where it stands."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from demo.rooms import living, sleeping
from demo.rooms.dice import Dice
from demo.rooms.footprints import Footprint
from demo.rooms.openings import SWING, Hole
from demo.rooms.parts import Part, bounds, moved
from demo.rooms.plans import Plan, Side

BUILDERS: dict[str, Callable[[Dice], list[Part]]] = {
    builder.__name__: builder
    for builder in (
        sleeping.bed,
        sleeping.nightstand,
        sleeping.wardrobe,
        living.sofa,
        living.coffee_table,
        living.dining_table,
        living.dining_chair,
        living.desk,
        living.tv_cabinet,
        living.bookcase,
        living.refrigerator,
        living.plants,
    )
}
THEMES: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (  # what comes first, and what may follow
    (("bed", "nightstand", "wardrobe"), ("nightstand", "desk", "plants", "bookcase", "tv_cabinet", "dining_chair")),
    (("sofa", "coffee_table", "tv_cabinet"), ("bookcase", "plants", "sofa", "dining_table", "dining_chair", "desk")),
    (
        ("dining_table", "dining_chair", "dining_chair", "refrigerator"),
        ("dining_chair", "dining_chair", "plants", "bookcase", "sofa"),
    ),
    (("desk", "dining_chair", "bookcase"), ("sofa", "plants", "wardrobe", "bookcase", "refrigerator", "coffee_table")),
    (
        ("bed", "sofa", "refrigerator", "desk"),
        ("wardrobe", "dining_table", "dining_chair", "nightstand", "coffee_table", "tv_cabinet", "plants"),
    ),
)
LIKELY = (1.8, 1.0, 0.9, 0.7, 1.0)  # how often each theme comes, against the others
FREE = 0.04  # metres between two pieces, at least
TURNED = 0.15  # share of pieces that stand at another angle than the walls
TRIES = 20
FEWEST, MOST = 3, 8
SMALL = ("plants", "nightstand", "dining_chair", "refrigerator")  # for rooms in which little else fits


@dataclass(frozen=True, slots=True)
class Furniture:
    """A piece in its place. Its parts lie about the footprint's centre, z from the floor."""

    class_name: str
    footprint: Footprint
    height: float
    parts: tuple[Part, ...]


def furnish(plan: Plan, holes: Sequence[Hole], dice: Dice) -> list[Furniture]:
    """Up to eight pieces that neither overlap nor stand in a door's way."""
    first, later = THEMES[dice.weighted(LIKELY)]
    wanted = dice.whole(FEWEST, MOST)
    wishes = [*first, *dice.shuffled(later), *dice.shuffled(tuple(BUILDERS))][: wanted + 4]
    room = _Room(plan, holes, dice)
    for name in (*wishes, *SMALL):
        if len(room.pieces) >= wanted:
            break
        room.add(name)
    return room.pieces


class _Room:
    """A plan that fills up."""

    def __init__(self, plan: Plan, holes: Sequence[Hole], dice: Dice) -> None:
        self.plan, self.dice = plan, dice
        self.pieces: list[Furniture] = []
        self.doorways = [hole.before(plan, SWING) for hole in holes if hole.kind == "door"]
        self.windows = [(hole.bottom, hole.before(plan, 0.3)) for hole in holes if hole.kind == "window"]

    def add(self, name: str) -> None:
        """Stand a piece where it fits; none where nothing does."""
        parts = BUILDERS[name](self.dice)
        x, y, z = bounds(parts)
        parts_about_centre = moved(parts, -(x[0] + x[1]) / 2, -(y[0] + y[1]) / 2)
        width, depth = x[1] - x[0], y[1] - y[0]
        for _ in range(TRIES):
            footprint = self._somewhere(name, width, depth)
            if footprint is not None and self._fits(footprint, z[1]):
                self.pieces.append(Furniture(name, footprint, z[1], parts_about_centre))
                return

    def _fits(self, footprint: Footprint, height: float) -> bool:
        if not self.plan.holds(footprint):
            return False
        if any(footprint.overlaps(doorway) for doorway in self.doorways):
            return False
        if any(height > bottom + 0.15 and footprint.overlaps(before) for bottom, before in self.windows):
            return False
        grown = footprint.grown(FREE)
        return not any(grown.overlaps(piece.footprint) for piece in self.pieces)

    def _somewhere(self, name: str, width: float, depth: float) -> Footprint | None:
        if name == "nightstand" and (beds := self._named("bed")) and self.dice.chance(0.9):
            return self._beside(self.dice.one_of(beds), width, depth)
        if name == "coffee_table" and (sofas := self._named("sofa")) and self.dice.chance(0.85):
            return self._before(self.dice.one_of(sofas), width, depth)
        if name == "dining_chair" and (tables := self._named("dining_table", "desk")) and self.dice.chance(0.85):
            return self._at(self.dice.one_of(tables), width, depth)
        if name in ("dining_table", "coffee_table", "dining_chair"):
            return self._anywhere(width, depth)
        return self._at_wall(name, width, depth)

    def _named(self, *names: str) -> list[Footprint]:
        return [piece.footprint for piece in self.pieces if piece.class_name in names]

    def _turn(self) -> float:
        """0, or some other angle for the few that stand askew."""
        if not self.dice.chance(TURNED):
            return 0.0
        return self.dice.one_of((-1, 1)) * self.dice.between(0.15, 0.7)

    def _at_wall(self, name: str, width: float, depth: float) -> Footprint | None:
        sides = self.plan.sides
        side: Side = sides[self.dice.weighted([edge.length for edge in sides])]
        turn = 0.0 if name == "plants" else self._turn()
        turned = Footprint(0, 0, width, depth, side.yaw + turn)
        reach, back = turned.reach(side.yaw), turned.reach(side.yaw + math.pi / 2)
        room = side.length - 2 * reach - 0.04
        if room < 0:
            return None
        along = 0.02 + reach + self.dice.between(0, room)
        if self.dice.chance(0.35):  # into a corner
            along = 0.02 + reach + self.dice.one_of((0.0, room))
        x, y = side.at(along, back + self.dice.between(0.01, 0.06))
        angle = 0.0 if name == "plants" else side.yaw + turn
        return Footprint(x, y, width, depth, angle)

    def _anywhere(self, width: float, depth: float) -> Footprint:
        outline, dice = self.plan.outline, self.dice
        x = outline.x + outline.width * dice.between(-0.5, 0.5)
        y = outline.y + outline.depth * dice.between(-0.5, 0.5)
        round_one = abs(width - depth) < 1e-6
        angle = 0.0 if round_one else dice.whole(0, 3) * math.pi / 2 + self._turn()
        return Footprint(x, y, width, depth, angle)

    def _beside(self, bed: Footprint, width: float, depth: float) -> Footprint:
        """At the head of a bed, left or right of it."""
        aside = self.dice.one_of((-1, 1)) * (bed.width / 2 + width / 2 + self.dice.between(0.05, 0.15))
        return _near(bed, aside, -bed.depth / 2 + depth / 2, width, depth, 0.0)

    def _before(self, sofa: Footprint, width: float, depth: float) -> Footprint:
        away = sofa.depth / 2 + depth / 2 + self.dice.between(0.3, 0.55)
        return _near(sofa, self.dice.between(-0.25, 0.25), away, width, depth, self._turn())

    def _at(self, table: Footprint, width: float, depth: float) -> Footprint:
        """A chair on one side of a table, facing it."""
        edge = self.dice.weighted((table.width, table.width, table.depth * 0.6, table.depth * 0.6))
        facing = (math.pi, 0.0, math.pi / 2, -math.pi / 2)[edge]  # a chair's front is its +y
        length, across = (table.width, table.depth) if edge < 2 else (table.depth, table.width)
        away = across / 2 + depth / 2 + self.dice.between(0.05, 0.25)
        along = self.dice.between(-0.5, 0.5) * max(0.0, length - width)
        x, y = _turned(along, -away, facing)
        return _near(table, x, y, width, depth, facing + self._turn() * 0.7)


def _turned(x: float, y: float, angle: float) -> tuple[float, float]:
    cos, sin = math.cos(angle), math.sin(angle)
    return cos * x - sin * y, sin * x + cos * y


def _near(other: Footprint, x: float, y: float, width: float, depth: float, turn: float) -> Footprint:
    """At (x, y) of the other's own frame, turned against it."""
    dx, dy = _turned(x, y, other.angle)
    return Footprint(other.x + dx, other.y + dy, width, depth, other.angle + turn)
