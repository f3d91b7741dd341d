"""The first surface that each ray meets. All arrays are float32 unless they say otherwise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from demo.rooms.openings import Hole
from demo.rooms.parts import BLOCK, CYLINDER, ELLIPSOID, Piece, Solids, bounds
from demo.rooms.plans import Plan
from runtime.arrays import Array

FLOOR, CEILING, NOTHING = -1, -2, -3  # owners that are neither a wall (0 ..) nor a piece (FIRST_PIECE ..)
FIRST_PIECE = 100
GOLDEN = 0.6180339887


@dataclass(frozen=True, slots=True)
class Hits:
    """What N rays met: distance (inf: nothing), owner [N] int, color [N, 3], normal [N, 3], returns: share that comes
    back."""

    distance: Array
    owner: Array
    color: Array
    normal: Array
    returns: Array


@dataclass(frozen=True, slots=True)
class Scenery:
    """All that rays can meet; colours [W, 3] of the walls, [3] of floor and ceiling; one `Solids` for each piece."""

    plan: Plan
    holes: tuple[Hole, ...]
    pieces: tuple[Piece, ...]
    solids: tuple[Solids, ...]
    wall_colors: Array
    floor_color: Array
    ceiling_color: Array


def cast(scenery: Scenery, origin: Array, rays: Array, luck: Array) -> Hits:
    """Rays [N, 3] of length 1 from origin [3]; `luck` [N] in 0 .. 1 decides what a porous part stops."""
    hits = _cast_at_shell(scenery, origin, rays)
    for index, (piece, solids) in enumerate(zip(scenery.pieces, scenery.solids, strict=True)):
        _cast_at_piece(piece, solids, FIRST_PIECE + index, origin, rays, luck, hits)
    return hits


def _cast_at_shell(scenery: Scenery, origin: Array, rays: Array) -> Hits:
    """Floor, ceiling and walls without their holes."""
    plan, count = scenery.plan, len(rays)
    up = rays[:, 2] > 0
    with np.errstate(divide="ignore"):
        distance = np.abs(np.where(up, np.float32(plan.height) - origin[2], origin[2]) / rays[:, 2])
    owner = np.where(up, CEILING, FLOOR)
    for number, side in enumerate(plan.sides):
        axis = 0 if side.a[0] == side.b[0] else 1  # the axis that the wall is square to
        along = 1 - axis
        low, high = sorted((side.a[along], side.b[along]))
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            away = (np.float32(side.a[axis]) - origin[axis]) / rays[:, axis]
            place = origin[along] + away * rays[:, along]
            met = (away > 0) & (away < distance) & (place >= np.float32(low)) & (place <= np.float32(high))
        distance[met], owner[met] = away[met], number
    colors = np.concatenate([scenery.wall_colors, [scenery.ceiling_color, scenery.floor_color]]).astype(np.float32)
    walls = [(-side.along[1], side.along[0], 0.0) for side in plan.sides]  # inwards
    normals = np.array([*walls, (0, 0, -1), (0, 0, 1)], dtype=np.float32)
    hits = Hits(distance, owner, colors[owner], normals[owner], np.ones(count, dtype=np.float32))
    for hole in scenery.holes:
        _open(hole, plan, origin, rays, hits)
    return hits


def _open(hole: Hole, plan: Plan, origin: Array, rays: Array, hits: Hits) -> None:
    """Rays that meet the wall where the hole is go on."""
    side = plan.sides[hole.side]
    rows = np.flatnonzero(hits.owner == hole.side)
    points = origin + rays[rows] * hits.distance[rows, None]
    x, y = side.along
    along = (points[:, 0] - np.float32(side.a[0])) * np.float32(x) + (
        points[:, 1] - np.float32(side.a[1])
    ) * np.float32(y)
    inside = np.abs(along - np.float32(hole.along)) < hole.width / 2
    inside &= (points[:, 2] > hole.bottom) & (points[:, 2] < hole.top)
    hits.distance[rows[inside]] = np.inf
    hits.owner[rows[inside]] = NOTHING


def _cast_at_piece(
    piece: Piece, solids: Solids, owner: int, origin: Array, rays: Array, luck: Array, hits: Hits
) -> None:
    """Where the piece is nearer than what was met before, it takes its place."""
    rows = _rays_towards(piece, origin, rays)
    if not len(rows):
        return
    cos, sin = np.float32(math.cos(piece.yaw)), np.float32(math.sin(piece.yaw))
    turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]], dtype=np.float32)  # the room's axes to the piece's
    start = _turned(turn, (origin - np.array(piece.place, dtype=np.float32))[None])[0]
    ways = _turned(turn, rays[rows])
    near_box = _slabs(start, ways, solids.low.min(axis=0)[None], solids.high.max(axis=0)[None])[:, 0]
    kept = near_box < hits.distance[rows]
    rows, ways = rows[kept], ways[kept]
    if not len(rows):
        return
    away = _distances(solids, start, ways, luck[rows])  # [K, P]
    part = away.argmin(axis=1)
    nearest = away[np.arange(len(rows)), part]
    kept = nearest < hits.distance[rows]
    rows, part, nearest, ways = rows[kept], part[kept], nearest[kept], ways[kept]
    hits.distance[rows], hits.owner[rows] = nearest, owner
    hits.color[rows], hits.returns[rows] = solids.colors[part], solids.returns[part]
    normal = _normals(solids, part, start + ways * nearest[:, None])
    hits.normal[rows] = _turned(turn.T, normal)


def _turned(turn: Array, vectors: Array) -> Array:
    """turn [3, 3] times each vector [N, 3], without a BLAS whose rounding differs between machines."""
    x, y, z = vectors.T
    columns = [turn[axis, 0] * x + turn[axis, 1] * y + turn[axis, 2] * z for axis in range(3)]
    return np.stack(columns, axis=1)


def _rays_towards(piece: Piece, origin: Array, rays: Array) -> Array:
    """Rows of the rays inside the cone around the sphere around the piece."""
    spans = bounds(piece.parts)
    x, y, z = ((low + high) / 2 for low, high in spans)
    radius = math.dist(*zip(*spans, strict=True)) / 2 + 0.01
    cos, sin = math.cos(piece.yaw), math.sin(piece.yaw)
    px, py, pz = piece.place
    ahead = (
        px + cos * x - sin * y - float(origin[0]),
        py + sin * x + cos * y - float(origin[1]),
        pz + z - float(origin[2]),
    )
    far = math.hypot(*ahead)
    if far <= radius:
        return np.arange(len(rays))
    edge = np.float32(math.sqrt(far * far - radius * radius) - 1e-4)
    x, y, z = (np.float32(value) for value in ahead)
    return np.flatnonzero(rays[:, 0] * x + rays[:, 1] * y + rays[:, 2] * z > edge)


def _distances(solids: Solids, start: Array, ways: Array, luck: Array) -> Array:
    """Distance [K, P] along each ray to each part, inf where it misses."""
    groups = []
    for kind, distances in ((BLOCK, _slabs), (CYLINDER, _to_cylinders), (ELLIPSOID, _to_ellipsoids)):
        chosen = solids.kinds == kind
        if chosen.any():
            groups.append(distances(start, ways, solids.low[chosen], solids.high[chosen]))
    away = groups[0] if len(groups) == 1 else np.concatenate(groups, axis=1)
    if solids.porous.any():  # each part has a luck of its own, out of the ray's one number
        own = (luck[:, None] + np.float32(GOLDEN) * np.arange(len(solids.kinds), dtype=np.float32)) % 1
        away[own < solids.porous] = np.inf
    return away


def _slabs(start: Array, ways: Array, low: Array, high: Array) -> Array:
    """To cuboids low .. high [P, 3]; 0 from inside of one."""
    enter = np.zeros((len(ways), len(low)), dtype=np.float32)
    leave = np.full_like(enter, np.inf)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        inverse = np.float32(1) / ways
        for axis in range(3):
            one = inverse[:, axis, None] * (low[:, axis] - start[axis])
            other = inverse[:, axis, None] * (high[:, axis] - start[axis])
            np.maximum(enter, np.minimum(one, other), out=enter)
            np.minimum(leave, np.maximum(one, other), out=leave)
    enter[~(enter <= leave)] = np.inf
    return enter


def _to_cylinders(start: Array, ways: Array, low: Array, high: Array) -> Array:
    """To upright cylinders inside low .. high: their side, or the disc that closes them towards the ray."""
    centre, radius = (low + high) / 2, (high - low) / 2
    side, reached = _quadric(start, ways, centre, radius, axes=2)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        z = start[2] + side * ways[:, 2, None]
        side[~(reached & (z > low[:, 2]) & (z < high[:, 2]))] = np.inf
        facing = np.where(ways[:, 2, None] < 0, high[:, 2], low[:, 2])
        disc = (facing - start[2]) / ways[:, 2, None]
        off = [(start[axis] + disc * ways[:, axis, None] - centre[:, axis]) / radius[:, axis] for axis in range(2)]
        disc[~((disc > 0) & (off[0] ** 2 + off[1] ** 2 < 1))] = np.inf
    nearer: Array = np.minimum(side, disc)
    return nearer


def _to_ellipsoids(start: Array, ways: Array, low: Array, high: Array) -> Array:
    """To ellipsoids inside low .. high."""
    away, reached = _quadric(start, ways, (low + high) / 2, (high - low) / 2, axes=3)
    away[~reached] = np.inf
    return away


def _quadric(start: Array, ways: Array, centre: Array, radius: Array, axes: int) -> tuple[Array, Array]:
    """The nearer crossing with a unit circle or sphere after division by the radii, and where there is one ahead."""
    a: Array = np.zeros((len(ways), len(centre)), dtype=np.float32)
    b: Array = a
    c: Array = np.full(len(centre), -1, dtype=np.float32)
    for axis in range(axes):
        way = ways[:, axis, None] / radius[:, axis]
        off = (start[axis] - centre[:, axis]) / radius[:, axis]
        a, b, c = a + way * way, b + way * off, c + off * off
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        inner = b * b - a * c
        away = (-b - np.sqrt(inner)) / a
        return away, (inner > 0) & (away > 0)


def _normals(solids: Solids, part: Array, points: Array) -> Array:
    """Outward normals [K, 3] of parts at points on them."""
    low, high, kinds = solids.low[part], solids.high[part], solids.kinds[part]
    off: Array = (2 * points - low - high) / (high - low)  # -1 .. 1 inside the bounds
    size = np.abs(off)
    flat: Array = np.zeros_like(off)
    face = size.argmax(axis=1)
    rows = np.arange(len(off))
    flat[rows, face] = np.sign(off[rows, face])
    if (kinds == BLOCK).all():
        return flat
    bent = off / (high - low)
    bent[kinds == CYLINDER, 2] = 0
    bent /= np.maximum(np.sqrt((bent * bent).sum(axis=1, keepdims=True)), 1e-9)
    is_flat = (kinds == BLOCK) | ((kinds == CYLINDER) & (size[:, 2] > 0.999))
    normals: Array = np.where(is_flat[:, None], flat, bent)
    return normals
