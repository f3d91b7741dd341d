"""The room from one of its corners: far walls, and everything in front of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from runtime.arrays import Array
from runtime.pictures import style
from runtime.pictures.camera import Camera, Side
from runtime.pictures.dots import Dots, draw_dots
from runtime.pictures.labels import Label, clean, draw_labels
from runtime.pictures.shapes import Shape, Shapes

# A box's six faces by its corners, going round; the third corner minus the first lies in the face.
FACES = ((0, 1, 2, 3), (4, 5, 6, 7), (0, 1, 5, 4), (1, 2, 6, 5), (2, 3, 7, 6), (3, 0, 4, 7))
SHEET = [0, 1, 5, 4]  # the lower and upper edge of a wall, which has no thickness


def draw_corner(ax: Any, layout: Shapes, walls: Sequence[Side], camera: Camera, dots: Dots, halo: Any) -> int:
    """Points, far walls with their doors and windows, boxes and their names. Returns how many names found no place."""
    draw_dots(ax, camera.project(dots.points), dots.colors, camera.depth(dots.points))
    near = {side.wall.box for side in walls if side.hides(camera)}
    for wall in layout.walls:
        _draw_wall(ax, wall, camera, near=wall.box in near)
    for opening in layout.openings:
        _draw_opening(ax, opening, camera, near=opening.wall in near)
    for shape in sorted(layout.boxes, key=lambda it: float(camera.depth(it.center))):
        _draw_box(ax, shape, camera, style.box_line(len(layout.boxes)))
    tops = [camera.project(shape.corners[4:].mean(axis=0)) for shape in layout.boxes]
    names = [
        Label(clean(shape.box.label), top, shape.box.scale[0] * shape.box.scale[1])
        for shape, top in zip(layout.boxes, tops, strict=True)
    ]
    return draw_labels(ax, names, style.INK, halo)


def seen_corners(layout: Shapes, walls: Sequence[Side], camera: Camera) -> Array:
    """Corners [N, 3] of everything that a corner view draws: of near walls only the foot."""
    near = {side.wall.box for side in walls if side.hides(camera)}
    feet = [wall.corners[: 4 if wall.box in near else 8] for wall in layout.walls]
    rest = [shape.corners for shape in (*layout.openings, *layout.boxes) if shape.wall not in near]
    return np.concatenate([np.empty((0, 3)), *feet, *rest])


def _draw_wall(ax: Any, wall: Shape, camera: Camera, *, near: bool) -> None:
    sheet = camera.project(wall.corners[SHEET])
    if near:
        ax.plot(*sheet[:2].T, color=style.WALL, lw=1.0, ls=(0, (5, 3)), zorder=2, gid="near wall")
        return
    ax.fill(*sheet.T, fc=style.WALL_FILL, ec=style.WALL, lw=style.WALL_LINE, joinstyle="round", zorder=3,
            gid="wall")  # fmt: skip


def _draw_opening(ax: Any, opening: Shape, camera: Camera, *, near: bool) -> None:
    color = style.COLORS[opening.kind]
    if near:  # its wall is left out: only where it stands is shown, on the floor
        foot = opening.corners[[0, 1]]
        if opening.wall is not None:
            foot[:, 2] = opening.wall.center[2] - opening.wall.scale[2] / 2
        ax.plot(*camera.project(foot).T, color=color, lw=3.0, alpha=0.8, solid_capstyle="butt", zorder=2.5,
                gid=f"near {opening.kind}")  # fmt: skip
        return
    sheet = opening.corners[SHEET]
    ax.fill(*camera.project(sheet).T, fc=(1, 1, 1, 0.55), ec=color, hatch=style.HATCHES[opening.kind], lw=1.4, zorder=4,
            gid=opening.kind)  # fmt: skip
    if opening.kind == "window":
        middle = (sheet + np.roll(sheet, -1, axis=0)) / 2
        for bar in (middle[[0, 2]], middle[[1, 3]]):
            ax.plot(*camera.project(bar).T, color=color, lw=1.0, zorder=4)


def _draw_box(ax: Any, shape: Shape, camera: Camera, line: float) -> None:
    corners = shape.corners
    places = camera.project(corners)
    seen = [face for face in FACES if _faces_camera(corners[list(face)], shape.center, camera)]
    edges = {frozenset(pair) for face in seen for pair in zip(face, (*face[1:], face[0]), strict=True)}
    for face in FACES:
        for pair in zip(face, (*face[1:], face[0]), strict=True):
            if frozenset(pair) not in edges:
                edges.add(frozenset(pair))
                ax.plot(*places[list(pair)].T, color=style.BOX, lw=style.HIDDEN_LINE, ls=(0, (1, 2)), zorder=5)
    for face in seen:
        ax.fill(*places[list(face)].T, fc=style.BOX_FILL, ec=style.BOX, lw=line,
                joinstyle="round", zorder=6, gid="bbox")  # fmt: skip


def _faces_camera(face: Array, center: Array, camera: Camera) -> bool:
    return bool((face.mean(axis=0) - center) @ camera.toward > 1e-12)
