"""The room from above, as an architect draws it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from runtime.arrays import Array
from runtime.pictures import style
from runtime.pictures.camera import Side
from runtime.pictures.dots import Dots, draw_dots
from runtime.pictures.labels import Label, clean, draw_labels
from runtime.pictures.shapes import Shape, Shapes
from runtime.pictures.space import Space

WALL_WIDTH, OPENING_WIDTH = 0.8, 1.2  # percent of the span, where a wall has no thickness of its own
_UNITS = ((1e3, "km"), (1.0, "m"), (1e-2, "cm"), (1e-3, "mm"))
TWO_LEAVES = 0.27  # of the span or 1.4 metres, whichever is less: wider doors have two leaves


def draw_plan(ax: Any, layout: Shapes, walls: Sequence[Side], space: Space, dots: Dots, halo: Any) -> int:
    """Points, walls, openings, boxes and their names. Returns how many names found no place."""
    draw_dots(ax, dots.points[:, :2], dots.colors, dots.points[:, 2])
    percent = space.span / 100
    for shape in sorted(layout.boxes, key=lambda it: float(it.corners[:, 2].max())):
        outline = shape.footprint(0.3 * percent)
        ax.fill(*outline.T, fc=style.BOX_FILL, ec=style.BOX, lw=style.box_line(len(layout.boxes)), zorder=4, gid="bbox")
    for wall in layout.walls:
        ax.fill(*_thick(wall, WALL_WIDTH * percent).T, fc=style.WALL, ec=style.WALL, lw=0.4, zorder=5, gid="wall")
    outward = {side.wall.box: side.outward for side in walls}
    for opening in layout.openings:
        draw = _draw_door if opening.kind == "door" else _draw_window
        draw(ax, opening, -outward[opening.wall] if opening.wall in outward else opening.normal, percent)
    names = [Label(clean(it.box.label), it.center[:2], it.box.scale[0] * it.box.scale[1]) for it in layout.boxes]
    return draw_labels(ax, names, style.INK, halo)


def _thick(wall: Shape, least: float) -> Array:
    """A wall's outline [4, 2], longer by half its width at both ends so that corners close."""
    half = max(wall.box.scale[1], least) / 2
    outline = wall.footprint(least)
    return outline + half * np.array([-1, 1, 1, -1])[:, None] * wall.along


def _draw_window(ax: Any, window: Shape, _: Array, percent: float) -> None:
    """Two panes and a line between them."""
    outline = window.footprint(OPENING_WIDTH * percent)
    ax.fill(*outline.T, fc="white", ec=style.WINDOW, lw=1.1, zorder=6, gid="window")
    ends = window.center[:2] + np.array([[-0.5], [0.5]]) * window.box.scale[0] * window.along
    ax.plot(*ends.T, color=style.WINDOW, lw=1.1, zorder=7, solid_capstyle="butt")


def _draw_door(ax: Any, door: Shape, inward: Array, percent: float) -> None:
    """A gap in the wall, and a leaf that swings into the room. A sign only: a layout does not say how a door opens."""
    outline = door.footprint(OPENING_WIDTH * percent)
    ax.fill(*outline.T, fc="white", ec=style.DOOR, lw=0.7, zorder=6, gid="door")
    width = door.box.scale[0]
    start, end = (door.center[:2] + sign * width / 2 * door.along for sign in (-1, 1))
    if width > min(1.4, TWO_LEAVES * 100 * percent):
        middle = door.center[:2]
        leaves = [(start, middle), (end, middle)]
    else:
        leaves = [(start, end)]
    for hinge, closed in leaves:
        reach = closed - hinge
        turn = np.linspace(0.0, np.pi / 2, 24)[:, None]
        arc = hinge + np.cos(turn) * reach + np.sin(turn) * np.linalg.norm(reach) * inward
        ax.plot(*np.stack([hinge, arc[-1]]).T, color=style.DOOR, lw=1.6, zorder=7, gid="leaf")
        ax.plot(*arc.T, color=style.DOOR, lw=0.9, ls=(0, (4, 2)), zorder=7, gid="swing")


def scale_length(span: float) -> float:
    """The length of a scale bar in metres: 1, 2 or 5 times a power of ten, at most a quarter of the span."""
    power = 10.0 ** np.floor(np.log10(span / 4))
    return float(max(step for step in (1, 2, 5) if step * power <= span / 4 * (1 + 1e-9)) * power)


def scale_text(length: float) -> str:
    """Metres in the unit that gives a short number: 2 m, 50 cm, 1 km."""
    size, unit = next((it for it in _UNITS if length >= it[0] * (1 - 1e-9)), _UNITS[-1])
    return f"{length / size:.6g} {unit}"


def draw_scale(ax: Any, at: Array, span: float, height: float) -> None:
    """A bar in two halves, black and white, from `at` [2] to the right, `height` metres high."""
    length = scale_length(span)
    for half, face in enumerate((style.INK, "white")):
        x = at[0] + half * length / 2 + np.array([0, 1, 1, 0]) * length / 2
        ax.fill(x, at[1] + np.array([0, 0, 1, 1]) * height, fc=face, ec=style.INK, lw=0.8, zorder=8, gid="scale")
    ax.text(
        at[0] + length + 0.6 * height, at[1] + height / 2, scale_text(length), fontsize=style.SMALL, color=style.INK,
        va="center", ha="left", zorder=9, gid="scale",
    )  # fmt: skip
