"""Batches made ahead of their step, in a thread with a stream of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import random
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from demo.training.batch import Batch, Maker, Question
from demo.training.pack import SYMMETRIES

KINDS = ("all",) * 8 + ("arch", "object")
AHEAD = 3


class Feeder:
    """An endless stream of random batches: the same for the same seed, whatever is trained on them."""

    def __init__(self, maker: Maker, size: int, seed: int) -> None:
        self._maker, self._size = maker, size
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
                for tensor in _tensors(batch):
                    tensor.record_stream(torch.cuda.current_stream())
            yield batch

    def close(self) -> None:
        """Stop the thread."""
        self._stopped.set()
        while self._thread.is_alive():
            with contextlib.suppress(queue.Empty):
                self._queue.get(timeout=0.1)

    def _questions(self) -> list[Question]:
        chance, rooms = self._random, len(self._maker.store)
        return [
            Question(
                room=chance.randrange(rooms),
                symmetry=chance.randrange(len(SYMMETRIES)),
                kind=chance.choice(KINDS),
            )
            for _ in range(self._size)
        ]

    def _run(self) -> None:
        device = self._maker.store.device
        stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        try:
            while not self._stopped.is_set():
                if stream is None:
                    self._queue.put((self._maker.batch(self._questions()), None))
                    continue
                with torch.cuda.device(device), torch.cuda.stream(stream):
                    batch = self._maker.batch(self._questions())
                    event = torch.cuda.Event()
                    event.record(stream)
                self._queue.put((batch, event))
        except BaseException as error:  # it belongs to the thread that waits for the next batch
            self._queue.put(error)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _tensors(getattr(value, field.name))
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)
