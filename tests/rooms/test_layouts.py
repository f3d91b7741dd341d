"""The ground truth of every room makes sense."""

from __future__ import annotations

import itertools
import math

import pytest

from demo.rooms import Scan, canonical
from demo.rooms.footprints import Footprint
from runtime.layout import Bbox, Layout, Wall, discretize, parse_layout, to_text, undiscretize
from runtime.layout.entities import Door, Window
from runtime.prompt.content import CATEGORIES

MM = 1e-3


def footprint(box: Bbox) -> Footprint:
    return Footprint(box.position_x, box.position_y, box.scale_x, box.scale_y, box.angle_z)


def inside(walls: tuple[Wall, ...], x: float, y: float) -> bool:
    """By the number of walls that a ray along x meets."""
    crossed = 0
    for wall in walls:
        low, high = sorted((wall.ay, wall.by))
        crossed += low <= y < high and wall.ax > x
    return crossed % 2 == 1


def test_walls_close_a_loop_counter_clockwise(scans: list[Scan]) -> None:
    for scan in scans:
        walls = scan.layout.walls
        assert [wall.id for wall in walls] == list(range(len(walls)))
        assert len(walls) in (4, 6, 8)
        for wall, following in zip(walls, (*walls[1:], walls[0]), strict=True):
            assert (wall.bx, wall.by) == (following.ax, following.ay)
            assert (wall.ax == wall.bx) != (wall.ay == wall.by)
            assert 1.2 - MM <= math.dist((wall.ax, wall.ay), (wall.bx, wall.by)) <= 7 + MM
            assert (wall.bz, wall.thickness) == (wall.az, 0.0)
            assert 2.4 <= wall.height <= 3.0
        assert sum(wall.ax * wall.by - wall.bx * wall.ay for wall in walls) > 0
        assert walls[0].ax + walls[0].ay <= min(wall.ax + wall.ay for wall in walls) + MM


def test_the_rooms_differ_in_shape(scans: list[Scan]) -> None:
    assert {len(scan.layout.walls) for scan in scans} == {4, 6, 8}


def test_openings_lie_inside_their_wall_and_apart(scans: list[Scan]) -> None:
    for scan in scans:
        layout = scan.layout
        assert 1 <= len(layout.doors) <= 2
        assert len(layout.windows) <= 4
        for opening in (*layout.doors, *layout.windows):
            wall = layout.walls[opening.wall_id]
            length = math.dist((wall.ax, wall.ay), (wall.bx, wall.by))
            along = math.dist((wall.ax, wall.ay), (opening.position_x, opening.position_y))
            rest = math.dist((wall.bx, wall.by), (opening.position_x, opening.position_y))
            assert along + rest == pytest.approx(length, abs=MM)
            assert min(along, rest) >= opening.width / 2
            assert opening.position_z + opening.height / 2 < wall.az + wall.height
            bottom = opening.position_z - opening.height / 2 - wall.az
            assert bottom == pytest.approx(0, abs=MM) if isinstance(opening, Door) else bottom > 0.39
        for one, other in itertools.combinations((*layout.doors, *layout.windows), 2):
            if one.wall_id == other.wall_id:
                apart = math.dist((one.position_x, one.position_y), (other.position_x, other.position_y))
                assert apart > (one.width + other.width) / 2


def test_boxes_stand_on_the_floor_inside_the_walls_and_apart(scans: list[Scan]) -> None:
    for scan in scans:
        walls, boxes = scan.layout.walls, scan.layout.boxes
        assert 3 <= len(boxes) <= 8
        for box in boxes:
            assert box.class_name in CATEGORIES
            assert box.position_z - box.scale_z / 2 == pytest.approx(walls[0].az, abs=MM)
            assert box.scale_z < walls[0].height
            assert -math.pi < box.angle_z <= math.pi
            assert all(inside(walls, x, y) for x, y in footprint(box).corners())
        for one, other in itertools.combinations(boxes, 2):
            assert not footprint(one).overlaps(footprint(other))


def test_doors_can_be_reached(scans: list[Scan]) -> None:
    for scan in scans:
        for door in scan.layout.doors:
            before = Footprint(door.position_x, door.position_y, 0.6, 0.6)
            assert not any(footprint(box).overlaps(before) for box in scan.layout.boxes)


def test_a_dozen_classes_and_some_that_stand_askew(scans: list[Scan]) -> None:
    boxes = [box for scan in scans for box in scan.layout.boxes]
    assert len({box.class_name for box in boxes}) == 12
    askew = [abs(math.remainder(box.angle_z, math.pi / 2)) > 0.05 for box in boxes]
    assert 0.05 < sum(askew) / len(askew) < 0.25


def test_layouts_are_in_canonical_order(scans: list[Scan]) -> None:
    for scan in scans:
        assert canonical(scan.layout) == scan.layout
        for kind in (scan.layout.doors, scan.layout.windows, scan.layout.boxes):
            assert [entity.id for entity in kind] == list(range(len(kind)))


def test_the_text_reads_back_and_fits_the_bins(scans: list[Scan]) -> None:
    for scan in scans:
        assert parse_layout(to_text(scan.layout)) == scan.layout
        wall = scan.layout.walls[0]
        bins = discretize(Layout(walls=(Wall(0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, wall.height, 0.0),)), 640)
        assert undiscretize(bins, 640).walls[0].height == pytest.approx(wall.height, abs=0.05)


def test_openings_are_doors_and_windows(scans: list[Scan]) -> None:
    assert all(isinstance(door, Door) for scan in scans for door in scan.layout.doors)
    assert all(isinstance(window, Window) for scan in scans for window in scan.layout.windows)
