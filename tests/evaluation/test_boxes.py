"""IoU of boxes: the worked example, a grid that counts, and what must not change it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.arrays import Array
from runtime.evaluation.boxes import box_iou
from runtime.layout import Bbox

SIDE = 800  # cells of the grid along x and y
CELL = 5 / SIDE  # metres; the grid covers -2.5 .. 2.5, and so every box of the test


def box(x: float, y: float, z: float, angle: float, *scale: float) -> Bbox:
    return Bbox(0, "bed", x, y, z, angle, *scale)


def iou_of(one: Bbox, other: Bbox, *, strict: bool = False) -> float:
    return float(box_iou([one], [other], strict=strict)[0, 0])


def covered(it: Bbox, points: Array) -> Array:
    """Which of `points` [N, 2] lie in the footprint."""
    offset = points - (it.position_x, it.position_y)
    along = offset @ (math.cos(it.angle_z), math.sin(it.angle_z))
    across = offset @ (-math.sin(it.angle_z), math.cos(it.angle_z))
    inside: Array = (np.abs(along) <= it.scale_x / 2) & (np.abs(across) <= it.scale_y / 2)
    return inside


def counted(one: Bbox, other: Bbox, *, strict: bool) -> float:
    """IoU by counting the cells of a grid; heights exactly."""
    axis = (np.arange(SIDE) + 0.5) * CELL - 2.5
    points = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    first, second = covered(one, points), covered(other, points)
    above = 0.5 if strict else 0.0
    spans = [(it.position_z - (1 - above) * it.scale_z, it.position_z + above * it.scale_z) for it in (one, other)]
    shared = (first & second).sum() * max(0.0, min(top for _, top in spans) - max(bottom for bottom, _ in spans))
    return float(shared / (first.sum() * one.scale_z + second.sum() * other.scale_z - shared))


BOXES = st.builds(
    box, *[st.floats(-1, 1)] * 3, st.floats(-6.2832, 6.2832), st.floats(0.5, 2), st.floats(0.5, 2), st.floats(0.3, 2)
)


@settings(max_examples=60, deadline=None)
@given(BOXES, BOXES, st.booleans())
def test_as_a_grid_counts(one: Bbox, other: Bbox, strict: bool) -> None:
    expected = counted(one, other, strict=strict)
    assert iou_of(one, other, strict=strict) == pytest.approx(expected, abs=0.04)
    assert iou_of(other, one, strict=strict) == pytest.approx(expected, abs=0.04)


def test_the_centre_is_the_top_unless_strict() -> None:
    """Ranges [-1, 1] and [0, 1] over one footprint: half of it is shared, and the original says a fifth."""
    tall, short = box(0, 0, 0.0, 0.3, 1, 1, 2), box(0, 0, 0.5, 0.3, 1, 1, 1)
    assert iou_of(tall, short) == 0.2
    assert iou_of(tall, short, strict=True) == 0.5


def test_equal_heights_hide_the_difference() -> None:
    one, other = box(0, 0, 0.0, 0.0, 1, 1, 1), box(0, 0, 0.25, 0.0, 1, 1, 1)
    assert iou_of(one, other) == iou_of(one, other, strict=True) == 0.6


@pytest.mark.parametrize("strict", [False, True])
def test_five_decimals(strict: bool) -> None:
    assert iou_of(box(0, 0, 0, 0, 1, 1, 1), box(2 / 3, 0, 0, 0, 1, 1, 1), strict=strict) == 0.2
    assert iou_of(box(0, 0, 0, 0, 1, 1, 1), box(0.3, 0, 0, 0, 1, 1, 1), strict=strict) == 0.53846  # 0.7 / 1.3


@pytest.mark.parametrize("turn", [math.pi, 2 * math.pi, -math.pi])
def test_a_half_turn_is_none(turn: float) -> None:
    assert iou_of(box(1, 2, 0, 0.4, 2, 1, 1), box(1, 2, 0, 0.4 + turn, 2, 1, 1)) == 1.0


def test_a_quarter_turn_swaps_the_sides() -> None:
    assert iou_of(box(1, 2, 0, 0.0, 2, 1, 1), box(1, 2, 0, math.pi / 2, 1, 2, 1)) == 1.0
    assert iou_of(box(1, 2, 0, 0.0, 2, 1, 1), box(1, 2, 0, math.pi / 2, 2, 1, 1)) == 0.33333


def test_the_octagon_of_two_squares() -> None:
    octagon = 2 * (math.sqrt(2) - 1)  # shared by two unit squares, one of them turned by 45 degrees
    assert iou_of(box(0, 0, 0, 0, 1, 1, 1), box(0, 0, 0, math.pi / 4, 1, 1, 1)) == round(octagon / (2 - octagon), 5)


def test_thin_boxes_are_as_thick_as_a_tenth() -> None:
    assert iou_of(box(0, 0, 0, 0, 1, 1, 0.0), box(0, 0, 0, 0, 1, 1, 0.1)) == 1.0
    assert iou_of(box(0, 0, 0, 0, 0.05, 1, 1), box(0, 0, 0, 0, 0.2, 1, 1)) == 0.5


def test_shared_edges_do_not_invent_corners() -> None:
    """Footprints whose edges lie on one line, under an angle without exact cosine: half of the larger, at any place."""
    for angle in np.linspace(-6.2, 6.2, 97):
        large, small = box(1.5, 0.5, 1, angle, 2, 1, 1), box(1.5, 0.5, 1, angle, 2, 0.5, 1)
        assert iou_of(large, small) == iou_of(small, large) == 0.5


@pytest.mark.parametrize("name", ["position_x", "position_z", "angle_z", "scale_x", "scale_z"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_overlaps_nothing(name: str, value: float) -> None:
    good = box(0, 0, 0, 0, 1, 1, 1)
    bad = box(0, 0, 0, 0, 1, 1, 1)
    object.__setattr__(bad, name, value)
    with np.errstate(all="ignore"):
        for pair in ((good, bad), (bad, good), (bad, bad)):
            assert not iou_of(*pair) > 0


def test_every_pair_has_its_place() -> None:
    boxes = [box(3.0 * i, 0, 0, 0, 1, 1, 1) for i in range(3)]
    np.testing.assert_array_equal(box_iou(boxes[:2], [*boxes[1:], boxes[0]], strict=False), [[0, 0, 1], [1, 0, 0]])
    assert box_iou([], boxes, strict=False).shape == (0, 3)
    assert box_iou(boxes, [], strict=False).shape == (3, 0)
