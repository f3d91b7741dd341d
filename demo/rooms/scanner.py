"""A scanner: which rays it sends, and what it makes of what they meet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from demo.rooms.dice import Dice
from demo.rooms.rays import Hits, Scenery, cast
from runtime.arrays import Array

GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))


@dataclass(frozen=True, slots=True)
class Returns:
    """points float64 [N, 3], colors uint8 [N, 3], owner int [N] as in `rays`."""

    points: Array
    colors: Array
    owner: Array


def scan_room(scenery: Scenery, places: Sequence[tuple[float, float, float]], total: int, dice: Dice) -> Returns:
    """What comes back of `total` rays from all places together."""
    shares = [dice.between(0.8, 1.2) for _ in places]
    look = _Look.drawn(dice)
    scans = []
    for place, share in zip(places, shares, strict=True):
        count = int(total * share / sum(shares))
        origin, rays = np.array(place, dtype=np.float32), _rays(count, dice)
        luck = dice.rng.random((2, count), dtype=np.float32)
        scans.append(_returns(cast(scenery, origin, rays, luck[0]), origin, rays, luck[1], look, dice))
    merged = Returns(
        np.concatenate([scan.points for scan in scans]),
        np.concatenate([scan.colors for scan in scans]),
        np.concatenate([scan.owner for scan in scans]),
    )
    return _without_holes(merged, dice)


def _rays(count: int, dice: Dice) -> Array:
    """Directions float32 [count, 3], even over the sphere, each shaken by about half its distance to the next."""
    place = np.arange(count) + dice.rng.random(count)
    z = 1 - 2 * place / count
    spread = math.sqrt(4 * math.pi / count)  # radians between neighbours
    across = np.sqrt(np.maximum(1 - z * z, 1e-6))
    azimuth = np.arange(count) * GOLDEN_ANGLE + dice.between(0, 2 * math.pi)
    azimuth += (dice.rng.random(count) - 0.5) * spread / across
    x, y = across * np.cos(azimuth), across * np.sin(azimuth)
    return np.stack([x, y, z], axis=1).astype(np.float32)


@dataclass(frozen=True, slots=True)
class _Look:
    """What a scanner adds of its own: noise in metres, losses as shares, light and colour."""

    along: float
    aside: float
    lost: float
    stray: float
    tint: Array  # [3]
    grain: float
    light: Array  # [3], where the light comes from

    @classmethod
    def drawn(cls, dice: Dice) -> _Look:
        brightness = dice.between(0.78, 1.1)
        azimuth = dice.between(0, 2 * math.pi)
        return cls(
            along=dice.between(0.004, 0.012),
            aside=dice.between(0.001, 0.004),
            lost=dice.between(0.02, 0.1),
            stray=dice.between(0.0, 0.003),
            tint=np.array([brightness * dice.between(0.94, 1.06) for _ in range(3)], dtype=np.float32),
            grain=dice.between(2.0, 8.0),
            light=np.array([0.6 * math.cos(azimuth), 0.6 * math.sin(azimuth), 0.8], dtype=np.float32),
        )


def _returns(hits: Hits, origin: Array, rays: Array, luck: Array, look: _Look, dice: Dice) -> Returns:
    """Hits with noise, without those that get lost. Every draw is made for every ray, lost or not, so that a ray that
    another machine rounds otherwise does not change all that follow."""
    count = len(rays)
    noise = dice.rng.standard_normal((count, 4), dtype=np.float32)
    grain = dice.rng.standard_normal((count, 4), dtype=np.float32)
    strays = dice.rng.random((2, count), dtype=np.float32)
    stays = np.isfinite(hits.distance) & (luck > look.lost) & (luck < look.lost + (1 - look.lost) * hits.returns)
    rows = np.flatnonzero(stays)
    rays, noise, owner = rays[rows], noise[rows], hits.owner[rows].copy()
    distance = hits.distance[rows] + np.float32(look.along) * noise[:, 3]
    is_stray = strays[0, rows] < look.stray
    distance[is_stray] *= np.float32(0.4) + np.float32(0.7) * strays[1, rows[is_stray]]
    owner[is_stray] = -1
    points = origin + rays * distance[:, None] + np.float32(look.aside) * noise[:, :3]
    colors = _colors(hits, rows, rays, look, grain[rows])
    return Returns(points.astype(np.float64), colors, owner)


def _colors(hits: Hits, rows: Array, rays: Array, look: _Look, grain: Array) -> Array:
    """uint8 [K, 3]: darker where the surface turns away from the scanner or from the light."""
    normal = hits.normal[rows]
    facing = np.abs((normal * rays).sum(axis=1))
    lit = (normal * look.light).sum(axis=1)
    shade = np.float32(0.72) + np.float32(0.2) * facing + np.float32(0.13) * lit
    colors = hits.color[rows] * (shade[:, None] * look.tint) + np.float32(look.grain) * (grain[:, :3] + grain[:, 3:])
    bytes_: Array = np.clip(colors, 0, 255).astype(np.uint8)
    return bytes_


def _without_holes(returns: Returns, dice: Dice) -> Returns:
    """Some patches stay without returns: a ball around a point that was seen."""
    kept = np.ones(len(returns.points), dtype=bool)
    for _ in range(dice.whole(1, 5)):
        centre = returns.points[int(dice.between(0, len(kept)))]
        radius = dice.between(0.1, 0.3)
        off = returns.points - centre
        kept &= (off * off).sum(axis=1) > radius * radius
    return Returns(returns.points[kept], returns.colors[kept], returns.owner[kept])
