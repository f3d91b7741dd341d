"""What a cloud looks like before any engine runs, and what to do where it looks wrong."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from runtime.points.cloud import PointCloud
from runtime.points.inputs import EncoderInputs
from runtime.points.sampling import WORLD_SIZE, VoxelGrid
from runtime.points.units import size_text, unit_warning
from runtime.points.up import UpAxis, estimate_up

_SURE = 0.3  # confidence from which another up axis than z is worth a warning
_LOWEST_ROOM = 1.8  # metres; what is lower is no storey, but the width of a corridor


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudReport:
    """Facts about a cloud as it was read.

    extents: metres along x, y, z, strays included.
    up_axis, up_confidence: see `estimate_up`.
    clamped: points more than 32 m from the smallest corner, moved to the border of the world.
    voxels, point_tokens: None until they are known.
    warnings: sentences that say what to do; first those from reading.
    """

    points: int
    dropped: int
    extents: tuple[float, float, float]
    up_axis: str
    up_confidence: float
    clamped: int
    has_colors: bool
    voxels: int | None
    point_tokens: int | None
    warnings: tuple[str, ...]

    def lines(self) -> list[str]:
        """For printing, without the warnings."""
        lines = [
            f"points: {self.points} ({self.dropped} rows dropped), {'with' if self.has_colors else 'without'} colours",
            f"extents: {size_text(np.array(self.extents))} m, {self.clamped} points beyond {WORLD_SIZE:g} m",
            f"up axis: {self.up_axis} (confidence {self.up_confidence:.2f})",
        ]
        if self.voxels is not None:
            lines.append(f"voxels: {self.voxels}")
        if self.point_tokens is not None:
            lines.append(f"point tokens: {self.point_tokens}")
        return lines

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return asdict(self) | {"extents": list(self.extents), "warnings": list(self.warnings)}


def inspect_cloud(
    cloud: PointCloud, voxels: VoxelGrid | None = None, inputs: EncoderInputs | None = None
) -> CloudReport:
    """Inspect a cloud that is not empty, best before it is cleaned up; voxels and inputs add their counts.

    Cheap: what needs sorting looks at fewer than 40,000 points.
    """
    low, high = cloud.points.min(axis=0), cloud.points.max(axis=0)
    clamped = _beyond(cloud) if voxels is None else voxels.clamped
    up = estimate_up(cloud.points)
    x, y, z = (high - low).tolist()
    return CloudReport(
        points=len(cloud),
        dropped=cloud.dropped,
        extents=(x, y, z),
        up_axis=up.axis,
        up_confidence=round(up.confidence, 3),
        clamped=clamped,
        has_colors=cloud.colors is not None,
        voxels=None if voxels is None else len(voxels),
        point_tokens=None if inputs is None else inputs.voxel_counts[-1],
        warnings=_warnings(cloud, clamped, up),
    )


def _beyond(cloud: PointCloud) -> int:
    """As `grid_sample` counts them."""
    return int((cloud.points - cloud.points.min(axis=0) >= WORLD_SIZE).any(axis=1).sum())


def _warnings(cloud: PointCloud, clamped: int, up: UpAxis) -> tuple[str, ...]:
    found = list(cloud.warnings)
    if cloud.dropped:
        found.append(
            f"{cloud.dropped} rows with NaN or infinite values were dropped. If these are many, check the program that "
            "wrote the file."
        )
    unit = unit_warning(cloud.points)
    if unit:
        found.append(unit)
    elif clamped:
        found.append(
            f"{clamped} points lie beyond {WORLD_SIZE:g} m and are moved to the border. Crop the scene, remove stray "
            "points, or give --scale if the unit is not metres."
        )
    height = float(np.ptp(cloud.points[:, "xyz".index(up.axis)]))
    if up.axis != "z" and up.confidence >= _SURE and (unit or height >= _LOWEST_ROOM):
        found.append(
            f"The {up.axis} axis seems to point up, but z was expected. If so, rotate the scene so that z is up."
        )
    if cloud.colors is None:
        found.append("The cloud has no colours, so less may be found. Export it with red, green, blue if you can.")
    return tuple(dict.fromkeys(found))  # reading may have said the same about the unit
