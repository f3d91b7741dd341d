"""Counts of one scene, and means over scenes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from runtime.arrays import Array
from runtime.errors import SceneError
from runtime.evaluation.boxes import box_iou
from runtime.evaluation.categories import LAYOUT_CLASSES, OBJECT_CLASSES, boxes_by_class
from runtime.evaluation.issues import layout_issues
from runtime.evaluation.matching import true_positives
from runtime.evaluation.planes import plane_iou, rectangles
from runtime.layout import Layout

THRESHOLDS = (0.25, 0.5)
SIDES = ("prediction", "ground truth")
MAX_PAIRS = 1_000_000  # of one class in one scene: a thousand predictions against a thousand


@dataclass(frozen=True, slots=True)
class Count:
    """How many there are of one class, and how many of them found each other at one threshold."""

    predicted: int
    truth: int
    true_positives: int

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall, 0 where there is nothing to divide by."""
        precision = self.true_positives / self.predicted if self.predicted else 0.0
        recall = self.true_positives / self.truth if self.truth else 0.0
        return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


Counts = tuple[Count, ...]  # one for each of THRESHOLDS


@dataclass(frozen=True, slots=True)
class SceneScore:
    """One scene: the counts of every class that is there, on either side, and what could not be used."""

    scene: str
    counts: dict[str, Counts]
    issues: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ClassScore:
    """One class over all scenes."""

    name: str
    scenes: int  # in which the class is there, on either side
    f1: tuple[float | None, ...]  # mean of the F1 of those scenes, for each of THRESHOLDS; None where there is no scene
    totals: Counts  # over those scenes; nothing is computed from them


@dataclass(frozen=True, slots=True)
class Score:
    """All scenes, in the order of the metadata, and which rules they were scored by."""

    scenes: tuple[SceneScore, ...]
    strict_geometry: bool
    issues: tuple[str, ...] = ()  # scenes that are not among `scenes`, and why

    @property
    def layouts(self) -> list[ClassScore]:
        """Walls, doors and windows."""
        return [mean_score(name, self.scenes) for name in LAYOUT_CLASSES]

    @property
    def objects(self) -> list[ClassScore]:
        """The twenty classes of furniture."""
        return [mean_score(name, self.scenes) for name in OBJECT_CLASSES]


def mean_score(name: str, scenes: Iterable[SceneScore]) -> ClassScore:
    """Mean over the scenes that have the class, each with the same weight however many entities it has."""
    found = [scene.counts[name] for scene in scenes if name in scene.counts]
    columns = list(zip(*found, strict=True)) or [()] * len(THRESHOLDS)  # of counts, one for each threshold
    means = [float(np.mean([count.f1 for count in column])) if column else None for column in columns]
    return ClassScore(name, len(found), tuple(means), tuple(_total(column) for column in columns))


def _total(counts: Sequence[Count]) -> Count:
    return Count(
        sum(count.predicted for count in counts),
        sum(count.truth for count in counts),
        sum(count.true_positives for count in counts),
    )


def score_scene(
    scene: str, predicted: Layout, truth: Layout, mapping: Mapping[str, str], *, strict: bool = False
) -> SceneScore:
    """Counts of one scene. Raises SceneError where there are too many entities to compare."""
    sides = (predicted, truth)
    with np.errstate(all="ignore"):  # numbers that are not finite or too large overlap nothing
        planes, flat, usable = _plane_counts(scene, sides, strict=strict)
        boxes, unknown = _box_counts(scene, sides, mapping, OBJECT_CLASSES, strict=strict)
    issues = tuple(
        f"{name}: {issue}"
        for side, name in enumerate(SIDES)
        for issue in layout_issues(sides[side], usable[side], flat[side], unknown[side])
    )
    return SceneScore(scene, planes | boxes, issues)


def count_classes(scene: str, predicted: Layout, truth: Layout, *, strict: bool = False) -> dict[str, Counts]:
    """Counts of one scene by class as the layouts name it: walls, doors, windows, then boxes without any label mapping.

    A class that is on neither side is left out. Raises SceneError where there are too many entities to compare.
    """
    sides = (predicted, truth)
    names = sorted({box.class_name.replace("_", " ") for layout in sides for box in layout.boxes})
    mapping = {name: f"{name} (box)" if name in LAYOUT_CLASSES else name for name in names}
    with np.errstate(all="ignore"):
        boxes, _ = _box_counts(scene, sides, mapping, tuple(mapping.values()), strict=strict)
        return _plane_counts(scene, sides, strict=strict)[0] | boxes


def _plane_counts(
    scene: str, sides: tuple[Layout, Layout], *, strict: bool
) -> tuple[dict[str, Counts], tuple[list[str], list[str]], list[int]]:
    """Counts of walls, doors and windows; then for each side the names of flat ones, and how many were usable."""
    predicted, truth = (rectangles(layout) for layout in sides)
    counts: dict[str, Counts] = {}
    flat: tuple[list[str], list[str]] = ([], [])
    for name in LAYOUT_CLASSES:
        _check_pairs(scene, name, len(predicted[name]), len(truth[name]))
        iou, names = plane_iou(predicted[name], truth[name], strict=strict)
        counts |= _counts(name, iou)
        for side in (0, 1):
            flat[side].extend(names[side])
    return counts, flat, [sum(map(len, found.values())) for found in (predicted, truth)]


def _box_counts(
    scene: str, sides: tuple[Layout, Layout], mapping: Mapping[str, str], classes: Sequence[str], *, strict: bool
) -> tuple[dict[str, Counts], tuple[list[str], list[str]]]:
    """Counts of furniture of these classes; then for each side the classes that the mapping does not name."""
    (predicted, one), (truth, other) = (boxes_by_class(layout.boxes, mapping, classes) for layout in sides)
    counts: dict[str, Counts] = {}
    for name in classes:
        found, wanted = predicted.get(name, []), truth.get(name, [])
        _check_pairs(scene, name, len(found), len(wanted))
        counts |= _counts(name, box_iou(found, wanted, strict=strict))
    return counts, (one, other)


def _counts(name: str, iou: Array) -> dict[str, Counts]:
    """Counts of a class from its IoUs [P, G]; none where it is on neither side: the scene says nothing about it."""
    predicted, truth = iou.shape
    if not (predicted or truth):
        return {}
    return {name: tuple(Count(predicted, truth, true_positives(iou, threshold)) for threshold in THRESHOLDS)}


def _check_pairs(scene: str, name: str, predicted: int, truth: int) -> None:
    if predicted * truth > MAX_PAIRS:
        raise SceneError(
            f"Scene {scene!r} has {predicted} predictions of class {name!r} and {truth} in the ground truth, but at "
            f"most {MAX_PAIRS} pairs were expected. Check that these are layouts of a room, or take it out of the "
            "metadata."
        )
