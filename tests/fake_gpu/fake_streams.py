"""Streams, capture and replay of the fake GPU."""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import dataclass, field

from fake_device import Work, device

GLOBAL, THREAD_LOCAL, RELAXED = range(3)  # cudaStreamCaptureMode
_handles = itertools.count(0x1000, 0x10)
_lock = threading.RLock()


@dataclass
class Capture:
    mode: int
    thread: int
    work: list[Work] = field(default_factory=list)
    invalid: bool = False


@dataclass
class Stream:
    device: int
    blocking: bool = True  # whether it waits for the default stream, and that for it
    waiting: list[Work] = field(default_factory=list)
    capture: Capture | None = None

    def submit(self, work: Work) -> None:
        """Record, put off or do."""
        if self.capture is not None:
            self.capture.work.append(work)
        elif device.deferred:
            self.waiting.append(work)
        else:
            work()

    def finish(self) -> None:
        """Do what waits, in order."""
        with _lock:
            while self.waiting:
                self.waiting.pop(0)()


@dataclass
class Event:
    """Done when the stream has come to it."""

    done: float | None = None
    stream: Stream | None = None
    recorded: int = 0

    def record(self, stream: Stream) -> None:
        self.recorded += 1
        self.done, self.stream, mine = None, stream, self.recorded

        def reach() -> None:
            if self.recorded == mine:
                self.done = time.perf_counter()

        stream.submit(reach)

    def wait(self) -> None:
        if self.stream is not None and self.done is None:
            self.stream.finish()


streams: dict[int, Stream] = {}
events: dict[int, Event] = {}
graphs: dict[int, list[Work]] = {}
executables: dict[int, list[Work]] = {}


def reset() -> None:
    for table in (streams, events, graphs, executables):
        table.clear()


def new_handle() -> int:
    return next(_handles)


def stream_of(handle: object) -> Stream | None:
    """The stream behind a handle, an int or an object with __int__; 0 is the default stream."""
    number = int(handle)  # type: ignore[call-overload]
    if number == 0:
        return streams.setdefault(0, Stream(device.current))
    return streams.get(number)


def captures() -> list[Capture]:
    return [stream.capture for stream in streams.values() if stream.capture is not None]


def unsafe_call() -> bool:
    """A call such as cudaMalloc: forbidden while a capture that cares goes on, which it spoils. True: forbidden."""
    here = threading.get_ident()
    own = [capture for capture in captures() if capture.thread == here and capture.mode != RELAXED]
    foreign = [capture for capture in captures() if capture.thread != here and capture.mode == GLOBAL]
    for capture in own + foreign:
        capture.invalid = True
    return bool(own or foreign)


def default_stream_call() -> bool:
    """A call on the default stream: it waits for every blocking stream, which one that is capturing cannot allow."""
    found = [s.capture for s in streams.values() if s.blocking and s.device == device.current and s.capture is not None]
    for capture in found:
        capture.invalid = True
    return bool(found)


def spoil(stream: Stream) -> bool:
    """A call that a capturing stream can never do. True: it was capturing."""
    if stream.capture is None:
        return False
    stream.capture.invalid = True
    return True
