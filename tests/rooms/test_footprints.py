"""Rectangles on the floor, compared with points drawn in them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from demo.rooms.footprints import Footprint


def drawn(rng: np.random.Generator) -> Footprint:
    x, y, angle = rng.uniform([-2, -2, -math.pi], [2, 2, math.pi]).tolist()
    width, depth = rng.uniform(0.2, 2.5, 2).tolist()
    return Footprint(x, y, width, depth, angle)


def test_two_overlap_where_a_point_lies_in_both() -> None:
    rng = np.random.default_rng(0)
    shares = np.stack(np.meshgrid(np.linspace(-0.5, 0.5, 41), np.linspace(-0.5, 0.5, 41)), axis=-1).reshape(-1, 2)
    answers = set()
    for _ in range(150):
        one, other = drawn(rng), drawn(rng)
        cos, sin = math.cos(one.angle), math.sin(one.angle)
        x, y = shares[:, 0] * one.width, shares[:, 1] * one.depth
        common = sum(
            other.holds(one.x + cos * a - sin * b, one.y + sin * a + cos * b)
            for a, b in zip(x.tolist(), y.tolist(), strict=True)
        )
        overlap = one.overlaps(other)
        assert overlap == other.overlaps(one)
        assert overlap or common == 0
        assert common or not overlap or not one.grown(-0.05).overlaps(other.grown(-0.05))
        answers.add((overlap, common > 20))
    assert answers >= {(True, True), (False, False)}


def test_rectangles_that_touch_do_not_overlap() -> None:
    one, other = Footprint.spanning(0, 0, 1, 1), Footprint.spanning(1, 0, 2, 1)
    assert not one.overlaps(other)
    assert one.grown(0.01).overlaps(other)


def test_reach_is_half_the_extent_of_the_corners() -> None:
    footprint = Footprint(1.0, 2.0, 3.0, 1.0, 0.4)
    for angle in (0.0, 0.4, 1.1, -2.0):
        away = [(x - 1) * math.cos(angle) + (y - 2) * math.sin(angle) for x, y in footprint.corners()]
        assert footprint.reach(angle) == pytest.approx(max(away))


@pytest.mark.parametrize(
    ("start", "end", "crossed"),
    [
        ((-1, 0.5), (2, 0.5), True),
        ((-1, 0.5), (-0.1, 0.5), False),
        ((-1, 0.0), (2, 0.0), False),  # along its edge
        ((-0.5, 0.6), (0.6, 1.6), False),
        ((-0.5, 0.6), (0.6, 1.2), True),
        ((0.5, 0.5), (5, 5), True),
    ],
)
def test_segments_that_cross(start: tuple[float, float], end: tuple[float, float], crossed: bool) -> None:
    assert Footprint.spanning(0, 0, 1, 1).crossed_by(start, end) == crossed
