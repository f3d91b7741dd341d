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
from demo.training.hints import Hints, find_hints
from demo.training.language import Tables, normalized, rotary_tables
from demo.training.pack import SYMMETRIES, UNIT
from demo.training.prompts import DROPPED, Prompts
from demo.training.store import RoomStore
from runtime.manifest import EncoderSpec, PositionSpec

JITTER = 0.003  # metres
TINT = 0.06  # of a colour's value: brightness and each channel, once a scene
THINNED = 0.7  # a scan keeps at least this share of the points that it may keep


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One room to look at: its number in the store, a symmetry, and what is asked ("all", "arch", "object")."""

    room: int
    symmetry: int = 0
    kind: str = "all"


@dataclass(frozen=True, slots=True)
class Answers:
    """T tokens that the model has to say, of all sequences: what they are, what stands before each, and where that
    stands in the flattened B * S; a weight of 0 leaves a token out."""

    before: Tensor  # [T]
    previous: Tensor  # [T]
    target: Tensor  # [T]
    weight: Tensor  # [T] float32


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences [B, S] of prompt, point tokens and answer, filled up on the right; the scenes of their point tokens."""

    features: Tensor  # [N0, 6]
    geometry: Geometry
    input_ids: Tensor  # [B, S]
    place: Tensor  # [P], where each point token stands in the flattened B * S
    lengths: Tensor  # [B]
    tables: Tables
    answers: Answers
    hints: Hints


@dataclass(frozen=True, slots=True)
class Maker:
    """Makes batches of a store's rooms. With `chance` scans are varied and thinned to about `points` points a scene,
    without they are what they are."""

    store: RoomStore
    prompts: Prompts
    encoder: EncoderSpec
    position: PositionSpec
    chance: torch.Generator | None = None
    points: int | None = None

    def batch(self, questions: Sequence[Question], *, answers: bool = True) -> Batch:
        """Rooms as one batch; without `answers` sequences end where the answer begins."""
        features, shape = self._voxels(questions)
        sequences = _Sequences(self.prompts.point_token)
        for question, count in zip(questions, shape.counts.tolist(), strict=True):
            before, after = self.prompts.halves(question.kind)
            layout = self.store.answers[question.room][question.symmetry]
            sequences.add(before, count, after, self.prompts.answer(layout, question.kind) if answers else [])
        input_ids, place, lengths, said = sequences.padded(features.device)
        coords = normalized(shape.last.coords, shape.last.scene, len(questions))
        tables = _tables(input_ids, place, coords, self.position)
        entities = self.store.entities_of([(question.room, question.symmetry) for question in questions])
        return Batch(features, shape, input_ids, place, lengths, tables, said, find_hints(shape, entities))

    def _voxels(self, questions: Sequence[Question]) -> tuple[Tensor, Geometry]:
        """Features [N0, 6] and geometry of all scenes."""
        rooms = [question.room for question in questions]
        points, colors, scene = self.store.take(rooms)
        extent = self.store.extents[torch.tensor(rooms, device=points.device)]  # [B, 3]
        points = turned(points, scene, extent, [question.symmetry for question in questions]).double() * UNIT
        color = colors.float()
        if self.chance is not None:
            keep = _kept(scene, len(rooms), self.points, self.chance)
            points, color, scene = points[keep], color[keep], scene[keep]
            points, color = _varied(points, color, scene, len(rooms), self.chance)
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


def _kept(scene: Tensor, scenes: int, points: int | None, chance: torch.Generator) -> Tensor:
    """Which points stay [N] bool: a share of each scene, at most what leaves about `points`."""
    share = torch.empty(scenes, device=scene.device).uniform_(THINNED, 1, generator=chance)
    if points is not None:
        share = share * (points / torch.bincount(scene, minlength=scenes)).clamp(max=1)
    return torch.empty(len(scene), device=scene.device).uniform_(generator=chance) < share[scene]


def _varied(
    points: Tensor, color: Tensor, scene: Tensor, scenes: int, chance: torch.Generator
) -> tuple[Tensor, Tensor]:
    """With noise, in another light. Points are clipped at the corner, from which the answer counts."""
    noise = torch.randn(points.shape, device=points.device, generator=chance) * JITTER
    tints = torch.empty(scenes, 4, device=points.device).uniform_(-TINT, TINT, generator=chance)
    tint = 1 + tints[:, :3] + tints[:, 3:]
    return (points + noise).clamp_(min=0), (color * tint[scene]).clamp_(0, 255)


def _tables(input_ids: Tensor, place: Tensor, coords: Tensor, position: PositionSpec) -> Tables:
    batch, length = input_ids.shape
    at_point = torch.zeros(batch * length, dtype=torch.bool, device=place.device).index_fill_(0, place, True)
    spread = coords.new_zeros(batch * length, 3).index_copy_(0, place, coords)
    positions = torch.arange(length, device=place.device)
    return rotary_tables(positions, spread.view(batch, length, 3), at_point.view(batch, length), position)


class _Sequences:
    """Collects sequences on the host and sends them to the device at once."""

    def __init__(self, point_token: int) -> None:
        self._point_token = point_token
        self._ids: list[Tensor] = []
        self._spans: list[tuple[int, int, int]] = []  # first point, end of points, first token of the answer

    def add(self, before: list[int], points: int, after: list[int], answer: list[int]) -> None:
        ids = [*before, *[self._point_token] * points, *after, *answer]
        self._ids.append(torch.tensor(ids))
        self._spans.append((len(before), len(before) + points, len(ids) - len(answer)))

    def padded(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Answers]:
        """input_ids [B, S], place [P], lengths [B] and the answers."""
        lengths = torch.tensor([len(ids) for ids in self._ids])
        ids = pad_sequence(self._ids, batch_first=True, padding_value=DROPPED)
        column, span = torch.arange(ids.shape[1])[None], torch.tensor(self._spans)
        at_point = (column >= span[:, :1]) & (column < span[:, 1:2])
        said = ((column >= span[:, 2:]) & (column < lengths[:, None])).flatten().nonzero()[:, 0]
        flat = ids.flatten()
        answers = Answers(said - 1, flat[said - 1], flat[said], torch.ones(len(said)))
        place = at_point.flatten().nonzero()[:, 0]
        moved = Answers(*(getattr(answers, name).to(device) for name in ("before", "previous", "target", "weight")))
        return ids.to(device), place.to(device), lengths.to(device), moved
