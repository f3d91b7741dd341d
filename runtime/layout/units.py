"""Between bins and metres, and from the shifted cloud back to the scene's own origin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from runtime.arrays import Array
from runtime.errors import SceneError
from runtime.layout.entities import AnyEntity, Layout, number_names

WORLD = (0.0, 32.0)
WALL_SIZE = (0.0, 25.6)  # heights, widths and the thickness of walls
BOX_SIZE = (0.0, 20.0)
ANGLE = (-6.2832, 6.2832)  # these digits, not 2 pi: the model was trained with them

RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("ax", "ay", "az", "bx", "by", "bz", "position_x", "position_y", "position_z"), WORLD),
    **dict.fromkeys(("width", "height", "thickness"), WALL_SIZE),
    **dict.fromkeys(("scale_x", "scale_y", "scale_z"), BOX_SIZE),
    "angle_z": ANGLE,
}
_AXIS = {"ax": 0, "ay": 1, "az": 2, "bx": 0, "by": 1, "bz": 2, "position_x": 0, "position_y": 1, "position_z": 2}


def undiscretize(layout: Layout, num_bins: int) -> Layout:
    """Bins to metres and radians, in float64: value / num_bins * (max - min) + min, in this order, so that the
    written digits equal the original's. There is no shift by half a bin; nan and infinity stay what they are."""
    _check_bins(num_bins)

    def metres(name: str, value: float) -> float:
        low, high = RANGES[name]
        return float(value) / num_bins * (high - low) + low

    return _map_numbers(layout, metres)


def discretize(layout: Layout, num_bins: int) -> Layout:
    """Metres and radians to bins: (value - min) / (max - min) * num_bins, truncated toward zero, then clipped to
    0 .. num_bins - 1. The numbers become Python integers. Raises SceneError for nan and infinity, which have no bin."""
    _check_bins(num_bins)

    def bin_of(name: str, value: float) -> int:
        low, high = RANGES[name]
        scaled = (float(value) - low) / (high - low) * num_bins
        if not np.isfinite(scaled):
            raise SceneError(
                f"{name} is {value}, which lies in no bin. Remove that entity, or give it a finite number."
            )
        return min(max(int(scaled), 0), num_bins - 1)

    return _map_numbers(layout, bin_of)


def translate(layout: Layout, offset: Sequence[float] | Array) -> Layout:
    """Move every position (both ends of a wall) by `offset` [3], metres. Sizes and angles stay."""
    vector = np.asarray(offset, dtype=np.float64)
    if vector.shape != (3,):
        raise SceneError(f"The offset has shape {list(vector.shape)}, but one number per axis was expected: [3].")
    shift = [float(value) for value in vector]
    return _map_numbers(layout, lambda name, value: value + shift[_AXIS[name]] if name in _AXIS else value)


def _map_numbers(layout: Layout, convert: Callable[[str, float], float]) -> Layout:
    return replace(
        layout,
        walls=tuple(_convert(wall, convert) for wall in layout.walls),
        doors=tuple(_convert(door, convert) for door in layout.doors),
        windows=tuple(_convert(window, convert) for window in layout.windows),
        boxes=tuple(_convert(box, convert) for box in layout.boxes),
    )


def _convert(entity: AnyEntity, convert: Callable[[str, float], float]) -> AnyEntity:
    numbers: dict[str, Any] = {name: convert(name, getattr(entity, name)) for name in number_names(entity)}
    return replace(entity, **numbers)


def _check_bins(num_bins: int) -> None:
    if num_bins < 1:
        raise SceneError(
            f"num_bins is {num_bins}, but at least 1 bin per axis was expected. Take it from the manifest."
        )
