"""Kernels of the fake GPU: numpy twins by name.

    fake_kernels.register("append_rows", function)   function(list of the raw argument values, as ints and floats)

A twin looks at memory with `fake_device.device.view(address, shape, dtype)` and finds the launch's blocks in `grid()`.
The twins of the project's own kernels are in fake_twins.py, known from the start. A kernel without a twin cannot be
launched.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

Twin = Callable[[list[Any]], None]
Grid = tuple[int, int, int]
twins: dict[str, Twin] = {}
_running = threading.local()


def register(name: str, twin: Twin) -> None:
    """Let `twin` run whenever the kernel `name` is launched."""
    twins[name] = twin


def find(name: str) -> Twin | None:
    """The twin of a kernel."""
    if name not in twins:
        import fake_twins

        if name in fake_twins.TWINS:
            register(name, fake_twins.TWINS[name])
    return twins.get(name)


def run(name: str, grid: Grid, arguments: list[Any]) -> None:
    _running.grid = grid
    twins[name](arguments)


def grid() -> Grid:
    """Blocks of the launch that the calling twin stands for."""
    found: Grid = _running.grid
    return found
