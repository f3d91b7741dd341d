"""Doors, windows and furniture of a layout as rows of numbers, for the hints of training."""

from __future__ import annotations

import math

import numpy as np

from runtime.arrays import Array
from runtime.layout import Layout

KINDS = (
    *("door", "window", "bed", "nightstand", "wardrobe", "sofa", "coffee_table", "dining_table", "dining_chair"),
    *("desk", "tv_cabinet", "bookcase", "refrigerator", "plants"),
)
FIELDS = 9  # kind, centre x y z, cosine and sine of the angle, sizes along its own x y z
OPENING_DEPTH = 0.3  # metres: doors and windows have none of their own


def entity_rows(layout: Layout) -> Array:
    """float32 [E, FIELDS] of a layout in metres; an opening is turned as its wall runs."""
    yaws = {wall.id: math.atan2(wall.by - wall.ay, wall.bx - wall.ax) for wall in layout.walls}
    rows = [
        (KINDS.index(opening.label), opening.position_x, opening.position_y, opening.position_z,
         math.cos(yaws[opening.wall_id]), math.sin(yaws[opening.wall_id]),
         opening.width, OPENING_DEPTH, opening.height)
        for opening in (*layout.doors, *layout.windows)
    ]  # fmt: skip
    rows += [
        (KINDS.index(box.class_name), box.position_x, box.position_y, box.position_z,
         math.cos(box.angle_z), math.sin(box.angle_z), box.scale_x, box.scale_y, box.scale_z)
        for box in layout.boxes
    ]  # fmt: skip
    return np.array(rows, np.float32).reshape(-1, FIELDS)
