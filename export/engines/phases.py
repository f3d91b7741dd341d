"""How far a build is, of phases that TensorRT nests in one another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True)
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class Phases:
    """Follows the phases that run and tells the fraction done, which never falls, and the innermost phase's name."""

    def __init__(self, tell: Callable[[float, str], None]) -> None:
        self._running: dict[str, _Phase] = {}  # in the order they began
        self._tell = tell
        self._fraction = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        self._running[name] = _Phase(parent if parent in self._running else None, max(1, steps))
        self._report()

    def step(self, name: str, number: int) -> None:
        """Step `number`, counted from 0, is done."""
        if name in self._running:
            phase = self._running[name]
            phase.done = min(number + 1, phase.steps)
            self._report()

    def finish(self, name: str) -> None:
        self._running.pop(name, None)
        self._report()

    def _report(self) -> None:
        fraction, part, name, shown = 0.0, 1.0, self._inside(None), ""
        while name is not None:
            phase, shown = self._running[name], name
            fraction += part * phase.done / phase.steps
            part /= phase.steps
            name = self._inside(name)
        self._fraction = max(self._fraction, min(fraction, 1.0))
        self._tell(self._fraction, shown)

    def _inside(self, parent: str | None) -> str | None:
        """The phase that began last within another."""
        return next((name for name in reversed(self._running) if self._running[name].parent == parent), None)
