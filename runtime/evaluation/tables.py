"""A score as two tables for people, and as one JSON object."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from runtime.evaluation.score import THRESHOLDS, ClassScore, Counts, Score

NONE = "--"  # a class that is in no scene has no F1
_COLUMNS = tuple(f"F1 @.{round(threshold * 100):02d} IoU" for threshold in THRESHOLDS)


def to_text(score: Score) -> str:
    """Two tables: layouts and objects, F1 at each threshold and the number of scenes that have the class."""
    return f"{_table('Layouts', score.layouts)}\n\n{_table('Objects', score.objects)}"


def _table(title: str, classes: Iterable[ClassScore]) -> str:
    scores = ((it.name, *(NONE if f1 is None else f"{f1:.4f}" for f1 in it.f1), str(it.scenes)) for it in classes)
    rows = [(title, *_COLUMNS, "scenes"), *scores]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    line = "+".join(["", *("-" * (width + 2) for width in widths), ""])
    return "\n".join([line, _row(rows[0], widths), line, *(_row(row, widths) for row in rows[1:]), line])


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "|".join(["", *(f" {cell:<{width}} " for cell, width in zip(cells, widths, strict=True)), ""])


def to_json(score: Score) -> dict[str, Any]:
    """Plain JSON values. Where a number depends on the threshold it is a list in the order of `thresholds`."""
    return {
        "thresholds": list(THRESHOLDS),
        "strict_geometry": score.strict_geometry,
        "layouts": {it.name: _class_record(it) for it in score.layouts},
        "objects": {it.name: _class_record(it) for it in score.objects},
        "scenes": [
            {
                "id": scene.scene,
                "classes": {
                    name: {"f1": [count.f1 for count in counts], **_numbers(counts)}
                    for name, counts in scene.counts.items()
                },
                "issues": list(scene.issues),
            }
            for scene in score.scenes
        ],
        "issues": list(score.issues),
    }


def _class_record(score: ClassScore) -> dict[str, Any]:
    return {"f1": list(score.f1), "scenes": score.scenes, **_numbers(score.totals)}


def _numbers(counts: Counts) -> dict[str, Any]:
    return {
        "predicted": counts[0].predicted,
        "truth": counts[0].truth,
        "true_positives": [count.true_positives for count in counts],
    }
