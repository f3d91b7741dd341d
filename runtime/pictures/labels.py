"""Names beside things, none of them over another: each takes the nearest free place, or none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from runtime.arrays import Array
from runtime.pictures import style

LONGEST = 26  # characters
PAD = 1.5  # pixels around a name
LEADER = 1.2  # heights of a line: a name further from its place gets a line to it
RINGS = (0.0, 1.0, 1.6, 2.4, 3.4, 4.6)  # heights of a line from the place
TURNS = 12


@dataclass(frozen=True, slots=True)
class Label:
    """A name and the place [2] it belongs to, in the axes' own units; `size` says who is asked first."""

    text: str
    place: Array
    size: float


def clean(text: str, longest: int = LONGEST) -> str:
    """A name that a model or a file made up, fit for a picture: no control characters, not too long."""
    text = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text.replace("_", " ")).strip()
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def draw_labels(ax: Any, labels: Sequence[Label], color: str, halo: Any) -> int:
    """Write the names into `ax`, whose limits stand, the largest things first. Returns how many found no place."""
    renderer = ax.figure.canvas.get_renderer()
    taken: list[Array] = []
    frame = _box(ax.get_window_extent(renderer), 0.0)
    left_out = 0
    for label in sorted(labels, key=lambda it: -it.size):
        text = ax.text(
            *label.place, label.text, color=color, fontsize=style.LABEL, ha="center", va="center",
            path_effects=halo, zorder=9, parse_math=False, gid="label",
        )  # fmt: skip
        at = ax.transData.transform(label.place)
        box = _box(text.get_window_extent(renderer), PAD)
        offset = _free(box, frame, np.array(taken).reshape(-1, 2, 2))
        if offset is None:
            text.remove()
            left_out += 1
            continue
        taken.append(box + offset)
        place = ax.transData.inverted().transform(at + offset)
        text.set_position(place)
        if np.abs(offset[1]) > LEADER * (box[1, 1] - box[0, 1]):
            ax.plot(*np.stack([label.place, place]).T, color=color, lw=0.5, zorder=8, gid="leader")
    return left_out


def _box(extent: Any, pad: float) -> Array:
    return np.array([[extent.x0 - pad, extent.y0 - pad], [extent.x1 + pad, extent.y1 + pad]])


def _free(box: Array, frame: Array, taken: Array) -> Array | None:
    """The smallest offset [2] in pixels at which `box` [2, 2] lies in the frame and on none of `taken` [N, 2, 2]."""
    height, width = box[1, 1] - box[0, 1], box[1, 0] - box[0, 0]
    for ring in RINGS:
        for turn in range(TURNS if ring else 1):
            angle = np.pi / 2 + (turn + 1) // 2 * (-1) ** turn * 2 * np.pi / TURNS  # above first, then to either side
            offset = ring * height * np.array([np.cos(angle) * max(1.0, 0.35 * width / height), np.sin(angle)])
            moved = box + offset
            if (moved[0] < frame[0]).any() or (moved[1] > frame[1]).any():
                continue
            if not ((moved[0] < taken[:, 1]) & (moved[1] > taken[:, 0])).all(axis=1).any():
                return np.asarray(offset)
    return None
