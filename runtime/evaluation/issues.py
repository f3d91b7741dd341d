"""What of a layout could not be scored, a sentence each."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator

from runtime.layout import Layout
from runtime.layout.entities import number_names

SHOWN = 200  # characters of a list


def layout_issues(layout: Layout, usable: int, flat: Iterable[str], unknown: Iterable[str]) -> Iterator[str]:
    """Sentences on one side of a scene.

    `usable` is how many walls, doors and windows entered the score, `flat` are the names of those that overlap nothing
    because they have no area, and `unknown` the classes of boxes to which the label mapping gives no scored class.
    """
    if layout.issues:
        first = layout.issues[0]
        yield f"lines that could not be used: {len(layout.issues)}; line {first.line}: {first.reason}"
    if names := _not_finite(layout):
        yield f"with a number that is not finite: {_listed(names)}"
    if left_out := len(layout.walls) + len(layout.doors) + len(layout.windows) - usable:
        yield f"walls without extent in x and y, and what hangs in them, left out: {left_out}"
    if names := list(dict.fromkeys(flat)):
        yield f"no area, so it overlaps nothing: {_listed(names)}"
    if counts := Counter(unknown):
        listed = [f"{name} ({number})" for name, number in counts.most_common()]
        yield f"boxes left out, since the mapping gives them no scored class: {_listed(listed)}"


def _not_finite(layout: Layout) -> list[str]:
    return [
        f"{entity.label}_{entity.id}"
        for entity in layout.entities()
        if not all(math.isfinite(getattr(entity, name)) for name in number_names(entity))
    ]


def _listed(names: Iterable[str]) -> str:
    text = ", ".join(names)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} ..."
