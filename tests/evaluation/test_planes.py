"""IoU of rectangles: intervals computed by hand, and what must not change it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.evaluation.planes import plane_iou, rectangles
from runtime.layout import Door, Layout, Wall, Window

WALL = Wall(0, 0.0, 0.0, 0.0, 4.0, 0.0, 0.0, 2.5, 0.1)  # along x; its normal points to -y
NUMBERS = st.integers(0, 40).map(lambda bins: bins / 8)


def iou_of(predicted: Wall, truth: Wall, *, strict: bool = False) -> float:
    one, other = (rectangles(Layout(walls=(wall,)))["wall"] for wall in (predicted, truth))
    return float(plane_iou(one, other, strict=strict)[0][0, 0])


def placed(start: float, length: float, bottom: float, height: float, yaw: float = 0.0) -> Wall:
    """A wall that begins at `start` on the ray from the origin under `yaw`."""
    cosine, sine = math.cos(yaw), math.sin(yaw)
    end = start + length
    return Wall(0, start * cosine, start * sine, bottom, end * cosine, end * sine, bottom, height, 0.0)


def interval(first: tuple[float, float], second: tuple[float, float]) -> float:
    return max(0.0, min(first[0] + first[1], second[0] + second[1]) - max(first[0], second[0]))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(NUMBERS, NUMBERS.map(lambda it: it + 0.125)), min_size=4, max_size=4), st.floats(-7, 7))
def test_product_of_two_intervals_whichever_way_the_wall_runs(spans: list[tuple[float, float]], yaw: float) -> None:
    (x, width), (z, height), (u, length), (w, depth) = spans
    shared = interval((x, width), (u, length)) * interval((z, height), (w, depth))
    expected = shared / (width * height + length * depth - shared)
    one, other = placed(x, width, z, height, yaw), placed(u, length, w, depth, yaw)
    assert iou_of(one, other) == pytest.approx(expected, abs=1e-6)
    assert iou_of(other, one, strict=True) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("y", "lenient", "strict"),
    [(0.19, 1.0, 1.0), (0.21, 0.0, 0.0), (9.0, 0.0, 0.0), (-0.19, 1.0, 1.0), (-0.21, 1.0, 0.0), (-9.0, 1.0, 0.0)],
)
def test_the_distance_has_a_sign_unless_strict(y: float, lenient: float, strict: float) -> None:
    moved = replace(WALL, ay=y, by=y)
    assert iou_of(moved, WALL) == pytest.approx(lenient)
    assert iou_of(moved, WALL, strict=True) == pytest.approx(strict)


def test_the_sign_follows_the_prediction() -> None:
    """Its ends swapped, a wall faces the other way: now the far side is the other one."""
    for y, lenient in ((9.0, 1.0), (-9.0, 0.0)):
        turned = Wall(0, 4.0, y, 0.0, 0.0, y, 0.0, 2.5, 0.1)
        assert iou_of(turned, WALL) == pytest.approx(lenient)
        assert iou_of(turned, WALL, strict=True) == 0.0


@pytest.mark.parametrize(("degrees", "near"), [(4.9, True), (5.1, False), (90.0, False), (175.1, True), (174.9, False)])
def test_planes_may_differ_by_five_degrees(degrees: float, near: bool) -> None:
    angle = math.radians(degrees)
    half = (2 * math.cos(angle), 2 * math.sin(angle))
    turned = Wall(0, 2 - half[0], -half[1], 0.0, 2 + half[0], half[1], 0.0, 2.5, 0.0)
    expected = abs(math.cos(angle)) if near else 0.0  # seen from the front, it is narrower by the cosine
    # Its first corner is up to 0.17 m off the other plane, on either side, and within 0.2 m.
    assert iou_of(turned, WALL, strict=True) == pytest.approx(expected, abs=1e-6)


def test_a_sloped_wall_is_compared_as_the_parallelogram_it_is() -> None:
    """Its lower edge climbs 1 m over 4 m: what it shares with the upright rectangle is 10 - 2 of 12 m^2."""
    sloped = replace(WALL, bz=1.0)
    assert iou_of(sloped, sloped) == pytest.approx(1.0)
    assert iou_of(sloped, WALL) == pytest.approx(8 / 12)
    assert iou_of(WALL, sloped) == pytest.approx(8 / 12)


@pytest.mark.parametrize("kind", [Door, Window])
def test_openings_hang_along_their_wall_by_centre(kind: type[Door] | type[Window]) -> None:
    wall = Wall(7, 1.0, 1.0, 0.0, 4.0, 5.0, 2.0, 2.5, 0.1)  # climbs: what hangs in it stays level
    opening = kind(3, 7, 2.0, 3.0, 1.0, 1.0, 2.0)
    layout = Layout((wall,), doors=(opening,)) if isinstance(opening, Door) else Layout((wall,), windows=(opening,))
    (shape,) = rectangles(layout)[kind.label]
    assert shape.name == f"{kind.label}_3"
    np.testing.assert_allclose(shape.corners, [[1.7, 2.6, 0], [2.3, 3.4, 0], [2.3, 3.4, 2], [1.7, 2.6, 2]])


def test_walls_without_extent_and_what_hangs_in_them_are_left_out() -> None:
    post = Wall(0, 1.0, 1.0, 0.0, 1.0, 1.0, 3.0, 2.5, 0.1)  # runs along z only
    just = Wall(1, 1.0, 1.0, 0.0, 1.0, 1.000002, 0.0, 2.5, 0.1)
    doors = tuple(Door(wall, wall, 1.0, 1.0, 1.0, 1.0, 2.0) for wall in (0, 1))
    found = rectangles(Layout((post, just), doors))
    assert [it.name for it in found["wall"]] == ["wall_1"]
    assert [it.name for it in found["door"]] == ["door_1"]


def test_of_walls_with_one_id_the_last_holds_the_door() -> None:
    across = Wall(0, 0.0, 0.0, 0.0, 0.0, 4.0, 0.0, 2.5, 0.1)
    door = Door(0, 0, 1.0, 1.0, 1.0, 2.0, 2.0)
    (shape,) = rectangles(Layout((WALL, across), (door,)))["door"]
    np.testing.assert_allclose(shape.corners[:2], [[1, 0, 0], [1, 2, 0]])


def test_iou_is_float32_at_the_threshold() -> None:
    """As in the original: an IoU within 1.5e-8 below a half is a half."""
    assert iou_of(replace(WALL, bx=1.99999999), WALL) == 0.5
    assert iou_of(replace(WALL, bx=1.999999), WALL) < 0.5


@pytest.mark.parametrize("height", [0.0, 1e-9, math.nan, math.inf])
def test_a_shape_without_area_overlaps_nothing_and_is_named(height: float) -> None:
    flat = rectangles(Layout((replace(WALL, id=5, height=height),)))["wall"]
    good = rectangles(Layout((WALL,)))["wall"]
    for sides, names in (((flat, good), (["wall_5"], [])), ((good, flat), ([], ["wall_5"]))):
        with np.errstate(invalid="ignore"):
            iou, found = plane_iou(*sides, strict=False)
        assert (iou.tolist(), found) == ([[0.0]], names)


def test_a_flat_shape_costs_no_other_pair() -> None:
    one = rectangles(Layout((replace(WALL, height=0.0), WALL)))["wall"]
    other = rectangles(Layout((WALL, replace(WALL, height=math.nan))))["wall"]
    iou, _ = plane_iou(one, other, strict=False)
    np.testing.assert_allclose(iou, [[0, 0], [1, 0]], rtol=1e-6)
