"""What a picture says in words: counts, scores, and what it leaves out."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from runtime.errors import SceneError
from runtime.evaluation import LAYOUT_CLASSES, Count, count_classes
from runtime.layout import Layout
from runtime.pictures.labels import clean
from runtime.pictures.libraries import scores_are_possible

NO_SHAPELY = "Scores need shapely. Install it: pip install '.[eval]'"
WIDEST = 160  # characters of a line under the title
MOST_LINES = 3


def score_lines(predicted: Layout, truth: Layout) -> list[str]:
    """F1 at IoU 0.25 and 0.50 by class, and over all boxes; or why there is none.

    Distances and heights are measured as they are, as by `runtime.evaluate --strict_geometry`.
    """
    if not scores_are_possible():
        return [NO_SHAPELY]
    try:
        found = count_classes("this", predicted, truth, strict=True)
    except SceneError as error:
        return [str(error)]
    planes = [_entry(name, found[name]) for name in LAYOUT_CLASSES if name in found]
    boxes = {name: count for name, count in found.items() if name not in LAYOUT_CLASSES}
    if boxes:
        planes.append(_entry("all boxes", tuple(_sum(column) for column in zip(*boxes.values(), strict=True))))
    lines = _wrapped("F1 at IoU 0.25 / 0.50:   ", planes)
    return lines + _wrapped("", [_entry(clean(name), count) for name, count in boxes.items()])


def _sum(column: Iterable[Count]) -> Count:
    column = list(column)
    return Count(
        sum(count.predicted for count in column),
        sum(count.truth for count in column),
        sum(count.true_positives for count in column),
    )


def _entry(name: str, found: tuple[Count, ...]) -> str:
    return f"{name} {' / '.join(f'{count.f1:.2f}' for count in found)}"


def _wrapped(first: str, entries: list[str]) -> list[str]:
    lines, line = [], first
    for number, entry in enumerate(entries):
        if len(line) + len(entry) > WIDEST:
            lines.append(line)
            line = ""
            if len(lines) == MOST_LINES:
                return [*lines[:-1], f"{lines[-1]}   … and {len(entries) - number} more"]
        line += ("   ·   " if line and line != first else "") + entry
    return [*lines, line] if entries else []


def notes(side: str, layout: Layout, left_out: int, beyond: int, nameless: int) -> list[str]:
    """What one layout's panels do not show, a sentence each; `side` begins them."""
    found = [
        (len(layout.issues), "line of the text could not be used", "lines of the text could not be used"),
        (left_out, "entity has no usable numbers and is left out", "entities have no usable numbers and are left out"),
        (beyond, "entity reaches out of the picture", "entities reach out of the picture"),
        (nameless, "name found no room", "names found no room"),
    ]
    lead = f"{side}: " if side else ""
    return [f"{lead}{number} {one if number == 1 else many}." for number, one, many in found if number]


def paragraph(sentences: Sequence[str]) -> list[str]:
    """Sentences in at most two lines, for the foot of the picture."""
    lines = textwrap.wrap("  ".join(sentences), 165)
    return lines if len(lines) <= 2 else [lines[0], f"{lines[1][:160]} …"]
