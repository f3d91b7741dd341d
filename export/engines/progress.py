"""Bars for the builds: percent and time left where TensorRT tells its progress, elapsed time where it does not."""

from __future__ import annotations

import sys
import time
from typing import Any

from tqdm import tqdm

PERCENT = "{desc} {percentage:3.0f}%|{bar}| {elapsed}, left {remaining}{postfix}"
ELAPSED = "{desc} {elapsed}{postfix}"
SLOW_TICK = 15.0  # seconds between signs of life where the output is no terminal


class Bars:
    """One line for each graph that is being built."""

    def __init__(self, silent: bool) -> None:
        self._silent = silent
        self._bars: dict[str, Any] = {}
        self._shown = time.monotonic()

    def start(self, graph: str) -> None:
        if not self._silent:
            self._bars[graph] = tqdm(total=1.0, desc=f"Building {graph}", bar_format=ELAPSED, position=len(self._bars))

    def show(self, graph: str, event: dict[str, Any]) -> None:
        """Take an event of the graph's process."""
        bar, kind = self._bars.get(graph), event.get("event")
        if bar is None:
            return
        if kind == "progress":
            bar.bar_format = PERCENT
            bar.set_postfix_str(str(event["text"]), refresh=False)
            bar.update(event["fraction"] - bar.n)
        elif kind == "plan" and bar.bar_format == PERCENT:
            bar.update(1.0 - bar.n)
        elif kind == "phase":
            bar.set_postfix_str(str(event["text"]))
        elif kind == "end":
            self._end(graph)

    def tick(self) -> None:
        """Show that time passes."""
        if sys.stderr.isatty() or time.monotonic() - self._shown > SLOW_TICK:
            self._shown = time.monotonic()
            for bar in self._bars.values():
                bar.refresh()

    def close(self) -> None:
        for graph in list(self._bars):
            self._end(graph)

    def _end(self, graph: str) -> None:
        bar = self._bars.pop(graph)
        bar.set_postfix_str("", refresh=False)
        bar.close()
