"""Points lie where the layout says that surfaces are, and where a scanner can see."""

from __future__ import annotations

import math

import numpy as np
import pytest

from demo.rooms import SPLITS, Scan, make_scan, transform
from demo.rooms.dice import Dice
from demo.rooms.parts import Piece, Solids, block, cylinder, ellipsoid
from demo.rooms.plans import Plan, make_plan
from demo.rooms.rays import CEILING, FIRST_PIECE, FLOOR, Hits, Scenery, cast
from demo.rooms.scanner import scan_room
from demo.rooms.standpoints import standpoints
from runtime.arrays import Array
from runtime.layout import Bbox, Layout

FIRST_LINE = "wall_0=Wall(5.259,-2.004,2.725,11.305,-2.004,2.725,2.542,0.0)"  # of seed 3
COUNT, MEDIAN, COLOR = 19951, (8.343, 0.992, 4.381), (153.4, 143.2, 123.2)


def test_the_splits_share_no_seed() -> None:
    train, validation, test = SPLITS["train"], SPLITS["validation"], SPLITS["test"]
    assert train.stop <= validation.start < validation.stop <= test.start
    assert min(map(len, SPLITS.values())) >= 1_000_000


def test_a_seed_names_one_scan() -> None:
    one, again, other = make_scan(5), make_scan(5), make_scan(6)
    assert one.points.tobytes() == again.points.tobytes()
    assert one.colors.tobytes() == again.colors.tobytes()
    assert one.layout == again.layout
    assert one.layout != other.layout


def test_seed_3_is_what_it_always_was() -> None:
    """Loose enough for another machine's last bits, tight enough for any change of what is drawn."""
    scan = make_scan(3)
    assert str(scan.layout).splitlines()[0] == FIRST_LINE
    assert len(scan.points) == pytest.approx(COUNT, abs=20)
    assert np.quantile(scan.points, 0.5, axis=0) == pytest.approx(MEDIAN, abs=0.02)
    assert scan.colors.mean(axis=0) == pytest.approx(COLOR, abs=0.5)


def test_counts_and_types(scans: list[Scan]) -> None:
    for scan in scans:
        assert scan.points.dtype == np.float32
        assert scan.colors.dtype == np.uint8
        assert scan.points.shape == scan.colors.shape
        assert 13_000 <= len(scan.points) <= 40_000
        assert np.isfinite(scan.points).all()


def from_walls(layout: Layout, points: Array) -> Array:
    """Distance [N] in x and y to the nearest wall."""
    distances = []
    for wall in layout.walls:
        a, way = np.array([wall.ax, wall.ay]), np.array([wall.bx - wall.ax, wall.by - wall.ay])
        share = np.clip((points[:, :2] - a) @ way / (way @ way), 0, 1)
        distances.append(np.linalg.norm(points[:, :2] - a - share[:, None] * way, axis=1))
    return np.min(distances, axis=0)


def in_box(box: Bbox, points: Array, margin: float) -> Array:
    """Which points [N] lie inside a box that is `margin` metres larger on every side."""
    off = points - np.array([box.position_x, box.position_y, box.position_z])
    cos, sin = math.cos(box.angle_z), math.sin(box.angle_z)
    along, across = cos * off[:, 0] + sin * off[:, 1], cos * off[:, 1] - sin * off[:, 0]
    local = np.abs(np.stack([along, across, off[:, 2]], axis=1))
    return (local <= np.array([box.scale_x, box.scale_y, box.scale_z]) / 2 + margin).all(axis=1)


def explained(scan: Scan) -> float:
    """The share of points on a wall, the floor, the ceiling, in a box, or beyond an opening."""
    wall = scan.layout.walls[0]
    z = scan.points[:, 2] - wall.az
    shown = (np.abs(z) < 0.05) | (np.abs(z - wall.height) < 0.05) | (from_walls(scan.layout, scan.points) < 0.2)
    for box in scan.layout.boxes:
        shown |= in_box(box, scan.points, 0.05)
    x, y = [wall.ax for wall in scan.layout.walls], [wall.ay for wall in scan.layout.walls]
    shown |= (scan.points[:, 0] < min(x)) | (scan.points[:, 0] > max(x))
    shown |= (scan.points[:, 1] < min(y)) | (scan.points[:, 1] > max(y))
    return float(shown.mean())


def test_the_layout_explains_the_points_of_every_room(scans: list[Scan]) -> None:
    shares = [explained(scan) for scan in scans]
    assert np.median(shares) > 0.99
    assert min(shares) > 0.9  # furniture that is hardly seen is not in the layout


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_moved_layout_explains_the_moved_points(scans: list[Scan], turns: int, mirror: bool) -> None:
    for scan in scans[:8]:
        assert explained(transform(scan, turns, mirror)) == pytest.approx(explained(scan), abs=1e-3)


def test_every_entity_is_seen(scans: list[Scan]) -> None:
    for scan in scans:
        for box in scan.layout.boxes:
            assert in_box(box, scan.points, 0.05).sum() >= 20
        for wall in scan.layout.walls:
            alone = Layout(walls=(wall,))
            assert (from_walls(alone, scan.points) < 0.06).sum() >= 50


def test_boxes_are_tight(scans: list[Scan]) -> None:
    """Points of a box that is well seen reach its top: no box is much higher than what stands in it."""
    for scan in scans:
        for box in scan.layout.boxes:
            held = scan.points[in_box(box, scan.points, 0.02)]
            if len(held) > 200:
                assert held[:, 2].max() > box.position_z + box.scale_z / 2 - 0.12


def one_room(parts: tuple[Piece, ...] = ()) -> Scenery:
    """4 m x 3 m x 2.5 m around what is given."""
    from demo.rooms.footprints import Footprint

    plan = Plan(((0, 0), (4, 0), (4, 3), (0, 3)), Footprint.spanning(0, 0, 4, 3), (), 2.5)
    white = np.full(3, 255.0)
    solids = tuple(Solids.of(piece.parts) for piece in parts)
    return Scenery(plan, (), parts, solids, np.tile(white, (4, 1)), white, white)


def shoot(scenery: Scenery, origin: tuple[float, float, float], targets: list[tuple[float, float, float]]) -> Hits:
    start = np.array(origin, dtype=np.float32)
    rays = np.array(targets, dtype=np.float32) - start
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    return cast(scenery, start, rays, np.full(len(rays), 0.5, dtype=np.float32))


def test_rays_end_at_floor_ceiling_and_walls() -> None:
    targets = [(1.1, 1.1, 0.0), (1.2, 1.3, 2.5), (4.0, 1.2, 1.1), (1.2, 0.0, 1.3), (0.0, 1.2, 1.4), (1.2, 3.0, 1.4)]
    hits = shoot(one_room(), (1, 1, 1), targets)
    assert hits.owner.tolist() == [FLOOR, CEILING, 1, 0, 3, 2]
    assert hits.distance == pytest.approx([math.dist((1, 1, 1), target) for target in targets], abs=1e-5)


def test_what_stands_before_hides_what_is_behind() -> None:
    near = Piece((2.0, 1.0, 0.0), 0.3, (block((-0.2, 0.2), (-0.2, 0.2), (0.0, 1.3), (9.0, 9.0, 9.0)),))
    far = Piece((3.0, 1.0, 0.0), 0.0, (block((-0.1, 0.1), (-0.1, 0.1), (0.0, 2.0), (7.0, 7.0, 7.0)),))
    hits = shoot(one_room((far, near)), (1, 1, 1), [(3.0, 1.0, 0.9), (3.0, 1.0, 1.9), (3.0, 2.9, 1.01)])
    assert hits.owner.tolist() == [FIRST_PIECE + 1, FIRST_PIECE, 2]


@pytest.mark.parametrize(
    ("part", "distance", "normal"),
    [
        (block((-0.3, 0.3), (-0.2, 0.2), (0, 2), (0, 0, 0)), 1.7, (-1, 0, 0)),
        (cylinder(0, 0, 0.25, (0, 2), (0, 0, 0)), 1.75, (-1, 0, 0)),
        (ellipsoid((-0.4, 0.4), (-0.2, 0.2), (0, 2), (0, 0, 0)), 1.6, (-1, 0, 0)),
    ],
)
def test_distances_and_normals(part: tuple[object, ...], distance: float, normal: tuple[float, float, float]) -> None:
    piece = Piece((3.0, 1.0, 0.0), 0.0, (part,))  # type: ignore[arg-type]
    hits = shoot(one_room((piece,)), (1, 1, 1), [(3.0, 1.0, 1.0)])
    assert hits.distance[0] == pytest.approx(distance, abs=1e-5)
    assert hits.normal[0] == pytest.approx(normal, abs=1e-4)


def test_the_lid_of_a_cylinder_is_flat() -> None:
    piece = Piece((2.0, 1.0, 0.0), 0.0, (cylinder(0, 0, 0.5, (0, 0.5), (0, 0, 0)),))
    hits = shoot(one_room((piece,)), (2, 1, 2), [(2.3, 1.2, 0.5)])
    assert hits.normal[0] == pytest.approx((0, 0, 1), abs=1e-6)
    assert hits.distance[0] == pytest.approx(math.dist((2, 1, 2), (2.3, 1.2, 0.5)), abs=1e-5)


def test_points_stray_from_surfaces_by_the_noise_alone() -> None:
    points = scan_room(one_room(), [(1.0, 1.0, 1.5)], 25_000, Dice(4)).points
    high = np.array([4.0, 3.0, 2.5])
    off = np.minimum(np.abs(points), np.abs(points - high)).min(axis=1)
    assert np.quantile(off, 0.5) < 0.012
    assert np.quantile(off, 0.98) < 0.04


def test_density_falls_with_distance() -> None:
    points = scan_room(one_room(), [(0.5, 0.5, 1.5)], 25_000, Dice(4)).points
    floor = points[np.abs(points[:, 2]) < 0.04]
    near = (np.abs(floor[:, :2] - [0.7, 0.7]) < 0.5).all(axis=1).sum()
    far = (np.abs(floor[:, :2] - [3.3, 2.3]) < 0.5).all(axis=1).sum()
    assert near > 4 * far > 0


def test_scanners_see_every_wall_of_every_shape() -> None:
    given_up = 0
    for seed in range(200):
        dice = Dice(seed)
        plan = make_plan(dice)
        places = standpoints(plan, [], 30_000, dice)
        if places is None:  # the room is drawn again
            given_up += 1
            continue
        assert 1 <= len(places) <= 3
        for side in plan.sides:
            ends = [side.at(0.1, 0.05), side.at(side.length - 0.1, 0.05)]
            hidden = [all(any(n.crossed_by(place[:2], end) for n in plan.notches) for place in places) for end in ends]
            assert not any(hidden)
    assert given_up < 10
