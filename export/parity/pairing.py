"""Which entity of one layout is which of another, by where their endpoints lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from runtime.arrays import Array
from runtime.evaluation.boxes import box_iou
from runtime.evaluation.matching import APART
from runtime.evaluation.planes import Rectangle, plane_iou, rectangles
from runtime.layout import Bbox, Layout, Wall
from runtime.layout.entities import Entity, Opening, number_names

MAX_DISTANCE = 1.0  # metres; what lies further apart is another entity
Classes = dict[str, list[Entity]]


@dataclass(frozen=True, slots=True)
class Pairs:
    """The entities of one class, paired one to one."""

    iou: Array  # [got, want], of all; what lies in other planes or apart has 0
    errors: Array  # [matched], metres
    ious: Array  # [matched]
    moves: Array  # [numbers of all matched], bins

    @property
    def want(self) -> int:
        return int(self.iou.shape[1])

    @property
    def got(self) -> int:
        return int(self.iou.shape[0])

    @property
    def matched(self) -> int:
        return len(self.errors)


def pair(name: str, bins: tuple[Classes, Classes], metres: tuple[Classes, Classes]) -> Pairs:
    """A class of two layouts (wanted, got), so that endpoints lie as near to each other as they can."""
    want, got = (side.get(name, []) for side in bins)
    there, here = (side.get(name, []) for side in metres)
    distance = np.array([[_distance(a, b) for b in there] for a in here]).reshape(len(got), len(want))
    rows, columns = linear_sum_assignment(np.where(distance <= MAX_DISTANCE, distance, APART))
    kept = [(row, column) for row, column in zip(rows, columns, strict=True) if distance[row, column] <= MAX_DISTANCE]
    iou = _iou(here, there, _walls(metres[1]), _walls(metres[0]))
    moves = [_moves(want[column], got[row]) for row, column in kept]
    errors, ious = (np.array([array[at] for at in kept]) for array in (distance, iou))
    return Pairs(iou, errors, ious, np.concatenate([np.zeros(0), *moves]))


def by_class(layout: Layout) -> Classes:
    """Walls, doors and windows by their kind, boxes by what they are."""
    found: Classes = {}
    for entity in layout.entities():
        name = entity.class_name if isinstance(entity, Bbox) else entity.label
        found.setdefault(name, []).append(entity)
    return found


def _walls(side: Classes) -> dict[int, Wall]:
    """Those that doors and windows may hang in, by id."""
    return {wall.id: wall for wall in side.get("wall", []) if isinstance(wall, Wall)}


def _ends(entity: Entity) -> Array:
    """[2, 3] for a wall, [1, 3] for anything else, metres."""
    if isinstance(entity, Wall):
        return np.array([[entity.ax, entity.ay, entity.az], [entity.bx, entity.by, entity.bz]])
    return np.array([[entity.position_x, entity.position_y, entity.position_z]])


def _distance(one: Entity, other: Entity) -> float:
    """Of the endpoint that lies furthest from its own; a wall may be written from either end."""
    a, b = _ends(one), _ends(other)
    with np.errstate(invalid="ignore", over="ignore"):
        found = [float(np.linalg.norm(a - ends, axis=1).max()) for ends in (b, b[::-1])]
    return min(found)  # a nan is near nothing: it passes no comparison


def _moves(want: Entity, got: Entity) -> Array:
    """By how many bins each number differs; walls written from the other end are turned first."""
    a, b = _numbers(want), _numbers(got)
    if isinstance(want, Wall) and np.abs(_numbers(_turned(got)) - a).sum() < np.abs(b - a).sum():
        b = _numbers(_turned(got))
    with np.errstate(invalid="ignore"):
        difference = np.abs(b - a)
    return np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.nan_to_num(difference, nan=np.inf, posinf=np.inf))


def _numbers(entity: Entity) -> Array:
    return np.array([float(getattr(entity, name)) for name in number_names(entity)])


def _turned(wall: Entity) -> Entity:
    assert isinstance(wall, Wall)
    ends = (wall.bx, wall.by, wall.bz, wall.ax, wall.ay, wall.az)
    return Wall(wall.id, *ends, wall.height, wall.thickness)


def _iou(one: list[Entity], other: list[Entity], walls: dict[int, Wall], other_walls: dict[int, Wall]) -> Array:
    """IoU of every pair [A, B], measured as it is (`--strict_geometry`); what has the same numbers is the same."""
    if isinstance([*one, *other][0], Bbox):
        found = box_iou(one, other, strict=True)  # type: ignore[arg-type]
    else:
        found = _flat_iou([_shape(it, walls) for it in one], [_shape(it, other_walls) for it in other])
    for row, entity in enumerate(one):
        for column, twin in enumerate(other):
            if np.array_equal(_numbers(entity), _numbers(twin)):
                found[row, column] = 1.0
    return np.nan_to_num(found, nan=0.0)


def _flat_iou(one: list[Rectangle | None], other: list[Rectangle | None]) -> Array:
    """0 where there is no rectangle: a wall without length, and what hangs in it or in none."""
    found = np.zeros((len(one), len(other)))
    rows, columns = ([i for i, shape in enumerate(side) if shape is not None] for side in (one, other))
    shapes = [shape for shape in one if shape is not None], [shape for shape in other if shape is not None]
    with np.errstate(all="ignore"):
        found[np.ix_(rows, columns)] = plane_iou(*shapes, strict=True)[0]
    return found


def _shape(entity: Entity, walls: dict[int, Wall]) -> Rectangle | None:
    """The rectangle of a wall, or of an opening in its wall."""
    if isinstance(entity, Wall):
        alone = Layout(walls=(entity,))
    else:
        assert isinstance(entity, Opening)
        wall = walls.get(entity.wall_id)
        given: Any = {f"{entity.label}s": (entity,)}
        alone = Layout(walls=() if wall is None else (wall,), **given)
    return next(iter(rectangles(alone)[entity.label]), None)
