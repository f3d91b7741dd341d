"""Overlap of flat shapes where the answer is known, above all where edges lie on one line."""

from __future__ import annotations

import math

import numpy as np
import pytest

from runtime.arrays import Array
from runtime.evaluation.polygons import MAX_COORDINATE, overlap_areas, ratio

CORNERS = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])


def rectangle(angle: float, width: float, depth: float, centre: tuple[float, float] = (0.0, 0.0)) -> Array:
    cosine, sine = math.cos(angle), math.sin(angle)
    return CORNERS * (width, depth) @ np.array([[cosine, sine], [-sine, cosine]]) + centre


def shared(first: Array, second: Array) -> float:
    return float(overlap_areas(first[None], second[None])[2][0])


def test_a_pair_for_which_the_library_finds_no_overlap_without_a_grid() -> None:
    """Same centre, same turn, same depth: four edges lie on two lines, and rounding parts them."""
    small, large = rectangle(2.03125, 0.5, 1.1170950824387094), rectangle(2.03125, 1.5, 1.1170950824387094)
    assert shared(small, large) == pytest.approx(0.5 * 1.1170950824387094)
    assert shared(large, small) == pytest.approx(0.5 * 1.1170950824387094)


def test_one_rectangle_in_another_with_edges_on_the_same_lines() -> None:
    chance = np.random.default_rng(3)
    many = [(chance.uniform(-7, 7), *chance.uniform(0.1, 4, 2), chance.uniform(0.1, 1)) for _ in range(4000)]
    small = np.array([rectangle(angle, width * part, depth) for angle, width, depth, part in many])
    large = np.array([rectangle(angle, width, depth) for angle, width, depth, _ in many])
    expected = [width * part * depth for _, width, depth, part in many]
    for one, other in ((small, large), (large, small), (small, small)):
        np.testing.assert_allclose(overlap_areas(one, other)[2], expected, rtol=1e-9)


def test_areas_of_both_and_of_none() -> None:
    one, other = rectangle(0.3, 2, 1), rectangle(0.3, 1, 1, (9.0, 0.0))
    np.testing.assert_allclose(overlap_areas(one[None], other[None]), [[2.0], [1.0], [0.0]], atol=1e-12)
    touching = rectangle(0.0, 2, 1, (2.0, 0.0))
    assert shared(rectangle(0.0, 2, 1), touching) == 0.0


def test_corners_may_go_round_either_way() -> None:
    assert shared(rectangle(0.4, 2, 1)[::-1], rectangle(0.4, 1, 2)) == pytest.approx(1.0)


@pytest.mark.parametrize("far", [0.9 * MAX_COORDINATE, 1.1 * MAX_COORDINATE, 1e6])
def test_far_from_the_origin(far: float) -> None:
    one, other = rectangle(0.0, 2, 1, (far, far)), rectangle(0.0, 2, 1, (far + 1, far))
    assert shared(one, other) == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_has_no_area_and_spares_its_neighbours(value: float) -> None:
    bad = rectangle(0.0, 1, 1)
    bad[2, 1] = value
    good = rectangle(0.0, 1, 1)
    areas = overlap_areas(np.stack([bad, good, good]), np.stack([good, good, bad]))
    np.testing.assert_array_equal(areas, [[math.nan, 1, math.nan]] * 3)


def test_nothing_to_compare() -> None:
    assert [len(it) for it in overlap_areas(np.empty((0, 4, 2)), np.empty((0, 4, 2)))] == [0, 0, 0]


def test_no_ratio_without_a_union() -> None:
    np.testing.assert_array_equal(
        ratio(np.array([0.0, 1.0, 1.0]), np.array([0.0, 2.0, math.inf])), [math.nan, 0.5, 0.0]
    )
