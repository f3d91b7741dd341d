"""Compiling in a given way and within a time, capturing, replaying: the tools of `benchmarks.gpu.torch_baseline`."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.report import Facts, spread
from benchmarks.gpu.static_model import TokenLoop

# The second makes products with one row into fused reductions, which beats cuBLAS at batch 1.
WAYS: dict[str, dict[str, Any]] = {
    "default": {},
    "reductions": {"options": {"coordinate_descent_tuning": True}},
    "max-autotune": {"mode": "max-autotune-no-cudagraphs"},
    "none": {"backend": "eager"},  # captured, but not compiled
}
Action = Callable[[], object]


def compiled(function: Callable[..., Tensor], way: str) -> Callable[..., Tensor]:
    """Compiled at its first call, anew in each way."""
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, dynamic=False, **WAYS[way])


def first_call(action: Action, synchronize: Action, time_limit: int) -> float:
    """Seconds of the call that compiles. Raises TimeoutError."""
    began = time.perf_counter()
    with limit(time_limit):
        action()
        synchronize()
    return round(time.perf_counter() - began, 2)


def captured(action: Action) -> Action | None:
    """The same as one CUDA graph; None where there is no GPU. It must have run before."""
    if not torch.cuda.is_available():
        return None
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        action()
    return graph.replay


def replays(loop: TokenLoop, token: int, position: int, count: int, synchronize: Action) -> Facts:
    """Milliseconds of each of `count` steps from a token on, and per step of as many without anything between."""
    loop.reset(token, position)
    times = [event_ms(loop.replay) for _ in range(count)]
    kept = loop.tokens.clone()
    loop.reset(token, position)
    synchronize()
    began = time.perf_counter()
    for _ in range(count):
        loop.replay()
    synchronize()
    whole = (time.perf_counter() - began) * 1e3 / count
    same = torch.equal(kept, loop.tokens)
    return {"per_token": spread(times), "back_to_back_ms": round(whole, 4), "same_tokens_again": same}


def event_ms(action: Action) -> float:
    """Milliseconds of the device, or of the host where there is none."""
    if not torch.cuda.is_available():
        began = time.perf_counter()
        action()
        return (time.perf_counter() - began) * 1e3
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    action()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end))


def equal_until(got: Tensor, want: Tensor) -> int:
    """Index of the first difference, or the length."""
    different = (got != want).nonzero()
    return int(different[0]) if len(different) else len(want)


@contextmanager
def limit(seconds: int) -> Iterator[None]:
    """TimeoutError in what takes longer, at the next line of Python that it runs."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"not done after {seconds} s")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
