"""Rooms on the training device: all points in one tensor, so that a batch is one gather."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from demo.training.entities import FIELDS
from demo.training.pack import SYMMETRIES, Room, read_rooms


class RoomStore:
    """points int16 [R, 3] in `pack.UNIT`s from the room's smallest corner, colors uint8 [R, 3]; answers on the host."""

    def __init__(self, rooms: Iterable[Room], device: torch.device) -> None:
        kept = list(rooms)
        self.device = device
        self.seeds = [room.seed for room in kept]
        self.answers = [room.answers for room in kept]
        counts = torch.tensor([len(room.points) for room in kept])
        self._starts = (counts.cumsum(0) - counts).tolist()
        self._counts = counts.tolist()
        self._points = torch.cat([room.points.to(torch.int16) for room in kept]).to(device)
        self._colors = torch.cat([room.colors for room in kept]).to(device)
        self._entities = _filled_up([room.entities for room in kept]).to(device)
        self.extents = torch.stack([room.points.amax(0) for room in kept]).to(device)  # [rooms, 3]

    @classmethod
    def read(cls, paths: Sequence[Path], device: torch.device) -> RoomStore:
        """The rooms of files that `pack` wrote, in the order of the files."""
        return cls((room for path in paths for room in read_rooms(path)), device)

    def __len__(self) -> int:
        return len(self.seeds)

    def entities_of(self, rooms: Sequence[tuple[int, int]]) -> Tensor:
        """Entities [B, E, FIELDS] of rooms by (number, symmetry); kind -1 where a room has fewer."""
        room, symmetry = torch.tensor(rooms, device=self.device).unbind(1)
        return self._entities[room, symmetry]

    def take(self, rooms: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Points int32 [N, 3] and colors [N, 3] of some rooms, and the place [N] of each point's room in `rooms`."""
        spans = [slice(self._starts[room], self._starts[room] + self._counts[room]) for room in rooms]
        counts = torch.tensor([self._counts[room] for room in rooms], device=self.device)
        total = sum(self._counts[room] for room in rooms)
        scene = torch.repeat_interleave(torch.arange(len(rooms), device=self.device), counts, output_size=total)
        points = torch.cat([self._points[span] for span in spans]).int()
        return points, torch.cat([self._colors[span] for span in spans]), scene


def _filled_up(entities: Sequence[Tensor]) -> Tensor:
    """[8, E, FIELDS] each to [rooms, 8, E, FIELDS]; what is filled up has kind -1."""
    most = max(1, *(one.shape[1] for one in entities))
    table = torch.zeros(len(entities), len(SYMMETRIES), most, FIELDS)
    table[..., 0] = -1
    for row, one in zip(table, entities, strict=True):
        row[:, : one.shape[1]] = one
    return table
