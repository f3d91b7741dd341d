"""IoU of furniture: upright boxes turned about z."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from runtime.arrays import Array
from runtime.evaluation.polygons import overlap_areas, ratio
from runtime.layout import Bbox

MIN_SCALE = 0.1  # metres; thinner boxes are taken as this thick
DECIMALS = 5  # the original's library rounds an IoU to these


@dataclass(frozen=True, slots=True)
class Solids:
    """Boxes of one class, in metres."""

    footprints: Array  # [N, 4, 2]
    centres: Array  # [N], z
    heights: Array  # [N]
    volumes: Array  # [N]


def solids(boxes: Sequence[Bbox]) -> Solids:
    """The shapes of boxes, none of them thinner than MIN_SCALE."""
    centre = np.array([(box.position_x, box.position_y, box.position_z) for box in boxes]).reshape(-1, 3)
    scale = np.array([(box.scale_x, box.scale_y, box.scale_z) for box in boxes]).reshape(-1, 3)
    scale = np.maximum(scale, MIN_SCALE)  # a nan stays one
    angle = np.array([box.angle_z for box in boxes])
    with np.errstate(invalid="ignore", over="ignore"):
        cosine, sine = np.cos(angle), np.sin(angle)
        turn = np.stack([cosine, sine, -sine, cosine], axis=-1).reshape(-1, 2, 2)  # [N, 2, 2], for rows from the left
        around = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]]) * scale[:, None, :2]  # [N, 4, 2]
        footprints = around @ turn + centre[:, None, :2]
        return Solids(footprints, centre[:, 2], scale[:, 2], scale.prod(axis=1))


def box_iou(predicted: Sequence[Bbox], truth: Sequence[Bbox], *, strict: bool) -> Array:
    """IoU of every pair [P, G] float64, rounded; nan where a number is not finite or too large.

    Unless `strict`, the given centre is taken as the top of a box, as in the original: boxes that share their
    footprint and their bottom, but not their height, share less than they should.

    Where edges of two footprints lie on one line, the library behind the original can take a rounding error for a
    corner and give an impossible IoU (1.45 and -1.58 were seen). That is not followed.
    """
    one, other = solids(predicted), solids(truth)
    iou = np.zeros((len(predicted), len(truth)))
    for row in range(len(predicted) if len(truth) else 0):
        footprint = np.broadcast_to(one.footprints[row], other.footprints.shape)
        shared = overlap_areas(footprint, other.footprints)[2]
        with np.errstate(invalid="ignore", over="ignore"):
            shared = shared * _common_height(one, row, other, strict=strict)
            iou[row] = ratio(shared, one.volumes[row] + other.volumes - shared)
    return np.round(iou, DECIMALS)


def _common_height(one: Solids, row: int, other: Solids, *, strict: bool) -> Array:
    """How much of z box `row` of `one` shares with each box of `other`: [G] metres."""
    above = 0.5 if strict else 0.0  # the part of a box above its centre
    top = np.minimum(one.centres[row] + above * one.heights[row], other.centres + above * other.heights)
    below = 1.0 - above
    bottom = np.maximum(one.centres[row] - below * one.heights[row], other.centres - below * other.heights)
    height: Array = np.maximum(top - bottom, 0.0)
    return height
