"""Batches made ahead of their step, in a thread with a stream of its own."""

from __future__ import annotations

import contextlib
import queue
import random
import threading
from collections.abc import Iterator
from typing import Any

import torch

from demo.training.batch import Batch, Maker, Question
from demo.training.pack import SYMMETRIES
from demo.training.padding import Caps, fill_up, fits
from demo.training.step import tensors_of

KINDS = ("all",) * 8 + ("arch", "object")
AHEAD = 3


class Feeder:
    """An endless stream of random batches: the same for the same seed, whatever is trained on them.

    With `caps` they are filled up to one size; the few that are larger are left out.
    """

    def __init__(self, maker: Maker, size: int, seed: int, caps: Caps | None = None) -> None:
        self._maker, self._size, self._caps = maker, size, caps
        self._random = random.Random(seed)
        self._queue: queue.Queue[tuple[Batch, Any] | BaseException] = queue.Queue(AHEAD)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Batch]:
        while True:
            item = self._queue.get()
            if isinstance(item, BaseException):
                raise item
            batch, event = item
            if event is not None:
                torch.cuda.current_stream().wait_event(event)
                for tensor in tensors_of(batch):
                    tensor.record_stream(torch.cuda.current_stream())
            yield batch

    def close(self) -> None:
        """Stop the thread."""
        self._stopped.set()
        self._thread.join()

    def _put(self, item: tuple[Batch, Any] | BaseException) -> None:
        while not self._stopped.is_set():
            with contextlib.suppress(queue.Full):
                self._queue.put(item, timeout=0.1)
                return

    def _make(self) -> Batch:
        while True:
            batch = self._maker.batch(random_questions(self._random, len(self._maker.store), self._size))
            if self._caps is None:
                return batch
            if fits(batch, self._caps):
                return fill_up(batch, self._caps)

    def _run(self) -> None:
        device = self._maker.store.device
        stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        try:
            while not self._stopped.is_set():
                if stream is None:
                    self._put((self._make(), None))
                    continue
                with torch.cuda.device(device), torch.cuda.stream(stream):
                    batch = self._make()
                    event = torch.cuda.Event()
                    event.record(stream)
                self._put((batch, event))
        except BaseException as error:  # it belongs to the thread that waits for the next batch
            self._put(error)


def random_questions(chance: random.Random, rooms: int, size: int) -> list[Question]:
    """Rooms, symmetries and kinds drawn at random."""
    return [
        Question(room=chance.randrange(rooms), symmetry=chance.randrange(len(SYMMETRIES)), kind=chance.choice(KINDS))
        for _ in range(size)
    ]
