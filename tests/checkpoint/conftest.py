"""Tiny checkpoints that a test may change."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def changeable(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """`changeable(family, **options)`: a copy of a tiny checkpoint, fresh at each call."""
    count = 0

    def copy(family: str = "qwen", **options: Any) -> Path:
        nonlocal count
        count += 1
        return Path(shutil.copytree(tiny_checkpoint(family, **options), tmp_path / f"copy_{count}"))

    return copy
