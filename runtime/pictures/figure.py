"""Panels put together into one picture, as a matplotlib Figure of its own: no window, no global state."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from runtime.arrays import Array
from runtime.layout import Layout
from runtime.layout.counts import counts
from runtime.pictures import style, words
from runtime.pictures.camera import Camera, Side, choose_camera, in_the_way, sides
from runtime.pictures.corner import draw_corner, seen_corners
from runtime.pictures.dots import MOST, Dots, dots_of
from runtime.pictures.labels import clean
from runtime.pictures.plan import draw_plan, draw_scale
from runtime.pictures.shapes import Shapes, shapes
from runtime.pictures.space import Space, space_of
from runtime.pictures.thinning import thinned
from runtime.points import PointCloud

WIDTH, EDGE, GAP = 13.0, 0.4, 0.35  # inches
PANEL = (WIDTH - 2 * EDGE - GAP) / 2
RATIOS = (0.5, 0.92)  # height to width of a panel, at least and at most
HEADER, LINE, CAPTION, FOOTER, NOTE = 0.62, 0.19, 0.36, 0.86, 0.17  # inches
SAMPLE = 30_000  # points that tell on which side of a wall the room is
PLAN, CORNER = "from above", "from a corner, without near walls and ceiling"


class Picture(Figure):  # type: ignore[misc]  # matplotlib's types are not followed
    """A Figure that a notebook shows by itself, whether or not pyplot was imported."""

    def _repr_png_(self) -> bytes:
        return encoded(self, "png")


@dataclass(frozen=True, slots=True)
class Column:
    """One layout of the picture: the prediction or the ground truth."""

    name: str
    layout: Layout
    shapes: Shapes
    walls: list[Side]


def draw(layout: Layout, cloud: PointCloud | None, truth: Layout | None, title: str) -> Picture:
    """Two views side by side, or, with ground truth, two columns of them."""
    with _settings():
        return _draw(layout, cloud, truth, title)


def encoded(figure: Figure, form: str) -> bytes:
    """The figure as the bytes of a png, pdf or svg file; the same figure gives the same bytes."""
    metadata = {"png": {}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}[form]
    buffer = io.BytesIO()
    with _settings():
        figure.savefig(buffer, format=form, dpi=style.DPI, facecolor="white", metadata=metadata)
    return buffer.getvalue()


@contextmanager
def _settings() -> Iterator[None]:
    """The picture's own look, and silence about names in scripts that the font lacks: they show as boxes."""
    with matplotlib.rc_context(style.SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        yield


def _draw(layout: Layout, cloud: PointCloud | None, truth: Layout | None, title: str) -> Picture:
    named = [("" if truth is None else "Prediction", layout), *([] if truth is None else [("Ground truth", truth)])]
    found = [(name, it, shapes(it)) for name, it in named]
    cloud = None if cloud is None else thinned(cloud, MOST)
    points = np.empty((0, 3)) if cloud is None else cloud.points
    space = space_of(points, [it for _, _, it in found])
    dots = dots_of(cloud, space)
    sample = dots.points[:: max(1, len(dots.points) // SAMPLE)]
    columns = [Column(name, it, shape, sides(shape, sample, space)) for name, it, shape in found]
    camera = choose_camera(*next(((it.shapes, it.walls) for it in reversed(columns) if it.walls), (Shapes(), [])))
    heading = [counts(layout) + ("" if truth is None else f"   (ground truth: {counts(truth)})")]
    heading += [] if truth is None else words.score_lines(layout, truth)
    return _Page(columns, space, camera, dots).draw(clean(title, 90), heading)


class _Page:
    """Where everything stands, in inches from the upper left."""

    def __init__(self, columns: Sequence[Column], space: Space, camera: Camera, dots: Dots) -> None:
        self.columns, self.space, self.camera = columns, space, camera
        walls = [side for column in columns for side in column.walls]
        self.plan_dots = dots
        self.corner_dots = dots.take(~in_the_way(dots.points, walls, camera, space))
        self.plan_frame = _plan_frame(space)
        self.corner_frame = _corner_frame(columns, camera, self.corner_dots, space)
        ratios = [float(np.divide(*(high - low)[::-1])) for low, high in (self.plan_frame, self.corner_frame)]
        if len(columns) == 1:  # its two views stand side by side, those of two layouts one above the other
            ratios = [max(ratios)]
        self.heights = [PANEL * float(np.clip(ratio, *RATIOS)) for ratio in ratios]

    def draw(self, title: str, heading: Sequence[str]) -> Picture:
        rows = len(self.heights)
        top = HEADER + LINE * len(heading) + CAPTION
        total = top + sum(self.heights) + (rows - 1) * CAPTION + FOOTER
        figure = Picture(figsize=(WIDTH, total), dpi=100, facecolor="white")
        FigureCanvasAgg(figure)
        self.figure, self.total = figure, total
        self._write(EDGE, EDGE, title, style.TITLE, style.INK, weight="bold")
        for number, line in enumerate(heading):
            color = style.INK if number else style.QUIET
            self._write(EDGE, HEADER + 0.05 + LINE * number, line, style.SUBTITLE, color)
        notes: list[str] = []
        for number, column in enumerate(self.columns):
            first, second = ((number, 0), (number, 1)) if rows > 1 else ((0, 0), (1, 0))
            nameless = self._plan(column, *self._axes(*first, top)) + self._corner(column, *self._axes(*second, top))
            beyond = sum(self.space.beyond(shape.corners) for shape in column.shapes)
            notes += words.notes(column.name, column.layout, column.shapes.left_out, beyond, nameless)
        self._legend()
        for number, note in enumerate(words.paragraph(notes)):
            self._write(EDGE, total - FOOTER + 0.14 + NOTE * number, note, style.SMALL, style.QUIET)
        return figure

    def _axes(self, column: int, row: int, top: float) -> tuple[Any, float, float]:
        height = self.heights[row]
        left, upper = EDGE + column * (PANEL + GAP), top + sum(self.heights[:row]) + row * CAPTION
        bottom = self.total - upper - height
        ax = self.figure.add_axes(
            (left / WIDTH, bottom / self.total, PANEL / WIDTH, height / self.total), frame_on=False
        )
        ax.set_xticks([])
        ax.set_yticks([])
        return ax, left, upper

    def _plan(self, column: Column, ax: Any, left: float, upper: float) -> int:
        self._caption(column.name, PLAN, left, upper)
        _fit(ax, *self.plan_frame, self.heights[0] / PANEL)
        nameless = draw_plan(ax, column.shapes, column.walls, self.space, self.plan_dots, _halo())
        low, high = self.plan_frame
        height = 0.012 * float((high - low).max())
        draw_scale(ax, np.array([self.space.low[0], low[1] + height]), self.space.span, height)
        corner = np.array([self.space.high[0] - 3.2 * height, low[1] + height])
        _axes_sign(ax, corner, {"x": np.array([1.0, 0.0]), "y": np.array([0.0, 1.0])}, 3.2 * height)
        return nameless

    def _corner(self, column: Column, ax: Any, left: float, upper: float) -> int:
        self._caption(column.name, CORNER, left, upper)
        _fit(ax, *self.corner_frame, self.heights[-1] / PANEL)
        low, high = self.corner_frame
        length = 0.05 * float((high - low).max())
        x, y, z = self.camera.project(np.eye(3))
        _axes_sign(ax, low + 1.2 * length, {"x": x, "y": y, "z": z}, length)
        return draw_corner(ax, column.shapes, column.walls, self.camera, self.corner_dots, _halo())

    def _caption(self, name: str, view: str, left: float, upper: float) -> None:
        if name:
            written = self._write(left, upper - 0.1, name, style.PANEL, style.INK, weight="bold", va="baseline")
            left += written.get_window_extent(self.figure.canvas.get_renderer()).width / self.figure.dpi + 0.12
        self._write(left, upper - 0.1, view, style.SUBTITLE, style.QUIET, va="baseline")

    def _write(self, left: float, upper: float, text: str, size: float, color: str, **options: Any) -> Any:
        place = (left / WIDTH, 1 - upper / self.total)
        return self.figure.text(*place, text, fontsize=size, color=color, **{"va": "top", "ha": "left", **options})

    def _legend(self) -> None:
        door, window, box = style.DOOR, style.WINDOW, style.BOX
        handles = [
            Line2D([], [], color=style.WALL, lw=4, solid_capstyle="butt", label="wall"),
            Line2D([], [], color=style.WALL, lw=1, ls=(0, (5, 3)), label="near wall, left out"),
            Patch(fc="white", ec=door, hatch=style.HATCHES["door"], label="door; its swing is a sign only"),
            Patch(fc="white", ec=window, hatch=style.HATCHES["window"], label="window"),
            Patch(fc=style.BOX_FILL, ec=box, lw=style.BOX_LINE, label="box, with its class"),
        ]
        self.figure.legend(
            handles=handles, loc="lower left", bbox_to_anchor=(EDGE / WIDTH, 0.16 / self.total), ncol=len(handles),
            fontsize=style.SMALL, frameon=False, borderaxespad=0, borderpad=0, handlelength=2.2, labelcolor=style.INK,
        )  # fmt: skip


def _halo() -> list[Any]:
    return [withStroke(linewidth=2.2, foreground="white", alpha=0.85)]


def _plan_frame(space: Space) -> tuple[Array, Array]:
    """The room, with a margin, and room for the scale bar below."""
    margin = 0.035 * space.span
    low, high = space.low[:2] - margin, space.high[:2] + margin
    low[1] -= 0.05 * space.span
    return low, high


def _corner_frame(columns: Sequence[Column], camera: Camera, dots: Dots, space: Space) -> tuple[Array, Array]:
    corners = [seen_corners(column.shapes, column.walls, camera) for column in columns]
    content = np.concatenate([*(np.clip(it, space.low, space.high) for it in corners), dots.points])
    if not len(content):
        content = np.array([space.low, space.high])
    places = camera.project(content)
    low, high = places.min(axis=0), places.max(axis=0)
    margin = max(0.04 * float((high - low).max()), 0.02 * space.span)  # the latter where all is one point
    return low - margin, high + margin


def _fit(ax: Any, low: Array, high: Array, ratio: float) -> None:
    """Limits that show all from low to high [2], metres as long along both axes."""
    width, height = high - low
    width, height = max(width, height / ratio), max(height, width * ratio)
    x, y = (low + high) / 2
    ax.set_xlim(x - width / 2, x + width / 2)
    ax.set_ylim(y - height / 2, y + height / 2)
    ax.set_aspect("equal")


def _axes_sign(ax: Any, at: Array, directions: dict[str, Array], length: float) -> None:
    """Which way the scene's axes point."""
    for name, direction in directions.items():
        tip = at + length * direction
        ax.annotate("", tip, at, arrowprops={"arrowstyle": "-|>", "color": style.QUIET, "lw": 0.9, "shrinkA": 0,
                                             "shrinkB": 0, "mutation_scale": 7})  # fmt: skip
        ax.text(*(at + 1.28 * length * direction), name, fontsize=style.SMALL, color=style.QUIET, ha="center",
                va="center", gid="axis")  # fmt: skip
