"""Whether two devices make the same voxels, tables and hints of the same scans; what differs is counted."""

from __future__ import annotations

from dataclasses import replace
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from demo.training.batch import Batch, Maker, Question
from demo.training.hints import Hints
from demo.training.pack import UNIT
from demo.training.step import tensors_of

ON_EDGES = 2e-3  # share of what a rounding may decide: points on a voxel's border, voxels on an entity's edge


def compare_geometry(maker: Maker, other: Maker, rooms: int = 8) -> tuple[dict[str, int], list[str]]:
    """What two devices make of the same scans as they are: which voxels, and of rooms with the same voxels the rest."""
    questions = [Question(room=room, symmetry=room % 8) for room in range(min(rooms, len(other.store)))]
    pair = [replace(own, chance=None) for own in (maker, other)]
    one, two = (own.batch(questions) for own in pair)
    differ, voxels = unlike_voxels(one, two), len(two.features)
    facts = {"rooms": len(questions), "voxels": voxels, "voxels_differ": sum(differ)}
    if sum(differ) > ON_EDGES * voxels:
        return facts, [f"The voxels of a batch on the GPU are not the CPU's: {sum(differ):,} of {voxels:,} differ."]
    if not (alike := [question for question, count in zip(questions, differ, strict=True) if not count]):
        return facts, [f"In each of {len(questions)} rooms voxels differ, so nothing else can be compared: {facts}."]
    if len(alike) < len(questions):
        one, two = (own.batch(alike) for own in pair)
    said = (_unlike("geometry", _but_hints(one), _but_hints(two), 0), _unlike("hints", one.hints, two.hints, ON_EDGES))
    return facts, [sentence for sentence in said if sentence]


def unlike_voxels(one: Batch, two: Batch) -> list[int]:
    """Of each scene, how many voxels of either batch have no voxel of the same point in the other."""
    points = [_points_of(batch) for batch in (one, two)]
    return [max(len(own - other), len(other - own)) for own, other in zip(*points, strict=True)]


def _points_of(batch: Batch) -> list[set[tuple[int, ...]]]:
    """Of each scene the points that stand for its voxels, in UNITs."""
    units = (batch.features[:, :3].double().cpu() / UNIT).round().int()
    counts = torch.bincount(batch.geometry.stages[0].scene.cpu(), minlength=len(batch.lengths))
    return [set(map(tuple, part.tolist())) for part in units.split(counts.tolist())]


def _but_hints(batch: Batch) -> list[Any]:
    return [value for name in batch.__slots__ if not isinstance(value := getattr(batch, name), Hints)]


def _unlike(name: str, ours: Any, plain: Any, most: float) -> str:
    """A sentence where more than this share of a tensor differs."""
    own, other = list(tensors_of(ours)), list(tensors_of(plain))
    said = f"The {name} of a batch on the GPU is not the CPU's"
    if (shapes := [list(one.shape) for one in own]) != (wanted := [list(one.shape) for one in other]):
        got, want = next(pair for pair in zip_longest(shapes, wanted) if pair[0] != pair[1])
        return f"{said}: a tensor is {got}, the CPU's {want}."
    differ, numbers = unlike(own, other)
    return f"{said}: {differ:,} of a tensor's {numbers:,} numbers differ." if differ > most * numbers else ""


def unlike(ours: list[Tensor], plain: list[Tensor]) -> tuple[int, int]:
    """Of the tensor of which the largest share differs, how many numbers do, and how many it has: whole numbers that
    differ at all, others by more than 1e-4. Shapes must agree."""
    worst = (0, 1)
    for own, other in zip((tensor.cpu() for tensor in ours), plain, strict=True):
        same = torch.isclose(own, other, 1e-4, 1e-4) if own.is_floating_point() else own == other
        worst = max(worst, (int((~same).sum()), max(1, same.numel())), key=lambda pair: pair[0] / pair[1])
    return worst
