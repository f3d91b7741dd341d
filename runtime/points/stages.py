"""Geometry of one encoder stage: neighbours of a convolution, patches of attention, children of a pooling."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from runtime.arrays import Array
from runtime.points.groups import cell_keys, group_cells

OFFSETS = np.array(list(itertools.product((-1, 0, 1), repeat=3)))  # [27, 3], row a*9 + b*3 + c is (a-1, b-1, c-1)
DENSE_CELLS = 1 << 25  # largest lookup table, 128 MiB of int32; above it a sorted search needs less


def neighbour_rows(grid: Array) -> Array:
    """Row of each of the 27 cells around each voxel, itself included; N where that cell is empty.

    grid: integers [N, 3], each voxel once. Returns int32 [N, 27].
    """
    low = grid.min(axis=0) - 1  # a margin of one cell, so that no offset wraps into another row of the box
    box = [int(span) for span in grid.max(axis=0) - low + 2]
    keys = cell_keys(grid - low, box)
    around = keys[:, None] + cell_keys(OFFSETS, box)  # [N, 27]
    find = _find_by_table if math.prod(box) <= DENSE_CELLS else _find_by_search
    return find(keys, around, math.prod(box))


def _find_by_table(keys: Array, wanted: Array, cells: int) -> Array:
    table = np.full(cells, len(keys), dtype=np.int32)
    table[keys] = np.arange(len(keys), dtype=np.int32)
    return np.take(table, wanted)


def _find_by_search(keys: Array, wanted: Array, cells: int) -> Array:
    rows = np.argsort(keys)
    ordered = keys[rows]
    place = np.minimum(np.searchsorted(ordered, wanted), len(keys) - 1)
    return np.where(ordered[place] == wanted, rows[place], len(keys)).astype(np.int32)


@dataclass(frozen=True, slots=True)
class Patches:
    """Voxels in curve order, cut into patches of equal width.

    order: int32 [G, W], the rows of each patch.
    inverse: int32 [N], where each voxel's own output stands in the flattened G * W.
    """

    order: Array
    inverse: Array


def attention_patches(codes: Array, patch_size: int) -> Patches:
    """Cut N voxels into patches of W = min(N, patch_size) along a curve, codes [N].

    The last patch borrows what it lacks from the patch before it, at the same places, so it holds the last W voxels.
    """
    count = len(codes)
    width = min(count, patch_size)
    patches = -(-count // width)
    along = np.argsort(codes).astype(np.int32)  # codes differ, so any sort gives this
    place = np.arange(patches * width)
    place[count:] -= width
    inverse = np.empty(count, dtype=np.int32)
    inverse[along] = np.arange(count, dtype=np.int32)
    return Patches(along[place].reshape(patches, width), inverse)


@dataclass(frozen=True, slots=True)
class Pooling:
    """The next stage's voxels, in lexicographic order of x, y, z.

    grid: int32 [M, 3].
    children: int32 [M, stride ** 3], rows of this stage, ascending; a missing child repeats the last real one.
    counts: int64 [M], how many are real.
    """

    grid: Array
    children: Array
    counts: Array

    def mean(self, coords: Array) -> Array:
        """Unweighted mean of the children's coords, float32 [M, 3] from [N, 3].

        Added one child after another and divided once, in float32, as torch's segment mean does on a CPU.
        """
        total = np.zeros((len(self.grid), 3), dtype=np.float32)
        for child in range(int(self.counts.max())):
            real = (child < self.counts)[:, None]
            total += np.where(real, coords[self.children[:, child]], np.float32(0))
        return total / self.counts[:, None].astype(np.float32)


def pool(grid: Array, stride: int) -> Pooling:
    """Join voxels [N, 3] whose coordinates agree after division by `stride`."""
    cells = grid // stride
    groups = group_cells(cells)
    slot = np.minimum(np.arange(stride**3), groups.counts[:, None] - 1)  # [M, stride ** 3]
    children = groups.rows[groups.starts[:, None] + slot].astype(np.int32)
    return Pooling(cells[groups.rows[groups.starts]].astype(np.int32), children, groups.counts)
