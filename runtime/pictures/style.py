"""How a picture looks. Line styles, hatches and labels carry the meaning; colour only helps."""

from __future__ import annotations

import math
from typing import Any

INK, QUIET, FAINT = "#22272e", "#69727d", "#b9c0c8"  # text, small print, rulers
WALL, DOOR, WINDOW, BOX = "#2f3742", "#b4531f", "#1f6fa8", "#12614f"
COLORS = {"wall": WALL, "door": DOOR, "window": WINDOW, "bbox": BOX}
BOX_FILL = (0.07, 0.38, 0.31, 0.10)
WALL_FILL = (0.36, 0.42, 0.5, 0.10)
HATCHES = {"door": "////", "window": "....", "bbox": None, "wall": None}

TITLE, SUBTITLE, PANEL, LABEL, SMALL = 15.0, 9.5, 11.0, 7.5, 8.0  # points
BOX_LINE, HIDDEN_LINE, WALL_LINE = 1.4, 0.6, 1.5
DPI = 150

# Whatever the user's matplotlibrc says: a picture looks the same everywhere, and needs no LaTeX.
SETTINGS: dict[str, Any] = {
    "text.usetex": False,
    "text.parse_math": False,
    "font.family": ["DejaVu Sans"],
    "hatch.linewidth": 0.5,
    "savefig.facecolor": "auto",
    "savefig.bbox": None,
    "svg.fonttype": "path",
    "svg.hashsalt": "spatiallm-export",  # the same picture twice is the same file
    "path.simplify": True,
    "axes.unicode_minus": True,
}


def box_line(count: int) -> float:
    """Width of a box's edges in points: thinner where there are very many."""
    return BOX_LINE * min(1.0, max(0.35, math.sqrt(40 / max(count, 1))))
