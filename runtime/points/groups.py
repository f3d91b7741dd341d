"""Rows that share a cell, found by one sort."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from runtime.arrays import Array


@dataclass(frozen=True, slots=True)
class Groups:
    """Rows [N] sorted into G groups. `rows[starts[g] : starts[g] + counts[g]]` are the rows of group g, ascending."""

    rows: Array  # int64 [N]
    starts: Array  # int64 [G]
    counts: Array  # int64 [G]

    @property
    def of_row(self) -> Array:
        """The group of each row, int64 [N]."""
        groups = np.empty_like(self.rows)
        groups[self.rows] = np.repeat(np.arange(len(self.counts)), self.counts)
        return groups


def group_keys(keys: Array) -> Groups:
    """Rows with equal keys [N]; groups in ascending order of the key."""
    rows = np.argsort(keys, kind="stable")  # stable: rows of a group keep their order
    ordered = keys[rows]
    return _cut(rows, ordered[1:] != ordered[:-1])


def group_cells(cells: Array) -> Groups:
    """Rows with equal cells (integers [N, 3], none negative); groups in lexicographic order of x, y, z."""
    span = [int(high) + 1 for high in cells.max(axis=0)]
    if math.prod(span) < 2**63:
        return group_keys(cell_keys(cells, span))
    return _group_by_columns(cells)


def cell_keys(cells: Array, span: list[int]) -> Array:
    """One int64 [N] for each cell [N, 3], in lexicographic order; `span` cells along each axis."""
    x, y, z = (cells[:, axis].astype(np.int64) for axis in range(3))
    return (x * span[1] + y) * span[2] + z


def _group_by_columns(cells: Array) -> Groups:
    """For worlds with more cells than an int64 can number."""
    rows = np.lexsort(cells.T[::-1])
    ordered = cells[rows]
    return _cut(rows, (ordered[1:] != ordered[:-1]).any(axis=1))


def _cut(rows: Array, changes: Array) -> Groups:
    starts = np.concatenate([[0], np.flatnonzero(changes) + 1])
    return Groups(rows, starts, np.diff(starts, append=len(rows)))
