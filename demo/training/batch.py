"""From packed rooms to what one training step needs, on the training device.

Each room is turned and mirrored at random, thinned, jittered and recoloured, then voxelized as at inference; the
answer is the one that was written for that turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from demo.training.geometry import Geometry, geometry, voxelize
from demo.training.language import Tables, normalized, rotary_tables
from demo.training.pack import SYMMETRIES, UNIT
from demo.training.prompts import DROPPED, Prompts
from demo.training.store import RoomStore
from runtime.manifest import EncoderSpec, PositionSpec

THINNED = (0.6, 1.0)  # share of a scan's points that are kept
JITTER = 0.003  # metres
TINT = 0.06  # of a colour's value: brightness and each channel, once a scene


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One room to look at: its number in the store, a symmetry, and what is asked ("all", "arch", "object")."""

    room: int
    symmetry: int = 0
    kind: str = "all"


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences [B, S] of prompt, point tokens and answer, filled up on the right."""

    features: Tensor  # [N0, 6]
    geometry: Geometry
    input_ids: Tensor  # [B, S]
    at_point: Tensor  # [B, S] bool
    answer: Tensor  # [B, S] bool: tokens that the model has to say
    lengths: Tensor  # [B]
    tables: Tables


@dataclass(frozen=True, slots=True)
class Maker:
    """Makes batches of a store's rooms. With `chance` scans are varied, without they are what they are."""

    store: RoomStore
    prompts: Prompts
    encoder: EncoderSpec
    position: PositionSpec
    chance: torch.Generator | None = None

    def batch(self, questions: Sequence[Question], *, answers: bool = True) -> Batch:
        """Rooms as one batch; without `answers` sequences end where the answer begins."""
        features, shape = self._voxels(questions)
        sequences = _Sequences()
        for question, count in zip(questions, shape.counts.tolist(), strict=True):
            before, after = self.prompts.halves(question.kind)
            layout = self.store.answers[question.room][question.symmetry]
            sequences.add(before, count, after, self.prompts.answer(layout, question.kind) if answers else [])
        input_ids, at_point, answer, lengths = sequences.padded(self.prompts.point_token, features.device)
        coords = torch.zeros(*at_point.shape, 3, device=features.device)
        coords = coords.masked_scatter(at_point[..., None], normalized(shape.coords, shape.scene, len(questions)))
        positions = torch.arange(at_point.shape[1], device=features.device)
        tables = rotary_tables(positions, coords, at_point, self.position)
        return Batch(features, shape, input_ids, at_point, answer, lengths, tables)

    def _voxels(self, questions: Sequence[Question]) -> tuple[Tensor, Geometry]:
        """Features [N0, 6] and geometry of all scenes."""
        rooms = [question.room for question in questions]
        points, colors, scene = self.store.take(rooms)
        extent = self.store.extents[torch.tensor(rooms, device=points.device)]  # [B, 3]
        points = turned(points, scene, extent, [question.symmetry for question in questions]).double() * UNIT
        color = colors.float()
        if self.chance is not None:
            points, color, scene = _varied(points, color, scene, len(rooms), self.chance)
        rows, grid = voxelize(points, scene, self.encoder.num_bins)
        coords, scene = points[rows].float(), scene[rows]
        features = torch.cat([coords, color[rows] / 127.5 - 1], dim=1)
        return features, geometry(grid, coords, scene, len(rooms), self.encoder)


def turned(points: Tensor, scene: Tensor, extent: Tensor, symmetries: Sequence[int]) -> Tensor:
    """Points [N, 3], whose scenes' smallest corners are 0, mirrored and turned about z, again from those corners.

    extent: largest coordinates of each scene [B, 3]; symmetries: one of `pack.SYMMETRIES` for each scene, by number.
    """
    quarters, mirrored = torch.tensor([SYMMETRIES[s] for s in symmetries], device=points.device).int().unbind(1)
    x, y, z = points.unbind(1)
    wide, deep = extent[scene, 0], extent[scene, 1]
    x = torch.where(mirrored[scene] > 0, wide - x, x)
    for turn in range(1, 4):
        now = quarters[scene] >= turn
        x, y = torch.where(now, deep - y, x), torch.where(now, x, y)
        wide, deep = torch.where(now, deep, wide), torch.where(now, wide, deep)
    return torch.stack([x, y, z], dim=1)


def _varied(
    points: Tensor, color: Tensor, scene: Tensor, scenes: int, chance: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Thinner, with noise, in another light. Points are clipped at the corner, from which the answer counts."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.empty(shape, device=points.device).uniform_(low, high, generator=chance)

    keep = uniform(0, 1, len(points)) < uniform(*THINNED, scenes)[scene]
    points, color, scene = points[keep], color[keep], scene[keep]
    noise = torch.randn(points.shape, device=points.device, generator=chance) * JITTER
    tint = 1 + uniform(-TINT, TINT, scenes, 3) + uniform(-TINT, TINT, scenes, 1)
    return (points + noise).clamp_(min=0), (color * tint[scene]).clamp_(0, 255), scene


class _Sequences:
    """Collects sequences on the host and sends them to the device at once."""

    def __init__(self) -> None:
        self._ids: list[Tensor] = []
        self._spans: list[tuple[int, int, int]] = []  # first point, end of points, first token of the answer

    def add(self, before: list[int], points: int, after: list[int], answer: list[int]) -> None:
        ids = [*before, *[-1] * points, *after, *answer]
        self._ids.append(torch.tensor(ids))
        self._spans.append((len(before), len(before) + points, len(ids) - len(answer)))

    def padded(self, point_token: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """input_ids, at_point, answer [B, S] and lengths [B]."""
        lengths = torch.tensor([len(ids) for ids in self._ids])
        ids = pad_sequence(self._ids, batch_first=True, padding_value=DROPPED)
        column, span = torch.arange(ids.shape[1])[None], torch.tensor(self._spans)
        answer = (column >= span[:, 2:]) & (column < lengths[:, None])
        at_point = ids < 0
        ids = ids.masked_fill(at_point, point_token)
        return ids.to(device), at_point.to(device), answer.to(device), lengths.to(device)
