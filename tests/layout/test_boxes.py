"""Entities as oriented boxes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from runtime.layout import Bbox, Door, Layout, OrientedBox, Wall, Window, to_boxes
from tests.compare import Tol, assert_close

WALL = Wall(4, 1.0, 1.0, 0.5, 4.0, 5.0, 0.5, 2.0, 0.2)  # 3-4-5: the length is 5


def test_one_of_each() -> None:
    yaw = math.atan2(4.0, 3.0)
    layout = Layout(
        walls=(WALL,),
        doors=(Door(1, 4, 2.0, 2.0, 1.5, 0.9, 2.0),),
        windows=(Window(1, 4, 3.0, 3.0, 1.6, 1.2, 1.0),),
        boxes=(Bbox(1, "bed", 2.0, 3.0, 0.25, 0.3, 2.0, 1.6, 0.5),),
    )
    assert to_boxes(layout) == (
        OrientedBox(4, "wall", "wall", (2.5, 3.0, 1.5), (5.0, 0.0, 2.0), yaw),
        OrientedBox(1001, "door", "door", (2.0, 2.0, 1.5), (0.9, 0.2, 2.0), yaw),
        OrientedBox(2001, "window", "window", (3.0, 3.0, 1.6), (1.2, 0.2, 1.0), yaw),
        OrientedBox(3001, "bbox", "bed", (2.0, 3.0, 0.25), (2.0, 1.6, 0.5), 0.3),
    )


def test_doors_come_before_windows_and_lose_their_place_without_a_wall() -> None:
    layout = Layout(
        walls=(WALL,),
        doors=(Door(0, 9, *[0.0] * 5), Door(1, 4, *[0.0] * 5)),
        windows=(Window(2, 4, *[0.0] * 5), Window(3, 9, *[0.0] * 5)),
    )
    assert [box.id for box in to_boxes(layout)] == [4, 1001, 2002]


def test_the_last_wall_of_an_id_counts() -> None:
    later = Wall(4, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 2.0, 0.7)
    door = to_boxes(Layout(walls=(WALL, later), doors=(Door(0, 4, *[1.0] * 5),)))[2]
    assert (door.scale[1], door.yaw) == (0.7, math.pi / 2)


def test_rotation_turns_x_toward_y() -> None:
    box = OrientedBox(0, "bbox", "bed", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), math.pi / 6)
    turned = box.rotation @ np.array([1.0, 0.0, 2.0])
    assert_close("turned", turned, [math.sqrt(3) / 2, 0.5, 2.0], Tol(1e-15, why="one rounding of cos and sin"))


@pytest.mark.filterwarnings("error")
def test_numbers_that_are_not_finite_pass_without_a_warning() -> None:
    wall = Wall(0, math.inf, 0.0, 0.0, math.inf, math.nan, 0.0, 1.0, 0.0)
    box = Bbox(0, "bed", 0.0, 0.0, 0.0, math.inf, 1.0, 1.0, 1.0)
    for oriented in to_boxes(Layout(walls=(wall,), boxes=(box,))):
        assert np.isnan(oriented.rotation[:2, :2]).all()
