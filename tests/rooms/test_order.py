"""One order for a room, whichever way it is turned."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from demo.rooms import Scan, canonical, transform
from demo.rooms.order import wrapped
from runtime.errors import SceneError
from runtime.layout import Bbox, Door, Layout, Wall, translate


def square(swap: bool = False) -> Layout:
    """A room of 4 m x 3 m with a door in the wall x = 4."""
    corners = [(4.0, 0.0), (4.0, 3.0), (0.0, 3.0), (0.0, 0.0)]
    ends = list(zip(corners, corners[1:] + corners[:1], strict=True))
    if swap:
        ends = [(b, a) for a, b in reversed(ends)]
    walls = tuple(Wall(10 + index, *a, 0.0, *b, 0.0, 2.5, 0.0) for index, (a, b) in enumerate(ends))
    number = next(wall.id for wall in walls if wall.ax == wall.bx == 4.0)
    return Layout(walls=walls, doors=(Door(7, number, 4.0, 1.0, 1.0, 0.9, 2.0),))


def close(one: Layout, other: Layout) -> bool:
    """Equal but for the last digits."""
    return canonical(one) == canonical(other) or all(
        left == pytest.approx(right, abs=1e-6)
        for one_kind, other_kind in zip(numbers(one), numbers(other), strict=True)
        for left, right in zip(one_kind, other_kind, strict=True)
    )


def numbers(layout: Layout) -> list[list[float]]:
    return [
        [value for name in entity.__slots__ if isinstance(value := getattr(entity, name), (int, float))]
        for entity in layout.entities()
    ]


@pytest.mark.parametrize("swap", [False, True])
def test_walls_start_at_the_low_corner_and_run_counter_clockwise(swap: bool) -> None:
    layout = canonical(square(swap))
    assert [(wall.ax, wall.ay) for wall in layout.walls] == [(0.0, 0.0), (4.0, 0.0), (4.0, 3.0), (0.0, 3.0)]
    assert [wall.id for wall in layout.walls] == [0, 1, 2, 3]
    assert [(door.id, door.wall_id) for door in layout.doors] == [(0, 1)]


def test_of_two_corners_as_low_the_one_further_left_comes_first() -> None:
    corners = [(1.0, 0.0), (3.0, 0.0), (3.0, 2.0), (0.0, 2.0), (0.0, 1.0), (1.0, 1.0)]
    ends = zip(corners, corners[1:] + corners[:1], strict=True)
    walls = tuple(Wall(index, *a, 0.0, *b, 0.0, 2.5, 0.0) for index, (a, b) in enumerate(ends))
    first = canonical(Layout(walls=walls)).walls[0]
    assert (first.ax, first.ay) == (0.0, 1.0)


def test_walls_in_any_order_make_the_same_loop(scans: list[Scan]) -> None:
    for seed, scan in enumerate(scans):
        rows = np.random.default_rng(seed).permutation(len(scan.layout.walls))
        mixed = replace(scan.layout, walls=tuple(scan.layout.walls[row] for row in rows))
        assert canonical(mixed) == scan.layout


def test_boxes_go_by_x_then_y_in_cells_wherever_the_room_lies() -> None:
    places = [(2.0, 1.0), (1.02, 2.0), (0.98, 0.5), (1.01, 1.9)]
    boxes = tuple(Bbox(9, "bed", x, y, 0.5, 0.0, 0.3, 0.2, 1.0) for x, y in places)
    layout = canonical(replace(square(), boxes=boxes))
    expected = [(0.98, 0.5), (1.01, 1.9), (1.02, 2.0), (2.0, 1.0)]
    assert [(box.position_x, box.position_y) for box in layout.boxes] == expected
    moved = canonical(translate(layout, (-3.1, 7.7, 0.4)))
    assert close(moved, translate(layout, (-3.1, 7.7, 0.4)))
    assert [box.id for box in moved.boxes] == [0, 1, 2, 3]


def test_an_open_loop_and_an_opening_without_a_wall_are_refused() -> None:
    layout = square()
    with pytest.raises(SceneError, match=r"must close a loop"):
        canonical(replace(layout, walls=layout.walls[:3], doors=()))
    with pytest.raises(SceneError, match=r"door_7 is in wall_3, which is not in the layout"):
        canonical(replace(layout, doors=(replace(layout.doors[0], wall_id=3),)))


def test_a_layout_without_walls_is_ordered_all_the_same() -> None:
    boxes = tuple(Bbox(0, "bed", x, 0.0, 0.5, 0.0, 1.0, 2.0, 1.0) for x in (3.0, 1.0))
    assert [box.position_x for box in canonical(Layout(boxes=boxes)).boxes] == [1.0, 3.0]


@pytest.mark.parametrize(
    ("angle", "period", "expected"),
    [
        (-math.pi, 2 * math.pi, math.pi),
        (-3.141593, 2 * math.pi, math.pi),
        (math.pi, 2 * math.pi, math.pi),
        (1.5 * math.pi, 2 * math.pi, -math.pi / 2),
        (7.0, 2 * math.pi, 7.0 - 2 * math.pi),
        (-math.pi / 2, math.pi, math.pi / 2),
        (math.pi, math.pi, 0.0),
        (math.pi / 2, math.pi / 2, 0.0),
        (0.3, math.pi / 2, 0.3),
    ],
)
def test_angles_are_wrapped(angle: float, period: float, expected: float) -> None:
    assert wrapped(angle, period) == pytest.approx(expected, abs=1e-12)


def same(one: Scan, other: Scan) -> bool:
    return np.array_equal(one.points, other.points) and close(one.layout, other.layout)


def test_quarter_turns_and_mirrors_form_a_group(scans: list[Scan]) -> None:
    for scan in scans[:12]:
        assert same(transform(scan, 0, False), scan)
        assert same(transform(transform(scan, 0, True), 0, True), scan)
        for turns in range(4):
            turned = transform(scan, turns, False)
            assert same(transform(turned, 4 - turns, False), scan)
            assert same(transform(turned, 1, False), transform(scan, turns + 1, False))
            assert same(transform(turned, 0, True), transform(scan, -turns, True))


def test_a_turn_is_counter_clockwise_and_a_mirror_comes_before_it() -> None:
    scan = Scan(np.array([[1, 2, 3]], dtype=np.float32), np.zeros((1, 3), dtype=np.uint8), Layout())
    assert transform(scan, 1, False).points.tolist() == [[-2, 1, 3]]
    assert transform(scan, 1, True).points.tolist() == [[-2, -1, 3]]
