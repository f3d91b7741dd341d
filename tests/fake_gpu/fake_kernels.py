"""Kernels of the fake GPU: numpy twins by name.

    fake_kernels.register("append_rows", function)   function(list of the raw argument values, as ints and floats)

A twin looks at memory with `fake_device.device.view(address, shape, dtype)`.
A kernel without a twin cannot be launched.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Twin = Callable[[list[Any]], None]
twins: dict[str, Twin] = {}


def register(name: str, twin: Twin) -> None:
    """Let `twin` run whenever the kernel `name` is launched."""
    twins[name] = twin
