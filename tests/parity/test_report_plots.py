"""Where the report's plots draw errors, and how numbers are written."""

from __future__ import annotations

import itertools
import math
import re

import pytest

from export.parity.report.plots import HEIGHT, LEFT, RIGHT, WIDTHS, Plot, Series, plot
from export.parity.report.text import cosine, fact, number


def heights(one: Plot) -> list[float]:
    return [float(re.match(r"M\S+ ([\d.]+)m", point.mark)[1]) for point in one.curves[0].points]  # type: ignore[index]


def drawn(*errors: float, limit: float | None = 1e-3, unit: str = "layer") -> Plot:
    limits = {} if limit is None else dict.fromkeys(range(len(errors)), limit)
    return plot("a", "Keys", "a.ply", unit, [Series("engine", 9, list(enumerate(errors)), limits)], wide=False)


def test_decades_are_equally_high_and_larger_errors_stand_higher() -> None:
    a, b, c = heights(drawn(1e-6, 1e-5, 1e-4))
    assert a > b > c
    assert a - b == pytest.approx(b - c, abs=0.2)


def test_zero_lies_below_and_what_is_not_finite_above_all_else() -> None:
    one = drawn(0.0, 1e-6, math.nan, 1.0, math.inf)
    zero, small, nan, large, infinite = heights(one)
    assert zero > small > large > nan == infinite
    labels = [label for _, label in one.y_ticks]
    assert labels[0] == "0" and labels[-1] == "NaN, ∞"
    assert one.curves[0].path.count("M") == 2  # the line is broken where the error is not finite
    assert [point.outside for point in one.curves[0].points] == [False, False, True, True, True]


@pytest.mark.parametrize("errors", [(0.0,), (math.nan,), (5e-324, 1e308), (1.0, 1.0), tuple([1e-5] * 4096)])
def test_everything_is_drawn_inside(errors: tuple[float, ...]) -> None:
    one = drawn(*errors)
    across = [float(re.match(r"M(\S+)", point.mark)[1]) for point in one.curves[0].points]  # type: ignore[index]
    assert all(0 <= y <= HEIGHT for y in heights(one))
    assert all(LEFT <= x <= WIDTHS[False] - RIGHT for x in across)
    assert len(one.y_ticks) <= 10 and len(one.x_ticks) <= 9


def test_labels_of_limits_do_not_cover_each_other() -> None:
    series = [Series(str(i), i, [(0, 1e-9)], {0: limit}) for i, limit in enumerate((1e-3, 1.1e-3, 1.2e-3))]
    labels = [label for _, label, _ in plot("a", "Keys", "a.ply", "layer", series, wide=False).limits]
    assert all(below - above >= 12 for below, above in itertools.pairwise(labels))


def test_a_limit_that_grows_is_drawn_and_judged_place_by_place() -> None:
    errors = [2e-3, 2e-3, 5e-3]
    one = plot(
        "a",
        "Keys",
        "a.ply",
        "layer",
        [Series("e", 0, list(enumerate(errors)), {0: 1e-3, 1: 4e-3, 2: 4e-3})],
        wide=False,
    )
    assert [point.outside for point in one.curves[0].points] == [True, False, True]
    ((path, _, label),) = one.limits
    assert path.count("L") == 3 and label == "limit 0.004"
    assert "limit 0.001" in one.curves[0].points[0].hint


def test_numbers_and_facts() -> None:
    written = [number(x) for x in (0, 2e-6, 0.00123, 1.5e-12, 3e5, 12.0, -math.inf)]
    assert written == ["0", "2e-6", "0.0012", "1.5e-12", "3e5", "12", "-infinite"]
    assert [fact(x) for x in (None, "", True, 1234567, "x", [1, 2])] == [
        "none",
        "none",
        "yes",
        "1,234,567",
        "x",
        "[1, 2]",
    ]
    assert [cosine(x) for x in (1, 0.999999994, math.nan)] == ["1.00000000", "0.99999999", "NaN"]
