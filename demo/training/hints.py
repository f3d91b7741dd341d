"""What voxels and point tokens see, from the ground truth: targets that teach the encoder long before answers do.

An answer says where a bed is only once the language model asks for it; until the encoder tells beds from floors there
is nothing to ask for, and a first model learnt walls and guessed the rest. So small heads, which no checkpoint keeps,
read off voxels of the middle stage which entity they belong to, and off point tokens which entities reach into their
cells and where those stand.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, smooth_l1_loss

from demo.training import entities as table
from demo.training.entities import FIELDS
from demo.training.geometry import Geometry

STAGE = 2  # voxels of 20 cm
NEAR = 0.08  # metres around an entity that still belong to it
AIM = 8  # offset of the centre (3), logarithms of the sizes (3), cosine and sine
KINDS = len(table.KINDS)
BACKGROUND = 0.2  # weight of voxels that belong to nothing: most do
AIMS = 3.0  # weight of where things stand and how large they are: what an answer has to say, and slower to learn


@dataclass(frozen=True, slots=True)
class Hints:
    """Targets. K kinds of entities; N voxels of STAGE, P point tokens."""

    kind: Tensor  # [N] int64: 0 for nothing, 1 .. K, -1 for a row that is none
    aim: Tensor  # [N, AIM]
    seen: Tensor  # [P, K] float32: 1 where an entity of the kind reaches into the cell
    aims: Tensor  # [P, K, AIM]
    real: Tensor  # [P] float32: 0 for a row that is none


def find_hints(geometry: Geometry, entities: Tensor) -> Hints:
    """Hints of a batch; entities [B, E, FIELDS] in metres from the scans' corners, of kind -1 where there is none."""
    stage = geometry.stages[STAGE]
    own = entities[stage.scene]  # [N, E, FIELDS]
    length, width, height = own[..., 6:].unbind(-1)
    volume = length * width * height  # multiplied in one order on every device: the smaller volume decides
    inside = (_local(stage.coords, own).abs() <= own[..., 6:] / 2 + NEAR).all(-1) & (own[..., 0] >= 0)
    best = torch.where(inside, volume, torch.inf).argmin(1)  # the smallest: a plant on a carpet is a plant
    any_inside = inside.any(1)
    chosen = own.gather(1, best[:, None, None].expand(-1, 1, FIELDS))[:, 0]  # [N, FIELDS]
    kind = torch.where(any_inside, chosen[:, 0].long() + 1, 0)
    seen, aims = _of_tokens(geometry, entities, kind, torch.where(any_inside, best, -1))
    return Hints(kind, _aim(stage.coords, chosen), seen, aims, seen.new_ones(len(seen)))


def _local(coords: Tensor, entities: Tensor) -> Tensor:
    """Coords [N, 3] in the frame of each entity [N, E, FIELDS]: [N, E, 3]."""
    x, y, z = (coords[:, None] - entities[..., 1:4]).unbind(-1)
    cosine, sine = entities[..., 4], entities[..., 5]
    return torch.stack([x * cosine + y * sine, y * cosine - x * sine, z], dim=-1)


def _aim(coords: Tensor, entities: Tensor) -> Tensor:
    """[N, AIM] of coords [N, 3] and one entity each [N, FIELDS]."""
    sizes = entities[:, 6:].clamp(min=0.02).log()
    return torch.cat([entities[:, 1:4] - coords, sizes, entities[:, 4:6]], dim=1)


def _of_tokens(geometry: Geometry, entities: Tensor, kind: Tensor, entity: Tensor) -> tuple[Tensor, Tensor]:
    """seen [P, K] and aims [P, K, AIM] from the voxels' kinds and entities (numbers in their scene, -1 for none)."""
    token = torch.arange(len(kind), device=kind.device)
    for stage in geometry.stages[STAGE:-1]:
        assert stage.parent is not None
        token = stage.parent[token]
    last = geometry.last
    slots = len(last.coords) * KINDS
    slot = torch.where(kind > 0, token * KINDS + kind - 1, slots)  # the last one is for voxels of nothing
    found = torch.full((slots + 1,), -1, device=kind.device).scatter_reduce_(0, slot, entity, "amax")[:-1]
    found = found.view(-1, KINDS)  # [P, K]
    scene = last.scene[:, None].expand(-1, KINDS)
    chosen = entities[scene, found.clamp(min=0)]  # [P, K, FIELDS]
    aims = _aim(last.coords.repeat_interleave(KINDS, 0), chosen.flatten(0, 1)).view(-1, KINDS, AIM)
    return (found >= 0).float(), aims


class HintHeads(nn.Module):
    """Linear readers of voxels' features [N, C] and point tokens [P, hidden]; `loss` is what they miss."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.voxels = nn.Linear(channels, KINDS + 1 + AIM)
        self.tokens = nn.Linear(hidden, KINDS * (1 + AIM))
        weight = torch.ones(KINDS + 1)
        weight[0] = BACKGROUND
        self.register_buffer("weight", weight)

    def loss(self, voxels: Tensor, tokens: Tensor, hints: Hints) -> Tensor:
        """One number: kinds and aims of voxels and tokens. Shapes do not depend on what the scenes hold."""
        said, aim = self.voxels(voxels).float().split([KINDS + 1, AIM], dim=1)
        kinds = cross_entropy(said, hints.kind, weight=self.weight, ignore_index=-1)
        aims = _over(smooth_l1_loss(aim, hints.aim, reduction="none", beta=0.1).mean(1), (hints.kind > 0).float())
        of_tokens = self.tokens(tokens).float().view(-1, KINDS, 1 + AIM)
        missed = binary_cross_entropy_with_logits(of_tokens[..., 0], hints.seen, reduction="none").mean(1)
        off = smooth_l1_loss(of_tokens[..., 1:], hints.aims, reduction="none", beta=0.1).mean(-1)
        return kinds + AIMS * aims + 5 * _over(missed, hints.real) + AIMS * _over(off, hints.seen)


def _over(values: Tensor, weight: Tensor) -> Tensor:
    return (values * weight).sum() / weight.sum().clamp(min=1)
