"""Rotary tables from data: which value and which frequency each of the D channels turns by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from runtime.arrays import Array
from runtime.manifest import RopeSpec

EPSILON = np.float32(1e-8)  # keeps a cloud of one patch from dividing by zero


def rope_table(positions: Array, coords: Array | None, spec: RopeSpec) -> tuple[Array, Array]:
    """Cosines and sines [S, D], float32, of positions [S] and, where the spec asks for them, coordinates [S, 3].

    Not float16: it holds integers exactly only up to 2048, so later positions would begin to share an angle.
    """
    xyz = np.zeros((len(positions), 3), np.float32) if coords is None else coords.astype(np.float32)
    values = np.concatenate([positions.astype(np.float32)[:, None], xyz], axis=1)  # [S, 4]: position, x, y, z
    angles = values[:, spec.axis] * np.asarray(spec.inv_freq, np.float32)  # [S, D]
    scaling = np.float32(spec.scaling)
    return np.cos(angles) * scaling, np.sin(angles) * scaling


@dataclass(frozen=True, slots=True)
class NormalizedCoords:
    """Patch coordinates moved to the origin and divided by one scale, so that the aspect ratio is kept."""

    coords: Array  # float32 [P, 3], in [0, 1]
    low: Array  # float32 [3], metres
    high: Array  # float32 [3], metres
    max_range: float  # metres, the largest axis range

    def describe(self) -> str:
        """The two lines that the reference prints under SPATIALLM_VERBOSE."""
        ends = self.coords.min(axis=0), self.coords.max(axis=0)
        return (
            f"[3D PE] Original patch_coords range: {_ranges(self.low, self.high)}\n"
            f"[3D PE] Normalized with max_range={self.max_range:.3f}, final range: {_ranges(*ends)}"
        )


def normalize_coords(patch_coords: Array) -> NormalizedCoords:
    """(c - min) / (largest axis range + 1e-8) in float32 (facts section 9.1). `patch_coords` is [P, 3], P >= 1."""
    patch_coords = patch_coords.astype(np.float32)
    low, high = patch_coords.min(axis=0), patch_coords.max(axis=0)
    max_range = (high - low).max()
    return NormalizedCoords((patch_coords - low) / (max_range + EPSILON), low, high, float(max_range))


def _ranges(low: Array, high: Array) -> str:
    return ", ".join(f"{axis}=[{a:.3f}, {b:.3f}]" for axis, a, b in zip("XYZ", low, high, strict=True))
