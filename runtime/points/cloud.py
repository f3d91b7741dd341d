"""The point cloud as it travels between reading, cleaning and sampling."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from runtime.arrays import Array
from runtime.errors import PlyError
from runtime.points.raw import raw_from_table, usable


@dataclass(frozen=True, slots=True)
class PointCloud:
    """Points in metres, z up, and their colours.

    points: float64 [N, 3].
    colors: float64 [N, 3] in 0 .. 1 (an 8-bit value over 255), or None where the file has none.
    dropped: rows of the file left out because a coordinate or a colour was NaN or infinite.
    warnings: sentences from reading that the user should see.
    """

    points: Array
    colors: Array | None = None
    dropped: int = 0
    warnings: tuple[str, ...] = ()

    @classmethod
    def from_array(cls, array: Any, *, scale: float | None = None) -> PointCloud:
        """A cloud from an array [N, 3] (x y z) or [N, 6] (and red green blue), integers or floats, by the rules of
        `read_point_cloud`. The array is copied. Raises PlyError."""
        table = np.asarray(array)
        if table.ndim != 2 or table.shape[1] not in (3, 6):
            raise PlyError(f"The array has the shape {list(table.shape)}, but [N, 3] or [N, 6] was expected.")
        cloud = usable("array", raw_from_table("array", table), scale)
        return cls(cloud.points, cloud.colors, cloud.dropped, cloud.warnings)

    def __len__(self) -> int:
        return len(self.points)

    def take(self, rows: Array) -> PointCloud:
        """The same cloud with only some rows: an index array or a bool mask [N]."""
        colors = None if self.colors is None else self.colors[rows]
        return replace(self, points=self.points[rows], colors=colors)
