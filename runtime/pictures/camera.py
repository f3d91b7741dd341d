"""From where one looks into the corner of a room, and which walls stand in the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from runtime.arrays import Array
from runtime.pictures.shapes import Shape, Shapes
from runtime.pictures.space import Space

ELEVATION = np.radians(40.0)
ASKEW = np.radians(34.0)  # from the walls' direction: at 45 degrees corners and edges would hide each other
FACING = 0.03  # a wall that is turned less than this to the camera hides nothing
STRIP = (0.02, 0.16)  # of the span: where points beside a wall tell on which side the room is
MOST_RIM = 0.5  # of the points; where the rim has more, the scene is no room, and all of it is shown
THICK = (-0.025, 0.06)  # of the span: points that belong to a near wall, from its inner to its outer side


@dataclass(frozen=True, slots=True)
class Camera:
    """An orthographic view from above: metres to the right, up and towards the eye."""

    right: Array  # unit vectors [3]
    up: Array
    toward: Array

    @classmethod
    def at(cls, azimuth: float) -> Camera:
        """Look from this direction of the horizon, in radians."""
        cos, sin = np.cos(azimuth), np.sin(azimuth)
        low, high = np.cos(ELEVATION), np.sin(ELEVATION)
        return cls(
            np.array([-sin, cos, 0.0]),
            np.array([-high * cos, -high * sin, low]),
            np.array([low * cos, low * sin, high]),
        )

    def project(self, points: Array) -> Array:
        """[..., 3] in metres to [..., 2] in the picture, in metres too."""
        return np.asarray(points @ np.stack([self.right, self.up], axis=1))

    def depth(self, points: Array) -> Array:
        """[..., 3] to [...]: larger is nearer."""
        return np.asarray(points @ self.toward)


@dataclass(frozen=True, slots=True)
class Side:
    """A wall and the direction [2] that leads out of the room."""

    wall: Shape
    outward: Array

    def hides(self, camera: Camera) -> bool:
        """Whether it stands between the camera and the room."""
        return bool(self.outward @ camera.toward[:2] > FACING)


def sides(layout: Shapes, points: Array, space: Space) -> list[Side]:
    """For each wall the way out, by the other walls where these surround a room, else by points [N, 3] (a few thousand
    are enough): beside a wall with a large window there may be more points outside than inside."""
    found = []
    for wall in layout.walls:
        enclosed = _enclosed(wall, layout)
        found.append(Side(wall, _outward(wall, layout, points[:, :2], space) if enclosed is None else -enclosed))
    return found


def _enclosed(wall: Shape, layout: Shapes) -> Array | None:
    """The direction [2] into the room, where walls are in the way an odd number of times in that direction alone."""
    ways = [way for way in (wall.normal, -wall.normal) if _crossed(wall, way, layout) % 2]
    return ways[0] if len(ways) == 1 else None


def _crossed(wall: Shape, way: Array, layout: Shapes) -> int:
    """How many other walls a ray from the middle of a wall goes through."""
    side = np.array([-way[1], way[0]])
    count = 0
    for other in layout.walls:
        half = other.along * other.box.scale[0] / 2
        ends = other.center[:2] + np.stack([-half, half]) - wall.center[:2]
        across, ahead = ends @ side, ends @ way
        if other.box != wall.box and across[0] * across[1] < 0:
            share = across[0] / (across[0] - across[1])
            count += bool(ahead[0] + share * (ahead[1] - ahead[0]) > 0)
    return count


def _outward(wall: Shape, layout: Shapes, points: Array, space: Space) -> Array:
    offset = points - wall.center[:2]
    along, across = np.abs(offset @ wall.along), offset @ wall.normal
    near, far = (share * space.span for share in STRIP)
    beside = (along < wall.box.scale[0] * 0.45) & (np.abs(across) > near) & (np.abs(across) < far)
    balance = float(np.sign(across[beside]).sum())
    if balance == 0.0:
        lengths = np.array([other.box.scale[0] for other in layout.walls])
        centers = np.array([other.center[:2] for other in layout.walls])
        middle = lengths @ centers / lengths.sum() if lengths.sum() > 0 else space.center[:2]
        balance = float((middle - wall.center[:2]) @ wall.normal)
    return -wall.normal if balance > 0 else wall.normal


def choose_camera(layout: Shapes, walls: Sequence[Side]) -> Camera:
    """Of the four corners the one from which most doors and windows are seen; then the one that sees most wall."""
    start = _direction(layout) + ASKEW
    cameras = [Camera.at(start + quarter * np.pi / 2) for quarter in (2, 3, 0, 1)]
    return max(cameras, key=lambda camera: _seen(layout, walls, camera))


def _direction(layout: Shapes) -> float:
    """The direction of the walls modulo a right angle, the long ones counting more."""
    turns = sum((wall.box.scale[0] * np.exp(4j * wall.box.yaw) for wall in layout.walls), start=0j)
    return float(np.angle(turns) / 4) if abs(turns) > 1e-9 else 0.0


def _seen(layout: Shapes, walls: Sequence[Side], camera: Camera) -> tuple[int, float]:
    far = [side.wall for side in walls if not side.hides(camera)]
    openings = sum(any(opening.wall == wall.box for wall in far) for opening in layout.openings)
    return openings, round(sum(wall.box.scale[0] for wall in far), 2)


def in_the_way(points: Array, walls: Sequence[Side], camera: Camera, space: Space) -> Array:
    """bool [N]: points [N, 3] of near walls and of behind them; where no wall is known, of the cloud's rim."""
    above = points[:, 2] > space.low[2] + 0.03 * (space.high - space.low)[2]
    near = [side for side in walls if side.hides(camera)]
    if not near:
        rim = above & _rim(points, camera, space)
        return rim if rim.sum() < MOST_RIM * len(points) else np.zeros(len(points), bool)
    hidden = np.zeros(len(points), bool)
    low, high = (share * space.span for share in THICK)
    for side in near:
        offset = points[:, :2] - side.wall.center[:2]
        across = offset @ side.outward
        beside = np.abs(offset @ side.wall.along) < side.wall.box.scale[0] / 2 + high
        hidden |= beside & (across > low) & (across < high)
    return np.asarray(above & hidden)


def _rim(points: Array, camera: Camera, space: Space) -> Array:
    """Of each column of the picture, the points nearest to the camera on the ground."""
    across = points @ camera.right
    toward = points[:, :2] @ camera.toward[:2] / np.cos(ELEVATION)
    columns = np.floor((across - across.min(initial=0.0)) / (0.02 * space.span)).astype(np.int64)
    inside = ((points >= space.low) & (points <= space.high)).all(axis=1)
    columns = np.clip(columns, 0, 1 << 16)
    nearest = np.full((1 << 16) + 1, -np.inf)
    np.maximum.at(nearest, columns[inside], toward[inside])
    return np.asarray(toward > nearest[columns] - 0.05 * space.span)
