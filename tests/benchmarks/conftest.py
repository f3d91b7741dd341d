"""A benchmark called as its command, and the JSON of its last line."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True, slots=True)
class Measured:
    """The facts of the last line, and what was said beside them."""

    facts: dict[str, Any]
    said: str


Benchmark = Callable[..., Measured]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Benchmark:
    """`benchmark(name, *arguments)` runs `benchmarks.<name>` as `python -m` does, from the project's folder."""
    monkeypatch.chdir(Path(__file__).parents[2])

    def run(name: str, *arguments: object) -> Measured:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        importlib.import_module(f"benchmarks.{name}").main()
        out, err = capsys.readouterr()
        return Measured(json.loads(out.splitlines()[-1]), err)

    return run
