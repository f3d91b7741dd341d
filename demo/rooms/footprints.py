"""Rectangles on the floor, and whether they overlap."""

from __future__ import annotations

import math
from dataclasses import dataclass

TOUCH = 1e-6  # metres; rectangles that share an edge do not overlap


@dataclass(frozen=True, slots=True)
class Footprint:
    """A rectangle of full size width x depth about (x, y), turned by `angle` radians."""

    x: float
    y: float
    width: float
    depth: float
    angle: float = 0.0

    @classmethod
    def spanning(cls, x0: float, y0: float, x1: float, y1: float) -> Footprint:
        """The upright rectangle between two opposite corners."""
        return cls((x0 + x1) / 2, (y0 + y1) / 2, abs(x1 - x0), abs(y1 - y0))

    def grown(self, margin: float) -> Footprint:
        """With `margin` metres more on every side."""
        return Footprint(self.x, self.y, self.width + 2 * margin, self.depth + 2 * margin, self.angle)

    def corners(self) -> list[tuple[float, float]]:
        """The four corners, counter-clockwise."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        half_width, half_depth = self.width / 2, self.depth / 2
        local = [
            (-half_width, -half_depth),
            (half_width, -half_depth),
            (half_width, half_depth),
            (-half_width, half_depth),
        ]
        return [(self.x + cos * x - sin * y, self.y + sin * x + cos * y) for x, y in local]

    def reach(self, angle: float) -> float:
        """Half of the rectangle's extent along the direction `angle`."""
        turn = angle - self.angle
        return abs(math.cos(turn)) * self.width / 2 + abs(math.sin(turn)) * self.depth / 2

    def overlaps(self, other: Footprint) -> bool:
        """Whether the two share an area: no edge direction of either separates them."""
        dx, dy = other.x - self.x, other.y - self.y
        for base in (self.angle, other.angle):
            for angle in (base, base + math.pi / 2):
                distance = abs(dx * math.cos(angle) + dy * math.sin(angle))
                if distance >= self.reach(angle) + other.reach(angle) - TOUCH:
                    return False
        return True

    def holds(self, x: float, y: float) -> bool:
        """Whether the point lies inside."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        dx, dy = x - self.x, y - self.y
        return abs(cos * dx + sin * dy) < self.width / 2 and abs(cos * dy - sin * dx) < self.depth / 2

    def crossed_by(self, start: tuple[float, float], end: tuple[float, float]) -> bool:
        """Whether a segment runs through the inside of this rectangle, which must be upright."""
        enter, leave = 0.0, 1.0
        for origin, target, centre, size in (
            (start[0], end[0], self.x, self.width),
            (start[1], end[1], self.y, self.depth),
        ):
            low, high, way = centre - size / 2 + TOUCH, centre + size / 2 - TOUCH, target - origin
            if abs(way) < 1e-12:
                if not low < origin < high:
                    return False
                continue
            near, far = sorted(((low - origin) / way, (high - origin) / way))
            enter, leave = max(enter, near), min(leave, far)
        return enter < leave
