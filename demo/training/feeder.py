"""Batches made ahead of their step, in threads with a stream each.

Making a batch is more than a thousand short kernels with some waits for the host between them: launching them takes
longer than running them, so that one thread keeps no GPU busy.
"""

from __future__ import annotations

import contextlib
import queue
import random
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle
from typing import Any

import torch

from demo.training.batch import Batch, Maker, Question
from demo.training.pack import SYMMETRIES
from demo.training.padding import Caps, fill_up, fits

KINDS = ("all",) * 8 + ("arch", "object")
AHEAD = 2  # batches that wait in each worker
IN_FLIGHT = 2  # batches behind the one that is being read, whose steps the device may still be at


class Feeder:
    """An endless stream of random batches: the same for the same seed and workers, whatever is trained on them.

    With `caps` they are filled up to one size; the few that are larger are left out.
    """

    def __init__(self, maker: Maker, size: int, seed: int, caps: Caps | None = None, workers: int = 1) -> None:
        self._workers = [_Worker(maker, size, seed + 104729 * number, caps) for number in range(workers)]

    def __iter__(self) -> Iterator[Batch]:
        """What a batch is used for must be on the current stream before the next one is asked for."""
        used: deque[tuple[Batch, Any]] = deque()
        stream = None
        try:
            for worker in cycle(self._workers):
                batch, made = worker.take()
                if made is None:
                    yield batch
                    continue
                stream = torch.cuda.current_stream()
                stream.wait_event(made)
                yield batch
                # A batch's memory goes back to its worker's stream, so it is kept until its step is over. Waiting for
                # it also keeps the host from running ahead of a GPU slower than the feeder until memory is full.
                used.append((batch, stream.record_event()))
                if len(used) > IN_FLIGHT:
                    used.popleft()[1].synchronize()
        finally:  # batches are about to be let go
            if stream is not None:
                stream.synchronize()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing is made inside: a graph can be captured."""
        with contextlib.ExitStack() as stack:
            for worker in self._workers:
                stack.enter_context(worker.making)
            yield

    def __enter__(self) -> Feeder:
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the threads."""
        for worker in self._workers:
            worker.stopped.set()
        for worker in self._workers:
            worker.join()


class _Worker(threading.Thread):
    """Makes batches until it is stopped; what goes wrong belongs to the thread that takes the next one."""

    def __init__(self, maker: Maker, size: int, seed: int, caps: Caps | None) -> None:
        super().__init__(daemon=True)
        self._size, self._caps, self._random = size, caps, random.Random(seed)
        self._device = maker.store.device
        own = None if maker.chance is None else torch.Generator(self._device).manual_seed(seed)
        self._maker = replace(maker, chance=own)
        # Before the long kernels of a step: a worker waits for short ones dozens of times a batch.
        self._stream = torch.cuda.Stream(self._device, priority=-1) if self._device.type == "cuda" else None
        self._queue: queue.Queue[tuple[Batch, Any] | BaseException] = queue.Queue(AHEAD)
        self.making, self.stopped = threading.Lock(), threading.Event()
        self.start()

    def take(self) -> tuple[Batch, Any]:
        """The next batch, and the event behind which it is whole."""
        item = self._queue.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def run(self) -> None:
        """The thread."""
        try:
            while not self.stopped.is_set():
                self._put(self._make())
        except BaseException as error:
            self._put(error)

    def _make(self) -> tuple[Batch, Any]:
        with self.making:
            if self._stream is None:
                return self._batch(), None
            with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
                return self._batch(), self._stream.record_event()

    def _batch(self) -> Batch:
        while True:
            batch = self._maker.batch(random_questions(self._random, len(self._maker.store), self._size))
            if self._caps is None:
                return batch
            if fits(batch, self._caps):
                return fill_up(batch, self._caps)

    def _put(self, item: tuple[Batch, Any] | BaseException) -> None:
        while not self.stopped.is_set():
            with contextlib.suppress(queue.Full):
                self._queue.put(item, timeout=0.1)
                return


def random_questions(chance: random.Random, rooms: int, size: int) -> list[Question]:
    """Rooms, symmetries and kinds drawn at random."""
    return [
        Question(room=chance.randrange(rooms), symmetry=chance.randrange(len(SYMMETRIES)), kind=chance.choice(KINDS))
        for _ in range(size)
    ]
