"""Greedy answers to rooms, and how well they fit: the figures that the demo is measured by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from demo.training.batch import Maker, Question
from demo.training.language import generate
from demo.training.model import DemoModel
from demo.training.pack import layout_of
from runtime.evaluation import THRESHOLDS, Score, score_scene
from runtime.evaluation.boxes import box_iou
from runtime.evaluation.matching import true_positives
from runtime.layout import Layout

LIMIT = 640  # tokens of an answer; the longest of ten thousand rooms has fewer


@torch.no_grad()
def answers(model: DemoModel, maker: Maker, rooms: Sequence[int], size: int = 50, limit: int = LIMIT) -> list[str]:
    """Greedy texts of some rooms, as scans are."""
    texts: list[str] = []
    for first in range(0, len(rooms), size):
        batch = maker.batch([Question(room=room) for room in rooms[first : first + size]], answers=False)
        embeds = model.embeds(batch)
        stop = [maker.prompts.stop]
        said = generate(model.language_model, embeds, batch.lengths, batch.tables, maker.position.text, stop, limit)
        texts += [maker.prompts.decode([token for token in answer if token not in stop]) for answer in said]
    return texts


def score_rooms(model: DemoModel, maker: Maker, rooms: Sequence[int]) -> dict[str, Any]:
    """F1 of greedy answers against the ground truth, both in bins turned to metres."""
    texts = answers(model, maker, rooms)
    truths = [maker.prompts.decode(maker.store.answers[room][0]) for room in rooms]
    pairs = [(layout_of(text), layout_of(truth)) for text, truth in zip(texts, truths, strict=True)]
    return summary(pairs)


@dataclass(slots=True)
class Counts:
    """Boxes of all scenes together; one of another class is a miss."""

    predicted: int = 0
    truth: int = 0
    found: int = 0

    @property
    def f1(self) -> float:
        total = self.predicted + self.truth
        return 2 * self.found / total if total else 0.0


def summary(pairs: Sequence[tuple[Layout, Layout]]) -> dict[str, Any]:
    """F1 of (prediction, truth) of each room at each of THRESHOLDS.

    Walls, doors and windows: means over the scenes that have them, rectangles' overlap; boxes: class by class, pooled
    over classes and scenes, overlap in 3D. Geometry as it is, without the original evaluation's two quirks.
    """
    scenes = tuple(score_scene(str(i), *pair, {}, strict=True) for i, pair in enumerate(_without_boxes(pairs)))
    means = {item.name: [_rounded(f1) for f1 in item.f1] for item in Score(scenes, strict_geometry=True).layouts}
    boxes = [_rounded(pooled_boxes(pairs, threshold).f1) for threshold in THRESHOLDS]
    return {"scenes": len(pairs), **means, "box": boxes}


def pooled_boxes(pairs: Iterable[tuple[Layout, Layout]], threshold: float) -> Counts:
    """Boxes that found each other at a threshold of their overlap in 3D."""
    total = Counts()
    for predicted, truth in pairs:
        for name in {box.class_name for box in (*predicted.boxes, *truth.boxes)}:
            said, wanted = ([box for box in side.boxes if box.class_name == name] for side in (predicted, truth))
            total.predicted += len(said)
            total.truth += len(wanted)
            total.found += true_positives(box_iou(said, wanted, strict=True), threshold)
    return total


def _without_boxes(pairs: Iterable[tuple[Layout, Layout]]) -> Iterable[tuple[Layout, Layout]]:
    for predicted, truth in pairs:
        yield replace(predicted, boxes=()), replace(truth, boxes=())


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
