"""From the columns of any format to points and colours that can be used: one set of rules for all readers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from runtime.arrays import Array
from runtime.errors import PlyError
from runtime.points.units import unit_warning

_FARTHEST = float(np.finfo(np.float32).max) / 2  # differences of such coordinates are still float32
_COARSEST = 0.005  # metres between neighbouring numbers of a short float: above it, walls turn into steps


@dataclass(frozen=True, slots=True, kw_only=True)
class RawCloud:
    """Columns in the number type of their file.

    points: [N, 3], integers or floats.
    channels: [N, 3] red, green, blue, integers or floats; None where the file has no colours.
    notes: sentences about the file that its user should read.
    """

    points: Array
    channels: Array | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Usable:
    """The fields of a PointCloud; see there."""

    points: Array
    colors: Array | None
    dropped: int
    warnings: tuple[str, ...]


def check_scale(scale: float | None) -> None:
    """Raises PlyError unless `scale` is None or a number above 0."""
    if scale is not None and not 0 < scale < math.inf:
        raise PlyError(f"--scale is {scale}, but a finite number above 0 was expected. 0.001 reads millimetres.")


def raw_from_table(name: str, table: Array) -> RawCloud:
    """Columns x y z, then red green blue if there are six; more are left out with a note. table: [N, 3 or more]."""
    if table.ndim != 2 or table.shape[1] < 3:
        raise PlyError(f"{name}: the shape is {list(table.shape)}, but rows of x y z or x y z r g b were expected.")
    if table.dtype.kind not in "iuf":
        raise PlyError(f"{name}: the values are {table.dtype}, but integers or floats were expected. Convert them.")
    used = 6 if table.shape[1] >= 6 else 3
    notes: tuple[str, ...] = ()
    if table.shape[1] > used:
        notes = (f"Of {table.shape[1]} columns the first {used} were used, as {'x y z r g b'[: 2 * used - 1]}.",)
    return RawCloud(points=table[:, :3], channels=table[:, 3:6] if used == 6 else None, notes=notes)


def usable(name: str, raw: RawCloud, scale: float | None = None) -> Usable:
    """Points as float64 metres and colours in 0 .. 1, of the rows that are finite. `name` is for sentences.

    `scale` multiplies the points; a cloud of whole numbers without it, and whatever else looks odd, gives a warning.
    Raises PlyError for colours out of range and for points of which too few or none are usable.
    """
    check_scale(scale)
    if not len(raw.points):
        raise PlyError(f"{name}: the file holds no points. Export the scene again.")
    points, channels = _float64(raw.points), None if raw.channels is None else _float64(raw.channels)
    finite = np.isfinite(points).all(axis=1)
    if channels is not None:
        finite &= np.isfinite(channels).all(axis=1)
    dropped = len(points) - int(finite.sum())
    if dropped == len(points):
        raise PlyError(f"{name}: all {dropped} points have NaN or infinite values. Check the program that wrote it.")
    if dropped:  # only then a copy is needed
        points, channels = points[finite], None if channels is None else channels[finite]
    notes = list(raw.notes)
    if channels is not None:
        assert raw.channels is not None
        notes += _to_unit(name, channels, raw.channels.dtype)
    if scale is not None:
        with np.errstate(over="ignore"):
            points *= scale
    _check_places(name, points)
    notes += _unit_notes(points, raw.points.dtype, scale)
    return Usable(points=points, colors=channels, dropped=dropped, warnings=tuple(notes))


def _float64(values: Array) -> Array:
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is counted as dropped
        return values.astype(np.float64, order="C")


def _check_places(name: str, points: Array) -> None:
    """Points must be at least two, in different places, within the range of the encoder's float32."""
    low, high = points.min(axis=0), points.max(axis=0)
    if (farthest := max(float(high.max()), -float(low.min()))) > _FARTHEST:
        raise PlyError(
            f"{name}: a coordinate is {farthest:.3g}, but at most {_FARTHEST:.2g} fits float32. "
            "Remove such points, or check the program that wrote them."
        )
    if len(points) == 1:
        raise PlyError(f"{name}: only one usable point, but a scene of thousands was expected. Export it again.")
    if not (high - low).astype(np.float32).any():
        place = ", ".join(f"{value:g}" for value in low.tolist())
        raise PlyError(f"{name}: all {len(points)} points are equal, at ({place}), but a scene was expected.")


def _unit_notes(points: Array, dtype: np.dtype[Any], scale: float | None) -> list[str]:
    """Whole numbers are seldom metres; short floats far from the origin are steps."""
    if dtype.kind in "iu" and scale is None:
        return [
            unit_warning(points)
            or f"The coordinates are whole numbers ({dtype.name}). If these are millimetres, give --scale 0.001."
        ]
    if dtype.kind != "f":
        return []
    farthest = max(float(points.max()), -float(points.min()))
    step = float(np.spacing(np.array(farthest / (scale or 1.0)).astype(dtype))) * (scale or 1.0)
    if dtype.itemsize <= 4 and step > _COARSEST and farthest < 1e9:
        return [
            f"Coordinates near {farthest:.3g} are only exact to {step:.2g} m as {dtype.name}. "
            "Move the scene to the origin before it is saved, or save it as double."
        ]
    return []


def _to_unit(name: str, channels: Array, dtype: np.dtype[Any]) -> list[str]:
    """Bring channels [N, 3] to 0 .. 1 in place; returns notes. Raises PlyError for values beyond the full scale."""
    low, high = float(channels.min()), float(channels.max())
    full, notes = _full_scale(high, dtype)
    if low < -0.01 * full or high > (1.1 if full == 1 else 1) * full:
        raise PlyError(
            f"{name}: colours run from {low:g} to {high:g} as {dtype.name}, but 0 to 255 "
            "(65535 for uint16, 1 for floats) was expected. Scale them or leave them out."
        )
    channels /= full
    np.clip(channels, 0, 1, out=channels)  # averages and spline colours overshoot a little
    return notes


def _full_scale(high: float, dtype: np.dtype[Any]) -> tuple[float, list[str]]:
    if dtype.kind == "u" and dtype.itemsize == 2:
        if 0 < high <= 255:
            return 255.0, [f"16-bit colours reach only {high:g}, so they were read as 0 to 255."]
        return 65535.0, []
    return (1.0 if dtype.kind == "f" and high < 1.1 else 255.0), []
