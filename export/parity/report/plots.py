"""Errors over layers and steps on a logarithmic axis, as coordinates that plot.html draws."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from export.parity.report.text import number

HEIGHT, TOP, BOTTOM = 280, 30, 44  # pixels
WIDTHS, LEFT, RIGHT = {False: 590, True: 1200}, 58, 88
LANE = 22  # height of the strips for zero, below the axis, and for what is not finite, above it
LABEL = 14  # least distance of two labels
COLORS = 8  # of style.css
MARKS = (  # around the point, relative
    "m-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",  # circle
    "m-3.6 -3.6h7.2v7.2h-7.2z",  # square
    "m0 -4.8l4.6 8h-9.2z",  # triangle
    "m0 -5.2l5.2 5.2l-5.2 5.2l-5.2 -5.2z",  # diamond
    "m0 4.8l4.6 -8h-9.2z",  # triangle, upside down
    "m-1.5 -4.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z",  # plus
    "m-4.5 -2h9v4h-9z",  # bar
)


@dataclass(frozen=True, slots=True)
class Series:
    """Errors of one rung."""

    name: str
    color: int
    points: list[tuple[int, float]]  # layer or step, error
    limits: dict[int, float]  # layer or step -> limit, which may grow


@dataclass(frozen=True, slots=True)
class Point:
    mark: str  # a path
    hint: str
    outside: bool  # of the limit


@dataclass(frozen=True, slots=True)
class Curve:
    color: int
    path: str
    points: list[Point]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """Everything in pixels of a view box."""

    anchor: str
    title: str
    description: str  # the same in words
    wide: bool
    width: int
    left: int
    right: int
    top: int
    bottom: int
    height: int
    x_title: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    limits: list[tuple[str, float, str]]  # path, height of its label, label
    curves: list[Curve]


class _Axis:
    """Decades, with a strip below for zero and one above for what is not finite, each where it is needed."""

    def __init__(self, values: Iterable[float]) -> None:
        found = list(values)
        finite = [math.log10(value) for value in found if math.isfinite(value) and value > 0] or [-7.0, 0.0]
        self._low, self._high = math.floor(min(finite)), math.ceil(max(finite))
        self._high += self._low == self._high
        self._zero, self._lost = 0.0 in found, not all(map(math.isfinite, found))
        self._top, self._bottom = TOP + LANE * self._lost, HEIGHT - BOTTOM - LANE * self._zero

    def at(self, value: float) -> float:
        if not math.isfinite(value):
            return TOP + 6
        if value <= 0:
            return HEIGHT - BOTTOM - 6
        part = (math.log10(value) - self._low) / (self._high - self._low)
        return round(self._bottom - part * (self._bottom - self._top), 1)

    def ticks(self) -> list[tuple[float, str]]:
        step = max(1, math.ceil((self._high - self._low) / 7))
        ticks = [
            (self.at(10.0**power), f"1e{power}" if power else "1") for power in range(self._low, self._high + 1, step)
        ]
        zero, lost = [(self.at(0.0), "0")], [(self.at(math.nan), "NaN, ∞")]
        return zero * self._zero + ticks + lost * self._lost


def plot(anchor: str, title: str, scene: str, unit: str, series: list[Series], *, wide: bool) -> Plot:
    """One figure; `unit` is "layer" or "step", and step -1 is the prompt."""
    limits = sorted({tuple(sorted(one.limits.items())) for one in series if one.limits}, key=lambda one: one[-1][1])
    values = [limit for one in limits for _, limit in one]
    axis = _Axis([*values, *(error for one in series for _, error in one.points)])
    width = WIDTHS[wide]
    places = [place for one in series for place, _ in one.points]
    first, last = min(places), max(places)

    def across(place: int) -> float:
        inner = width - LEFT - RIGHT - 24
        return round(LEFT + 12 + inner * ((place - first) / (last - first) if last > first else 0.5), 1)

    return Plot(
        anchor=anchor,
        title=title,
        description=f"Relative errors for {scene}. " + " ".join(_in_words(one, unit) for one in series),
        wide=wide,
        width=width,
        left=LEFT,
        right=width - RIGHT,
        top=TOP,
        bottom=HEIGHT - BOTTOM,
        height=HEIGHT,
        x_title="layer" if unit == "layer" else "forced step",
        x_ticks=[(across(place), _place(place)) for place in _ticks(first, last, 17 if wide else 9)],
        y_ticks=axis.ticks(),
        limits=_limits([[(across(place), limit) for place, limit in one] for one in limits], axis, width - RIGHT),
        curves=[_curve(one, unit, [(across(place), axis.at(error)) for place, error in one.points]) for one in series],
    )


def legend_mark(color: int) -> str:
    """A path of the rung's mark in a box of 22 x 12 pixels."""
    return f"M11 6{MARKS[color % len(MARKS)]}"


def _curve(series: Series, unit: str, places: list[tuple[float, float]]) -> Curve:
    """The line breaks where an error is not finite."""
    path, pen = "", "M"
    for (x, y), (_, error) in zip(places, series.points, strict=True):
        path += f"{pen}{x} {y}" if math.isfinite(error) else ""
        pen = "L" if math.isfinite(error) else "M"
    points = [
        Point(
            f"M{x} {y}{MARKS[series.color % len(MARKS)]}",
            _hint(series, unit, place, error),
            place in series.limits and not error <= series.limits[place],
        )
        for (x, y), (place, error) in zip(places, series.points, strict=True)
    ]
    return Curve(series.color % COLORS, path, points)


def _hint(series: Series, unit: str, place: int, error: float) -> str:
    where = "after the prompt" if place < 0 else f"{unit} {place}"
    limit = f", limit {number(series.limits[place])}" if place in series.limits else ""
    return f"{series.name}, {where}: {number(error)}{limit}"


def _in_words(series: Series, unit: str) -> str:
    if not series.points:
        return f"{series.name}: nothing was compared."
    place, error = max(series.points, key=lambda point: math.inf if math.isnan(point[1]) else point[1])
    return f"Largest: {_hint(series, unit, place, error)}."


def _place(place: int) -> str:
    return "prompt" if place < 0 else str(place)


def _ticks(first: int, last: int, most: int) -> list[int]:
    step = 1
    while (last - max(first, 0)) // step + 1 > most:
        step *= 2
    regular = list(range(max(first, 0), last + 1, step))
    return [first, *(tick for tick in regular if tick - first > step // 2)] if first < 0 else regular


def _limits(limits: list[list[tuple[float, float]]], axis: _Axis, right: float) -> list[tuple[str, float, str]]:
    """Lines from edge to edge. Labels of limits that are close are moved apart, upwards."""
    found: list[tuple[str, float, str]] = []
    for places in limits:
        heights = [axis.at(limit) for _, limit in places]
        middle = (
            "".join(f"L{x} {y}" for (x, _), y in zip(places, heights, strict=True)) if len(set(heights)) > 1 else ""
        )
        label = heights[-1] if not found else min(heights[-1], found[-1][1] - LABEL)
        found.append((f"M{LEFT} {heights[0]}{middle}H{right}", label, f"limit {number(places[-1][1])}"))
    return found
