"""What pieces are built of: blocks, upright cylinders and ellipsoids, each given by its bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from demo.rooms.dice import Color
from runtime.arrays import Array

BLOCK, CYLINDER, ELLIPSOID = range(3)
Range = tuple[float, float]


class Part(NamedTuple):
    """A solid that fills its bounds as its kind does.

    returns: the share of rays that come back from it, the others are lost (glass).
    porous: the share of rays that go through it (leaves).
    """

    kind: int
    x: Range
    y: Range
    z: Range
    color: Color
    returns: float = 1.0
    porous: float = 0.0


def block(x: Range, y: Range, z: Range, color: Color, returns: float = 1.0) -> Part:
    """A cuboid."""
    return Part(BLOCK, x, y, z, color, returns)


def cylinder(x: float, y: float, radius: float, z: Range, color: Color) -> Part:
    """An upright cylinder."""
    return Part(CYLINDER, (x - radius, x + radius), (y - radius, y + radius), z, color)


def ellipsoid(x: Range, y: Range, z: Range, color: Color, porous: float = 0.0) -> Part:
    """An ellipsoid."""
    return Part(ELLIPSOID, x, y, z, color, 1.0, porous)


@dataclass(frozen=True, slots=True)
class Solids:
    """Parts as arrays: low and high [P, 3] float32, kinds [P], colors [P, 3] float32, returns and porous [P]."""

    low: Array
    high: Array
    kinds: Array
    colors: Array
    returns: Array
    porous: Array

    @classmethod
    def of(cls, parts: Sequence[Part]) -> Solids:
        """Ordered by kind."""
        ordered = sorted(parts, key=lambda part: part.kind)
        bounds = np.array([(part.x, part.y, part.z) for part in ordered], dtype=np.float32)  # [P, 3, 2]
        return cls(
            low=bounds[:, :, 0],
            high=bounds[:, :, 1],
            kinds=np.array([part.kind for part in ordered]),
            colors=np.array([part.color for part in ordered], dtype=np.float32),
            returns=np.array([part.returns for part in ordered], dtype=np.float32),
            porous=np.array([part.porous for part in ordered], dtype=np.float32),
        )


@dataclass(frozen=True, slots=True)
class Piece:
    """Parts in a frame of their own, which stands at `place` [3] turned by `yaw` about z."""

    place: tuple[float, float, float]
    yaw: float
    parts: tuple[Part, ...]


def bounds(parts: Sequence[Part]) -> tuple[Range, Range, Range]:
    """The smallest box around parts: ranges of x, y and z."""
    ranges = [[getattr(part, axis) for part in parts] for axis in "xyz"]
    x, y, z = ((min(low for low, _ in spans), max(high for _, high in spans)) for spans in ranges)
    return x, y, z


def moved(parts: Sequence[Part], dx: float, dy: float) -> tuple[Part, ...]:
    """The parts shifted along x and y."""
    return tuple(
        part._replace(x=(part.x[0] + dx, part.x[1] + dx), y=(part.y[0] + dy, part.y[1] + dy)) for part in parts
    )
