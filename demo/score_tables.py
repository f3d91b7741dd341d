"""Scores as tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from runtime.evaluation import Count

PLURALS = {"wall": "walls", "door": "doors", "window": "windows", "box": "boxes"}
NONE = "--"  # a kind that no room has is not scored


def room_table(rooms: Mapping[str, Mapping[str, Sequence[Count]]], name: str = "") -> str:
    """How much of each room was found at the first threshold, and how much else was claimed."""
    rows = [[room, *(_found(counts.get(kind)) for kind in PLURALS)] for room, counts in rooms.items()]
    return aligned([[f"Found, {name}" if name else "Found", *PLURALS.values()], *rows], left=len(PLURALS) + 1)


def score_table(facts: Mapping[str, Any], aims: Mapping[str, Sequence[float | None]]) -> str:
    """F1 by kind and threshold: a column for each prediction, how far they lie apart, and the aim."""
    scores, several = facts["scores"], len(facts["scores"]) > 1
    names = list(scores) if several else ["F1"]
    rooms = f"{facts['rooms']} room" + ("" if facts["rooms"] == 1 else "s")
    rows = [[rooms, "IoU", *names, *(["apart"] if several else []), "aim"]]
    for kind, plural in PLURALS.items():
        for place, threshold in enumerate(facts["thresholds"]):
            values = [_number(own[kind][place]) for own in scores.values()]
            apart = [f"{facts['apart_in_points'][kind][place]:.2f}"] if several else []
            rows.append([plural, f"{threshold:.2f}", *values, *apart, _number(aims[kind][place], "")])
    return "\n".join([aligned(rows, left=1), *(_comparison(facts) if several else [])])


def _comparison(facts: Mapping[str, Any]) -> list[str]:
    first, *others = facts["scores"]
    same = (f"{name} {facts['scores'][name]['same_layouts_as_first']}" for name in others)
    lines = [f"Rooms with the very layout of {first}: {', '.join(same)} of {facts['rooms']}."]
    verdict = f"Furthest apart: {facts['largest_apart_in_points']:.2f} points"
    if "within" in facts:
        verdict += f", {'within' if facts['is_within'] else 'MORE than'} {facts['within']:g}"
    return [*lines, verdict + "."]


def _found(counts: Sequence[Count] | None) -> str:
    """`5 of 6, 1 wrong`, at the first threshold."""
    if counts is None:
        return NONE
    count = counts[0]
    wrong = count.predicted - count.true_positives
    return f"{count.true_positives} of {count.truth}" + (f", {wrong} wrong" if wrong else "")


def _number(value: float | None, none: str = NONE) -> str:
    return none if value is None else f"{value:.3f}"


def aligned(rows: Sequence[Sequence[str]], *, left: int) -> str:
    """Columns under each other, the first `left` flush left, the others flush right; a line under the first row."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            f"{cell:<{width}}" if place < left else f"{cell:>{width}}"
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "-" * (sum(widths) + 2 * (len(widths) - 1)), *lines[1:]])
