"""Threads that make batches: in order, paused, failing; over makers that need no rooms."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import pytest
import torch

from demo.training.batch import Question
from demo.training.feeder import Feeder


@dataclass(frozen=True)
class Rooms:
    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def __len__(self) -> int:
        return 1000


@dataclass(frozen=True)
class Draws:
    """Its batches are what was asked and drawn."""

    chance: torch.Generator | None
    store: Rooms = Rooms()
    made: list[Any] = field(default_factory=list)
    fails_at: int | None = None

    def batch(self, questions: Sequence[Question]) -> Any:
        if self.fails_at == len(self.made):
            raise ValueError("no more rooms")
        drawn = None if self.chance is None else float(torch.rand((), generator=self.chance))
        self.made.append((tuple(questions), drawn))
        return self.made[-1]


def draws(chance: bool = True, **settings: Any) -> Draws:
    return Draws(torch.Generator() if chance else None, **settings)


def taken(feeder: Feeder, count: int) -> list[Any]:
    with feeder:
        return list(islice(feeder, count))


@pytest.mark.parametrize("workers", [1, 3])
def test_a_seed_says_what_comes(workers: int) -> None:
    first, again, other = (taken(Feeder(draws(), 4, seed, None, workers), 12) for seed in (5, 5, 6))
    assert first == again
    assert first != other
    assert len({batch[1] for batch in first}) == 12 and len(first[0][0]) == 4


def test_workers_draw_apart_and_take_turns() -> None:
    both, alone = (taken(Feeder(draws(), 4, 5, None, workers), count) for workers, count in ((2, 8), (1, 4)))
    assert both[::2] == alone
    assert all(batch not in alone for batch in both[1::2])


def test_scans_as_they_are_need_no_chance() -> None:
    assert taken(Feeder(draws(chance=False), 2, 5), 1)[0][1] is None


def test_nothing_is_made_while_it_is_paused() -> None:
    maker = draws()
    with Feeder(maker, 1, 0, None, 2) as feeder:
        batches = iter(feeder)
        next(batches)
        while not all(worker._queue.full() for worker in feeder._workers):  # or the takes below would wait for ever
            time.sleep(0.001)
        with feeder.paused():
            before = len(maker.made)
            for _ in range(3):
                next(batches)  # those that wait
            time.sleep(0.1)
            assert len(maker.made) == before
        list(islice(batches, 6))
        assert len(maker.made) > before


def test_what_goes_wrong_is_the_takers() -> None:
    with pytest.raises(ValueError, match="no more rooms"):
        taken(Feeder(draws(fails_at=3), 1, 0), 9)
    assert not [thread for thread in threading.enumerate() if type(thread).__name__ == "_Worker"]
