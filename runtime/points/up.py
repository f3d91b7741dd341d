"""Which axis points up? A guess from the largest planes of a room."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from runtime.arrays import Array
from runtime.points.units import bulk_range, thinned

_BINS = 120  # along the widest axis: some 5 cm of a room


@dataclass(frozen=True, slots=True)
class UpAxis:
    """axis: "x", "y" or "z". confidence: 0 (another axis fits as well) to 1 (no other one does)."""

    axis: str
    confidence: float


def estimate_up(points: Array) -> UpAxis:
    """Up axis of points [N, 3] by the strongest peak of three histograms.

    A room is wider than high, so of all planes square to an axis its floor or ceiling is the largest: the histogram
    along the true up axis has the highest peak. All use one bin width, so peaks compare like areas. A room narrower
    than high looks the same lying on its side: the guess is then uncertain.
    """
    sample = thinned(points)
    low, high = bulk_range(sample)
    width = float((high - low).max()) / _BINS
    if not width > 0:
        return UpAxis("z", 0.0)
    peaks = [_peak((sample[:, axis] - low[axis]) / width) for axis in range(3)]
    second, best = sorted(peaks)[1:]
    return UpAxis("xyz"[int(np.argmax(peaks))], (best - second) / best if best > 0 else 0.0)


def _peak(places: Array) -> float:
    """Points in the fullest two neighbouring bins above the usual number; places [N] in bins."""
    inside = places[(places >= -1) & (places < _BINS + 1)] + 1  # strays would widen the histogram without end
    counts = np.bincount(inside.astype(np.int64), minlength=2)
    pairs = counts[:-1] + counts[1:]  # a plane on the border of two bins is whole in a pair
    return float(pairs.max() - np.median(pairs))
