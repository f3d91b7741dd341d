"""Is the unit metres? A guess from how far a cloud reaches."""

from __future__ import annotations

import math

import numpy as np

from runtime.arrays import Array

ROOM = (0.5, 40.0)  # metres: widest extent of a scan that is taken as it is
_TYPICAL = (2.6, 6.0)  # metres: least and widest extent of a room, to choose between units
_UNITS = {"feet": 0.3048, "inches": 0.0254, "centimetres": 0.01, "millimetres": 0.001}
_BULK = (0.005, 0.995)  # shares between which the bulk of the points lies: strays do not count
_SAMPLE = 20_000


def bulk_range(points: Array) -> tuple[Array, Array]:
    """Lowest and highest coordinates [3] of the middle 99 % of points [N, 3] along each axis."""
    low, high = (round(share * (len(points) - 1)) for share in _BULK)
    ordered = np.partition(points, (low, high), axis=0)
    return ordered[low], ordered[high]


def thinned(points: Array) -> Array:
    """Every n-th of points [N, 3], so that fewer than 40,000 are left."""
    return points[:: max(1, len(points) // _SAMPLE)]


def likely_unit(extents: Array) -> tuple[str, float] | None:
    """Unit and factor to metres of extents [3] too wide for metres: the one that gives the most usual room."""
    widest, least = float(extents.max()), float(extents.min())
    if not ROOM[1] < widest <= 1000 * ROOM[1]:
        return None

    def strangeness(factor: float) -> float:
        sizes = zip((least, widest), _TYPICAL, strict=True)
        return sum(abs(math.log(max(size, 1e-9) * factor / usual)) for size, usual in sizes)

    unit = min(_UNITS, key=lambda name: strangeness(_UNITS[name]))
    return unit, _UNITS[unit]


def unit_warning(points: Array) -> str | None:
    """What to do about points [N, 3] whose bulk does not measure like a room in metres, or None."""
    low, high = bulk_range(thinned(points))
    extents = high - low
    if ROOM[0] <= extents.max() <= ROOM[1]:
        return None
    measured = f"The cloud measures {size_text(extents)}, but a room of 1 to 40 metres was expected."
    if unit := likely_unit(extents):
        return f"{measured} If these are {unit[0]}, give --scale {unit[1]:g}."
    return f"{measured} Give --scale with the factor that turns its unit into metres."


def size_text(extents: Array) -> str:
    """Extents [3] for a sentence: 5.2 x 4.1 x 2.7."""
    return " x ".join(f"{extent:.3g}" if extent < 100 else f"{extent:.0f}" for extent in extents.tolist())
