"""Batches of one size: filled up to fixed numbers of voxels, patches, positions and tokens.

With fixed shapes a whole training step is one CUDA graph. A step launches some 3,000 kernels, which take longer to
launch than to run; replayed as a graph they cost what they compute. What is filled up changes no result: nothing
real looks at it, and it has no weight in the loss.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from demo.training.batch import Answers, Batch
from demo.training.geometry import Geometry, Patches, Stage, other_places
from demo.training.hints import STAGE, Hints
from demo.training.language import Tables
from demo.training.prompts import DROPPED
from runtime.manifest import EncoderSpec

SPARE = 1.08  # room above the largest batch that was seen
ROUND = 64


@dataclass(frozen=True, slots=True)
class Caps:
    """The largest batch: voxels of each stage; rows of an attention patch and patches of each stage; positions of a
    sequence, tokens of all answers, scenes. In the patches a batch leaves enough places free for the voxels that it is
    filled up with."""

    voxels: tuple[int, ...]
    widths: tuple[int, ...]
    patches: tuple[int, ...]
    positions: int
    answers: int
    scenes: int


def find_caps(batches: Iterable[Batch], spec: EncoderSpec) -> Caps:
    """Caps with some room above these batches."""
    seen = [_sizes(batch) for batch in batches]
    most = [max(column) for column in zip(*seen, strict=True)]
    stages = spec.stages
    voxels = tuple(map(_roomy, most[:stages]))
    widths = tuple(min(_roomy(width), size) for width, size in zip(most[stages:], spec.patch_sizes, strict=False))
    positions, answers, scenes = most[-3:]
    return Caps(
        voxels=voxels,
        widths=widths,
        patches=tuple(map(partial(_enough, scenes), most[2 * stages : 3 * stages], voxels, widths)),
        positions=_roomy(positions),
        answers=_roomy(answers),
        scenes=scenes,
    )


def _sizes(batch: Batch) -> list[int]:
    stages = batch.geometry.stages
    orders = [next(iter(stage.patches.values())).order for stage in stages]
    counts = [len(stage.neighbours) for stage in stages]
    rows = [order.shape[1] for order in orders]
    scenes, length = batch.input_ids.shape
    return [*counts, *rows, *map(len, orders), length, len(batch.answers.target), scenes]


def _enough(scenes: int, seen: int, voxels: int, width: int) -> int:
    """Patches with places for all voxels, and for what each scene's last patch borrows, which is less than a patch."""
    return max(_roomy(seen), math.ceil(voxels / width) + scenes)


def _roomy(count: int) -> int:
    return math.ceil(count * SPARE / ROUND) * ROUND


def fits(batch: Batch, caps: Caps) -> bool:
    """Whether a batch is no larger than the caps."""
    most = [*caps.voxels, *caps.widths, *caps.patches, caps.positions, caps.answers, caps.scenes]
    return all(size <= cap for size, cap in zip(_sizes(batch), most, strict=True))


def fill_up(batch: Batch, caps: Caps) -> Batch:
    """The same batch in the caps' shapes. It must fit."""
    scenes, length = batch.input_ids.shape
    stages = [_stage(stage, number, caps) for number, stage in enumerate(batch.geometry.stages)]
    encoding = _rows(batch.geometry.encoding, caps.voxels[-1], 0)
    return Batch(
        features=_rows(batch.features, caps.voxels[0], 0),
        geometry=Geometry(stages, encoding, batch.geometry.counts),
        input_ids=_columns(batch.input_ids, caps.positions, DROPPED),
        place=_rows(_restrided(batch.place, length, caps.positions), caps.voxels[-1], scenes * caps.positions),
        lengths=batch.lengths,
        tables=Tables(*(_columns(table, caps.positions, 0) for table in (batch.tables.cos, batch.tables.sin))),
        answers=_answers(batch.answers, length, caps),
        hints=_hints(batch.hints, caps),
    )


def _stage(stage: Stage, number: int, caps: Caps) -> Stage:
    cap, nowhere = caps.voxels[number], len(stage.neighbours)
    neighbours = torch.where(stage.neighbours == nowhere, cap, stage.neighbours)
    children = None if stage.children is None else _rows(stage.children, caps.voxels[number + 1], cap)
    nothing = stage.coords.new_zeros(0)
    return Stage(
        coords=nothing,
        scene=nothing,
        neighbours=_columns(neighbours.t(), cap, cap).t(),  # the rows of an offset stay side by side
        patches={slot: _patches(one, number, caps) for slot, one in stage.patches.items()},
        children=children,
    )


def _patches(patches: Patches, number: int, caps: Caps) -> Patches:
    """Voxels that are filled up with get places of their own among the free ones, as every voxel has one: gradients
    are looked up there."""
    (count, width), rows = patches.order.shape, len(patches.inverse)
    valid = torch.ones_like(patches.order, dtype=torch.bool) if patches.valid is None else patches.valid
    valid = _rows(_columns(valid, caps.widths[number], False), caps.patches[number], False)
    order = _rows(_columns(patches.order, caps.widths[number], 0), caps.patches[number], 0)
    free = (~valid).flatten().nonzero()[:, 0]
    order.view(-1)[free] = (rows + torch.arange(len(free), device=free.device)) % caps.voxels[number]
    inverse = torch.cat([_restrided(patches.inverse, width, caps.widths[number]), free[: caps.voxels[number] - rows]])
    valid[count:, 0] = True  # a patch that is none looks at one row, for a softmax over nothing is no number
    return Patches(order, valid, inverse, other_places(inverse, order.numel()))


def _answers(answers: Answers, length: int, caps: Caps) -> Answers:
    moved = replace(answers, before=_restrided(answers.before, length, caps.positions))
    fields = (moved.before, moved.previous, moved.target, moved.weight)
    return Answers(*(_rows(field, caps.answers, 0) for field in fields))


def _hints(hints: Hints, caps: Caps) -> Hints:
    voxels, tokens = caps.voxels[STAGE], caps.voxels[-1]
    return Hints(
        kind=_rows(hints.kind, voxels, -1),
        aim=_rows(hints.aim, voxels, 0),
        seen=_rows(hints.seen, tokens, 0),
        aims=_rows(hints.aims, tokens, 0),
        real=_rows(hints.real, tokens, 0),
    )


def _restrided(flat: Tensor, width: int, wider: int) -> Tensor:
    """Places in a flattened table of `width` columns, in one of `wider`."""
    return flat // width * wider + flat % width


def _rows(tensor: Tensor, count: int, value: float) -> Tensor:
    """More rows."""
    more = tensor.new_full((count - len(tensor), *tensor.shape[1:]), value)
    return torch.cat([tensor, more])


def _columns(tensor: Tensor, count: int, value: float) -> Tensor:
    """A longer second axis."""
    more = tensor.new_full((len(tensor), count - tensor.shape[1], *tensor.shape[2:]), value)
    return torch.cat([tensor, more], dim=1)
