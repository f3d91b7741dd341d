"""Make a furnished room as a coloured point cloud: python demo/make_room.py --seed 7 --output demo/room.ply

Metres, z up, walls along x and y. A depth buffer from a few standpoints hides what a scanner could not see, points
thin out with distance, and every point carries noise. Needs numpy alone.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Color = tuple[int, int, int]
Interval = tuple[float, float]

WHITE, OAK, WALNUT, LINEN = (226, 224, 216), (176, 138, 96), (104, 72, 50), (196, 202, 214)
BLUE, GREY, BLACK, GREEN, CLAY = (70, 96, 140), (128, 130, 134), (38, 38, 42), (62, 112, 58), (168, 98, 70)


@dataclass(frozen=True)
class Sheet:
    """A parallelogram corner + a u + b v, 0 <= a, b <= 1, without its holes (intervals of a and b)."""

    corner: Array
    u: Array
    v: Array
    color: Color
    holes: tuple[tuple[Interval, Interval], ...] = ()

    @property
    def area(self) -> float:
        return float(np.linalg.norm(np.cross(self.u, self.v)))

    def sample(self, rng: np.random.Generator, count: int) -> Array:
        a, b = rng.random((2, count))
        for (a0, a1), (b0, b1) in self.holes:
            keep = ~((a > a0) & (a < a1) & (b > b0) & (b < b1))
            a, b = a[keep], b[keep]
        return np.asarray(self.corner + a[:, None] * self.u + b[:, None] * self.v)


@dataclass(frozen=True)
class Cylinder:
    """Side and top of an upright cylinder or cone; `center` is that of the bottom."""

    center: Array
    radius: float
    top_radius: float
    height: float
    color: Color

    @property
    def area(self) -> float:
        return float(np.pi * (self.radius + self.top_radius) * self.height + np.pi * self.top_radius**2)

    def sample(self, rng: np.random.Generator, count: int) -> Array:
        top = rng.random(count) < np.pi * self.top_radius**2 / self.area
        angle, share = rng.random(count) * 2 * np.pi, rng.random(count)
        side_radius = self.radius + (self.top_radius - self.radius) * share
        radius = np.where(top, self.top_radius * np.sqrt(share), side_radius)
        height = np.where(top, self.height, self.height * share)
        return np.asarray(self.center + np.stack([radius * np.cos(angle), radius * np.sin(angle), height], axis=1))


Surface = Sheet | Cylinder


def box(
    x: float, y: float, z: float, size: tuple[float, float, float], color: Color, yaw: float = 0.0
) -> list[Surface]:
    """Six faces; (x, y) is the centre, z the bottom."""
    along = np.array([np.cos(yaw), np.sin(yaw), 0]) * size[0]
    across = np.array([-np.sin(yaw), np.cos(yaw), 0]) * size[1]
    up = np.array([0, 0, size[2]])
    low = np.array([x, y, z]) - (along + across) / 2
    faces = [(low, along, across), (low, along, up), (low, across, up)]
    faces += [(low + up, along, across), (low + across, along, up), (low + along, across, up)]
    return [Sheet(corner, u, v, color) for corner, u, v in faces]


def table(x: float, y: float, size: tuple[float, float, float], color: Color, yaw: float = 0.0) -> list[Surface]:
    length, width, height = size
    parts = box(x, y, height - 0.03, (length, width, 0.03), color, yaw)
    for along in (-length / 2 + 0.05, length / 2 - 0.05):
        for across in (-width / 2 + 0.05, width / 2 - 0.05):
            leg_x = x + along * np.cos(yaw) - across * np.sin(yaw)
            leg_y = y + along * np.sin(yaw) + across * np.cos(yaw)
            parts += box(leg_x, leg_y, 0, (0.05, 0.05, height - 0.03), color, yaw)
    return parts


def chair(x: float, y: float, yaw: float, color: Color) -> list[Surface]:
    back_x, back_y = x - 0.2 * np.cos(yaw), y - 0.2 * np.sin(yaw)
    return table(x, y, (0.44, 0.44, 0.46), color, yaw) + box(back_x, back_y, 0.5, (0.04, 0.44, 0.42), color, yaw)


def bed(x: float, y: float) -> list[Surface]:
    """A double bed with its head at y, reaching 2.1 m towards smaller y."""
    parts = box(x, y - 1.05, 0.12, (1.7, 2.1, 0.2), WALNUT) + box(x, y - 1.05, 0.32, (1.6, 2.0, 0.2), LINEN)
    parts += box(x, y - 0.03, 0, (1.8, 0.06, 1.05), WALNUT) + box(x, y - 1.4, 0.5, (1.64, 1.3, 0.05), BLUE)
    for side in (-0.4, 0.4):
        parts += box(x + side, y - 0.32, 0.52, (0.65, 0.4, 0.13), WHITE, yaw=side / 8)
    return parts


def lamp(x: float, y: float, z: float) -> list[Surface]:
    base, shade = np.array([x, y, z]), np.array([x, y, z + 0.25])
    return [Cylinder(base, 0.03, 0.03, 0.25, GREY), Cylinder(shade, 0.14, 0.09, 0.2, (240, 222, 170))]


def plant(x: float, y: float, rng: np.random.Generator) -> list[Surface]:
    leaves: list[Surface] = []
    for _ in range(28):
        reach, lean = rng.normal(0, 0.2, 3), rng.normal(0, 0.06, 3)
        corner = np.array([x, y, 0.75]) + np.array([0.8, 0.8, 1.2]) * reach
        leaves.append(Sheet(corner, lean + np.array([0, 0, 0.14]), rng.normal(0, 0.05, 3), GREEN))
    return [Cylinder(np.array([x, y, 0.0]), 0.13, 0.17, 0.34, CLAY), *leaves]


def wall_with_opening(corner: Array, along: Array, height: float, opening: tuple[float, float, float, float]) -> Sheet:
    """`opening` is start, width, bottom and top in metres."""
    length, (start, width, bottom, top) = float(np.linalg.norm(along)), opening
    hole = ((start / length, (start + width) / length), (bottom / height - 1e-9, top / height))
    return Sheet(corner, along, np.array([0, 0, height]), WHITE, (hole,))


def shell(length: float, width: float, height: float, door_at: float, window_at: float) -> list[Surface]:
    """Floor, ceiling, four walls; a door in the wall y = 0 and a window in the wall x = length."""
    x, y, up = np.array([length, 0, 0]), np.array([0, width, 0]), np.array([0, 0, height])
    zero = np.zeros(3)
    parts: list[Surface] = [Sheet(zero, x, y, OAK), Sheet(up, x, y, (236, 236, 232))]
    parts += [Sheet(y, x, up, (204, 212, 206)), Sheet(zero, y, up, WHITE)]
    parts += [wall_with_opening(zero, x, height, (door_at, 0.9, 0.0, 2.05))]
    parts += [wall_with_opening(x, y, height, (window_at, 1.6, 0.9, 2.2))]
    parts += box(door_at + 0.45, -0.08, 0, (0.9, 0.04, 2.05), WALNUT)  # the leaf, set back in its frame
    parts += box(door_at + 0.82, -0.03, 1.0, (0.12, 0.03, 0.03), GREY)
    parts += box(length + 0.06, window_at + 0.8, 0.86, (0.24, 1.7, 0.04), WHITE)  # the sill
    for along in (0.03, 0.8, 1.57):
        parts += box(length + 0.06, window_at + along, 0.9, (0.06, 0.06, 1.3), GREY)
    for z in (0.9, 2.14):
        parts += box(length + 0.06, window_at + 0.8, z, (0.06, 1.6, 0.06), GREY)
    return parts


def furnished_room(rng: np.random.Generator) -> tuple[list[Surface], Array]:
    """Surfaces of a room of random size, and its size [3]."""
    length, width, height = rng.uniform([4.8, 4.0, 2.55], [5.8, 4.6, 2.85])
    door_at, window_at = rng.uniform(0.5, 0.9), rng.uniform(0.9, 1.4)
    bed_x = length / 2 + rng.uniform(-0.2, 0.3)
    parts = shell(length, width, height, door_at, window_at) + bed(bed_x, width - 0.02)
    parts += box(bed_x, width - 1.5, 0.0, (2.6, 1.9, 0.012), (150, 70, 66))  # carpet
    for side in (-1.15, 1.15):
        parts += box(bed_x + side, width - 0.24, 0, (0.46, 0.42, 0.5), WALNUT)
        parts += lamp(bed_x + side, width - 0.24, 0.5)
    parts += box(0.32, width - 1.0, 0, (0.6, 1.8, 2.2), OAK)  # wardrobe
    desk_x = length - 0.36
    parts += table(desk_x, 1.35, (0.65, 1.4, 0.74), OAK) + chair(desk_x - 0.62, 1.4, rng.uniform(-0.4, 0.4), BLUE)
    parts += box(desk_x + 0.1, 1.4, 0.83, (0.04, 0.6, 0.36), BLACK) + lamp(desk_x, 0.82, 0.74)  # screen
    parts += box(length / 2 + 0.5, 0.22, 0, (1.5, 0.4, 0.48), WALNUT)  # cabinet under the television
    parts += box(length / 2 + 0.5, 0.1, 0.62, (1.2, 0.05, 0.7), BLACK)
    parts += chair(0.8, 1.35, rng.uniform(0.2, 0.9), CLAY) + plant(length - 0.4, width - 0.45, rng)
    parts += box(bed_x, width - 0.015, 1.45, (1.1, 0.03, 0.7), (188, 160, 90))  # picture
    return parts, np.array([length, width, height])


def seen_from(eye: Array, points: Array) -> Array:
    """bool [N]: points that nothing nearer hides, by a depth buffer of 1 degree cells with some slack."""
    ray = points - eye
    distance = np.linalg.norm(ray, axis=1)
    azimuth = np.degrees(np.arctan2(ray[:, 1], ray[:, 0])).astype(int) % 360
    elevation = np.degrees(np.arcsin(ray[:, 2] / distance)).astype(int) + 90
    nearest = np.full(360 * 181, np.inf)
    np.minimum.at(nearest, azimuth * 181 + elevation, distance)
    return np.asarray(distance < nearest[azimuth * 181 + elevation] * 1.1 + 0.08)


def scanned(points: Array, size: Array, rng: np.random.Generator) -> Array:
    """bool [N]: seen from at least one standpoint, and kept by the thinning with distance."""
    eyes = np.array([[0.3, 0.3, 1.5], [0.7, 0.35, 1.4], [0.35, 0.6, 1.9], [0.75, 0.7, 1.6]]) * [*size[:2], 1.0]
    visible = np.any([seen_from(eye, points) for eye in eyes], axis=0)
    distance = np.min([np.linalg.norm(points - eye, axis=1) for eye in eyes], axis=0)
    return np.asarray(visible & (rng.random(len(points)) < np.minimum(1, (1.2 / distance) ** 0.7)))


def make_room(seed: int, count: int) -> tuple[Array, Array]:
    """Points float32 [count, 3] in metres and colours uint8 [count, 3] of a scanned room."""
    rng = np.random.default_rng(seed)
    surfaces, size = furnished_room(rng)
    areas = np.array([surface.area for surface in surfaces])
    shares = rng.multinomial(6 * count, areas / areas.sum())  # far more than are kept
    samples = [surface.sample(rng, share) for surface, share in zip(surfaces, shares, strict=True)]
    points = np.concatenate(samples)
    colors = np.repeat([surface.color for surface in surfaces], [len(sample) for sample in samples], axis=0)
    rows = rng.permutation(np.flatnonzero(scanned(points, size, rng)))[:count]
    assert len(rows) == count, f"only {len(rows)} of {count} points are visible"
    points = points[rows] + rng.normal(0, 0.004, (count, 3))
    stray = rng.random(count) < 0.002  # pixels that straddle an edge
    points[stray] += rng.normal(0, 0.15, (int(stray.sum()), 3))
    light = 0.82 + 0.18 * points[:, :1] / size[0]  # brighter towards the window
    colors = np.clip(colors[rows] * light + rng.normal(0, 5, (count, 3)), 0, 255)
    return points.astype(np.float32), colors.astype(np.uint8)


def write_ply(path: Path, points: Array, colors: Array) -> None:
    """Binary little-endian PLY: x, y, z as float, red, green, blue as uchar."""
    rows = np.empty(len(points), dtype=[("xyz", "<f4", 3), ("rgb", "u1", 3)])
    rows["xyz"], rows["rgb"] = points, colors
    properties = [f"property float {name}" for name in "xyz"]
    properties += [f"property uchar {name}" for name in ("red", "green", "blue")]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(points)}", *properties, "end_header"]
    path.write_bytes(("\n".join(header) + "\n").encode() + rows.tobytes())


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a furnished room as a coloured point cloud.")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--points", type=int, default=55_000)
    parser.add_argument("--output", type=Path, default=Path("demo/room.ply"))
    args = parser.parse_args()
    write_ply(args.output, *make_room(args.seed, args.points))
    print(f"{args.output}: {args.points} points, {args.output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
