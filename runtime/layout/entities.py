"""What a room is made of, and its text form.

Lengths are metres and angles radians once `undiscretize` was called; straight out of the model they are bins.
Positions of doors, windows and boxes are centres; a wall runs from a to b along its bottom edge; z points up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import ClassVar, TypeVar

ID_LIMIT = 1000  # the original keeps ids of doors, windows and boxes below this when it writes them


@dataclass(frozen=True, slots=True)
class Wall:
    """A wall's bottom edge from a to b, its height and its thickness."""

    label: ClassVar[str] = "wall"
    id: int
    ax: float
    ay: float
    az: float
    bx: float
    by: float
    bz: float
    height: float
    thickness: float

    @property
    def written_id(self) -> int:
        """The id in files: a wall keeps its own, since doors and windows refer to it."""
        return self.id


@dataclass(frozen=True, slots=True)
class Opening:
    """What a door and a window share: a rectangle in a wall, given by its centre."""

    label: ClassVar[str] = ""
    id: int
    wall_id: int
    position_x: float
    position_y: float
    position_z: float
    width: float
    height: float

    @property
    def written_id(self) -> int:
        """The id in files, below 1000."""
        return self.id % ID_LIMIT


@dataclass(frozen=True, slots=True)
class Door(Opening):
    """A door in a wall."""

    label: ClassVar[str] = "door"


@dataclass(frozen=True, slots=True)
class Window(Opening):
    """A window in a wall."""

    label: ClassVar[str] = "window"


@dataclass(frozen=True, slots=True)
class Bbox:
    """A piece of furniture: a box with a centre, turned about z, with full edge lengths (made positive)."""

    label: ClassVar[str] = "bbox"
    id: int
    class_name: str
    position_x: float
    position_y: float
    position_z: float
    angle_z: float
    scale_x: float
    scale_y: float
    scale_z: float

    def __post_init__(self) -> None:
        for name in ("scale_x", "scale_y", "scale_z"):
            object.__setattr__(self, name, abs(getattr(self, name)))

    @property
    def written_id(self) -> int:
        """The id in files, below 1000."""
        return self.id % ID_LIMIT


Entity = Wall | Door | Window | Bbox
AnyEntity = TypeVar("AnyEntity", Wall, Door, Window, Bbox)
KINDS: dict[str, type[Wall] | type[Door] | type[Window] | type[Bbox]] = {
    kind.label: kind for kind in (Wall, Door, Window, Bbox)
}
_NOT_NUMBERS = ("id", "wall_id", "class_name")


def number_names(kind: type[Entity] | Entity) -> tuple[str, ...]:
    """Names of the lengths and angles of an entity, in the order in which a line lists them."""
    return tuple(field.name for field in fields(kind) if field.name not in _NOT_NUMBERS)


@dataclass(frozen=True, slots=True)
class Issue:
    """A line that could not be used, and why. Lines count from 1."""

    line: int
    text: str
    reason: str


@dataclass(frozen=True, slots=True)
class Layout:
    """A room: its entities in the order in which they were read, and every line that could not be used."""

    walls: tuple[Wall, ...] = ()
    doors: tuple[Door, ...] = ()
    windows: tuple[Window, ...] = ()
    boxes: tuple[Bbox, ...] = ()
    issues: tuple[Issue, ...] = ()

    def entities(self) -> Iterator[Entity]:
        """All entities in the order of a file: walls, doors, windows, boxes."""
        yield from self.walls
        yield from self.doors
        yield from self.windows
        yield from self.boxes

    def __str__(self) -> str:
        return to_text(self)


def to_text(layout: Layout) -> str:
    """The layout in the original's language, one entity a line, without a newline at the end.

    Floats have the shortest form that reads back as the same number; integers (after `discretize`) stay integers.
    Ids of doors, windows and boxes are written modulo 1000; a wall keeps its own.
    """
    return "\n".join(_line(entity) for entity in layout.entities())


def _line(entity: Entity) -> str:
    first: list[str] = []
    if isinstance(entity, Opening):
        first = [f"wall_{entity.wall_id}"]
    elif isinstance(entity, Bbox):
        first = [entity.class_name]
    numbers = [str(getattr(entity, name)) for name in number_names(entity)]
    return f"{entity.label}_{entity.written_id}={entity.label.capitalize()}({','.join(first + numbers)})"
