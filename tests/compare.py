"""One `assert_close` for all: shape, then finite, then values, and a message that tells how far off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Tol:
    """|got - want| <= abs + rel * |want|, and the reason why that much is allowed."""

    abs: float
    rel: float = 0.0
    why: str = "float32 rounding in another order"


EXACT = Tol(0.0, 0.0, why="the same operations in the same order")


def assert_close(name: str, got: Any, want: Any, tol: Tol) -> None:
    """Compare two arrays or tensors; print how many are off, where the worst is, and what would pass."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape, f"{name}: shape {got.shape}, expected {want.shape}"
    got, want = got.astype(np.float64), want.astype(np.float64)
    assert np.isfinite(got).all(), f"{name}: {(~np.isfinite(got)).sum()} of {got.size} values are not finite"
    error = np.abs(got - want)
    excess = error - (tol.abs + tol.rel * np.abs(want))
    if not (excess > 0).any():
        return
    worst = np.unravel_index(int(excess.argmax()), got.shape)
    raise AssertionError(
        f"{name}: {(excess > 0).sum()} of {got.size} values are off by more than abs {tol.abs:g} + rel {tol.rel:g} "
        f"({tol.why}); worst at {tuple(int(i) for i in worst)}: got {got[worst]:.9g}, expected {want[worst]:.9g}; "
        f"abs {error.max():.3g} would pass"
    )
