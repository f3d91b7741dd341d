"""Text to layout: as tolerant as the original's parser, but it tells what it could not use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runtime.layout.entities import KINDS, Bbox, Door, Entity, Issue, Layout, Wall, Window, number_names


class _UnusableError(Exception):
    """One line cannot be used; the text is the reason."""


def parse_layout(text: str) -> Layout:
    """Read a layout, line by line; a line that cannot be used becomes an Issue and costs no other line.

    What a line needs, as in the original: a known name and an integer id before the first `=`, then, between the
    first `(` and the first `)`, at least as many values as the entity has fields. The word before `(` is not looked
    at, values beyond the last field are ignored, equal ids are kept, and the numbers are whatever `float` takes.
    A door or a window needs its wall on an earlier line. Where `)` is missing the line loses its last character and
    is used all the same. Numbers come back as floats, in the text's own unit. A blank line is no issue.
    """
    found: list[Entity] = []
    issues: list[Issue] = []
    wall_ids: set[int] = set()
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            entity = _entity_from_line(line, wall_ids)
        except _UnusableError as error:
            issues.append(Issue(number, line, str(error)))
            continue
        found.append(entity)
        if isinstance(entity, Wall):
            wall_ids.add(entity.id)
    return Layout(
        walls=tuple(entity for entity in found if isinstance(entity, Wall)),
        doors=tuple(entity for entity in found if isinstance(entity, Door)),
        windows=tuple(entity for entity in found if isinstance(entity, Window)),
        boxes=tuple(entity for entity in found if isinstance(entity, Bbox)),
        issues=tuple(issues),
    )


def _entity_from_line(line: str, wall_ids: set[int]) -> Entity:
    label = line.split("=", maxsplit=1)[0]
    name = label.split("_", maxsplit=1)[0]
    kind = KINDS.get(name)
    if kind is None:
        raise _UnusableError(f"{name!r:.40} is no known entity: one of {', '.join(KINDS)} was expected")
    entity_id = _id_after_underscore(label, f"the label {label!r:.40}", name)
    # Both searches may fail and give -1: then the slice starts at the line's begin or drops its last character.
    values = line[line.find("(") + 1 : line.find(")")].split(",")
    if kind is Wall:
        return Wall(id=entity_id, **_numbers(Wall, values))
    if kind is Bbox:
        return Bbox(id=entity_id, class_name=values[0], **_numbers(Bbox, values[1:]))
    wall_id = _id_after_underscore(values[0], f"the first value {values[0]!r:.40}", "wall")
    if wall_id not in wall_ids:
        raise _UnusableError(f"wall_{wall_id} does not stand on an earlier line")
    return kind(id=entity_id, wall_id=wall_id, **_numbers(kind, values[1:]))  # type: ignore[call-arg]


def _id_after_underscore(text: str, what: str, name: str) -> int:
    """The integer of the second part of `text`, which `_` separates; the first part is not looked at."""
    parts = text.split("_")
    try:
        return int(parts[1])
    except (IndexError, ValueError):
        raise _UnusableError(f"{what} has no integer id: {name}_<id> was expected") from None


def _numbers(kind: type[Entity], values: Sequence[str]) -> dict[str, Any]:
    names = number_names(kind)
    if len(values) < len(names):
        raise _UnusableError(f"{len(values)} numbers, but {kind.__name__} needs {len(names)}: {', '.join(names)}")
    return {name: _number(name, value) for name, value in zip(names, values, strict=False)}


def _number(name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise _UnusableError(f"{name} is {value!r:.40}, but a number was expected") from None
