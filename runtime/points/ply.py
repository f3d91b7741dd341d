"""Point clouds from PLY files: which properties are taken, and what they are called."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from runtime.arrays import Array
from runtime.errors import PlyError
from runtime.points.ply_header import PlyHeader, read_header
from runtime.points.ply_rows import read_columns
from runtime.points.raw import RawCloud

_POSITION = ("x", "y", "z")
_COLORS = (
    ("red", "green", "blue"),
    ("diffuse_red", "diffuse_green", "diffuse_blue"),
    ("r", "g", "b"),
)
_SPLAT = ("f_dc_0", "f_dc_1", "f_dc_2")
_SPLAT_FACTOR = 0.28209479177387814  # sqrt(1 / (4 pi)), the constant spherical harmonic


def read_ply(path: Path) -> RawCloud:
    """Read x, y, z of the `vertex` element and its colours under any of their names; all else is passed over.

    The colour of a Gaussian splat is its constant term, 0.5 + 0.282 f_dc, within 0 .. 1. Raises PlyError.
    """
    header = read_header(path)
    names = _color_names(header)
    columns = read_columns(header, (*_POSITION, *(names or ())))
    channels = None if names is None else _stack(columns, names)
    if channels is not None and names == _SPLAT:
        channels = np.clip(0.5 + _SPLAT_FACTOR * channels.astype(np.float64), 0, 1)
    return RawCloud(points=_stack(columns, _POSITION), channels=channels)


def _color_names(header: PlyHeader) -> tuple[str, ...] | None:
    """The first complete triple; None where there is no colour at all. Raises PlyError for a triple with gaps only."""
    numbers = header.vertex.numbers
    found = {names: [name for name in names if name in numbers] for names in (*_COLORS, _SPLAT)}
    for names, present in found.items():
        if len(present) == 3:
            return names
    for names, present in found.items():
        if present:
            raise PlyError(
                f"{header.path}: of {', '.join(names)} only {', '.join(present)} is there. Write all three or none."
            )
    return None


def _stack(columns: Mapping[str, Array], names: tuple[str, ...]) -> Array:
    """Three columns [N] as [N, 3], in a type that holds all."""
    with np.errstate(invalid="ignore"):  # a signalling NaN is counted as dropped, like every other
        return np.stack([columns[name] for name in names], axis=1)
