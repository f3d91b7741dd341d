"""The point cloud as it travels between reading, cleaning and sampling."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.arrays import Array


@dataclass(frozen=True, slots=True)
class PointCloud:
    """Points in metres, z up, and their colours.

    points: float64 [N, 3].
    colors: float64 [N, 3] in 0 .. 1 (an 8-bit value over 255), or None where the file has none.
    dropped: rows of the file left out because a coordinate or a colour was NaN or infinite.
    """

    points: Array
    colors: Array | None = None
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.points)

    def take(self, rows: Array) -> PointCloud:
        """The same cloud with only some rows: an index array or a bool mask [N]."""
        colors = None if self.colors is None else self.colors[rows]
        return PointCloud(self.points[rows], colors, self.dropped)
