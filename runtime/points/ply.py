"""Point clouds from PLY files: ascii and both binary orders. The only file that knows plyfile.

A header is somebody else's claim. It is held against the size of the file before any row is read: plyfile allocates
what a header asks for, so it first sees the header with every count set to zero.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from plyfile import PlyData, PlyListProperty, PlyParseError

from runtime.arrays import Array
from runtime.errors import PlyError
from runtime.points.cloud import PointCloud

_HEADER_LIMIT = 1 << 20  # bytes; a header of a kilobyte is already a long one
_POSITION = ("x", "y", "z")
_COLOR = ("red", "green", "blue")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Header:
    path: Path
    layout: PlyData  # elements and their properties, without rows
    counts: dict[str, int]
    offset: int  # bytes before the first row

    @property
    def vertex(self) -> Any:
        return self.layout["vertex"]

    @property
    def elements_through_vertex(self) -> list[Any]:
        names = [element.name for element in self.layout]
        return list(self.layout)[: names.index("vertex") + 1]


def read_point_cloud(path: Path) -> PointCloud:
    """Read the `vertex` element of a PLY file: x, y, z of any number type, and red, green, blue where present.

    Full scale of a colour is 255; 65535 for 16-bit unsigned integers; 1 for floats that stay within 0 .. 1.
    Rows with a NaN or infinite value are left out and counted in `dropped`. Other properties and elements are ignored.
    Raises PlyError.
    """
    path = Path(path)
    header = _read_header(path)
    _check_vertex(header)
    _check_size(header)
    rows = _read_rows(header)
    points = _columns(rows, _POSITION)
    channels = _columns(rows, _COLOR) if "red" in (rows.dtype.names or ()) else None
    finite = np.isfinite(points).all(axis=1)
    if channels is not None:
        finite &= np.isfinite(channels).all(axis=1)
    if not finite.any():
        raise PlyError(f"{path}: all {len(rows)} points have NaN or infinite values. Check the program that wrote it.")
    colors = None if channels is None else _unit_colors(path, channels[finite], rows.dtype["red"])
    return PointCloud(points[finite], colors, dropped=int((~finite).sum()))


def _read_header(path: Path) -> _Header:
    header = _header_bytes(path)
    try:
        text, counts = _without_counts(
            header.decode("ascii", "replace").replace("\ufffd", "?")
        )  # comments hold anything
        layout = PlyData.read(io.BytesIO(text.encode("ascii")))
    except (PlyParseError, ValueError) as error:
        raise PlyError(f"{path}: the PLY header is not valid ({error}). Save the scene again as PLY.") from error
    return _Header(path=path, layout=layout, counts=counts, offset=len(header))


def _without_counts(header: str) -> tuple[str, dict[str, int]]:
    """The header with every element count set to zero, and the counts. Raises ValueError."""
    newline = header.rsplit("end_header", 1)[1]
    lines, counts = header.split(newline), {}
    for number, line in enumerate(lines):
        match line.split():
            case ["element", name, count]:
                if not count.isdigit():
                    raise ValueError(f"element {name} has the count {count:.20}")
                counts[name] = int(count) if len(count) < 19 else 10**18  # more than any file can hold
                lines[number] = f"element {name} 0"
    return newline.join(lines), counts


def _header_bytes(path: Path) -> bytes:
    start = _first_bytes(path)
    first_line = re.match(rb"ply(\r\n|\n|\r)", start)
    if not first_line:
        raise PlyError(f"{path}: not a PLY file, it begins with {start[:8]!r}. Convert the scene to PLY.")
    newline = first_line[1]
    last_line = newline + b"end_header" + newline
    end = start.find(last_line)
    if end < 0:
        raise PlyError(f"{path}: the PLY header has no end_header line. The file is cut off or altered; copy it again.")
    return start[: end + len(last_line)]


def _first_bytes(path: Path) -> bytes:
    if path.is_dir():
        raise PlyError(f"{path}: a folder, but a PLY file was expected. Name one file in it.")
    try:
        with path.open("rb") as file:
            start = file.read(_HEADER_LIMIT)
    except FileNotFoundError as error:
        raise PlyError(f"{path}: no such file. Give the path of a PLY file.") from error
    except OSError as error:
        raise PlyError(f"{path}: cannot be read ({error.strerror}). Check the file and its permissions.") from error
    if not start:
        raise PlyError(f"{path}: the file is empty. Copy or export it again.")
    return start


def _check_vertex(header: _Header) -> None:
    if "vertex" not in header.layout:
        names = ", ".join(element.name for element in header.layout) or "none"
        raise PlyError(f"{header.path}: no vertex element (elements: {names}). A point cloud with x, y, z is needed.")
    numbers = [p.name for p in header.vertex.properties if not isinstance(p, PlyListProperty)]
    if missing := [name for name in _POSITION if name not in numbers]:
        raise PlyError(
            f"{header.path}: vertices have no {', '.join(missing)} (properties: {', '.join(numbers) or 'none'}). "
            "A point cloud with x, y, z is needed."
        )
    colored = [name for name in _COLOR if name in numbers]
    if 0 < len(colored) < 3:
        raise PlyError(
            f"{header.path}: of red, green, blue only {', '.join(colored)} is there. Write all three or none."
        )
    if header.counts["vertex"] == 0:
        raise PlyError(f"{header.path}: the file holds no points. Export the scene again.")


def _check_size(header: _Header) -> None:
    """Hold the header's counts against the bytes that follow it, at the smallest size its rows can have."""
    need = sum(header.counts[element.name] * _row_bytes(element, header.layout) for element in header.layout)
    have = header.path.stat().st_size - header.offset
    if have < need - header.layout.text:  # the last line of text may lack its newline
        counts = ", ".join(f"{header.counts[element.name]} {element.name}" for element in header.layout)
        raise PlyError(
            f"{header.path}: the file is cut off. Its header promises {counts}, at least {need} bytes, "
            f"but {have} follow. Copy or export it again."
        )


def _row_bytes(element: Any, layout: PlyData) -> int:
    """Fewest bytes of a row: as text a digit and a separator for each property, a list may be empty."""
    if layout.text:
        return max(1, 2 * len(element.properties))
    types = [p.list_dtype()[0] if isinstance(p, PlyListProperty) else p.dtype() for p in element.properties]
    return max(1, sum(int(np.dtype(kind).itemsize) for kind in types))


def _read_rows(header: _Header) -> Array:
    """The vertex rows, a structured array [N]. Faces that follow binary vertices are not read."""
    elements = header.elements_through_vertex
    if header.layout.text or any(isinstance(p, PlyListProperty) for e in elements for p in e.properties):
        return _read_all(header)
    order = header.layout.byte_order
    before = sum(header.counts[element.name] * _row_bytes(element, header.layout) for element in elements[:-1])
    dtype, count = header.vertex.dtype(order), header.counts["vertex"]
    rows: Array = np.fromfile(header.path, dtype, count, offset=header.offset + before)
    return rows


def _read_all(header: _Header) -> Array:
    try:
        with np.errstate(over="ignore"):  # text beyond a float's range becomes infinite and is counted as dropped
            rows: Array = PlyData.read(str(header.path))["vertex"].data
    except (PlyParseError, ValueError, OverflowError) as error:
        raise PlyError(f"{header.path}: a row cannot be read ({error}). Copy or export it again.") from error
    return rows


def _columns(rows: Array, names: tuple[str, ...]) -> Array:
    """Three properties as float64 [N, 3]."""
    with np.errstate(invalid="ignore"):  # a signalling NaN is counted as dropped, like every other
        return np.stack([rows[name] for name in names], axis=1).astype(np.float64)


def _unit_colors(path: Path, channels: Array, dtype: np.dtype[Any]) -> Array:
    colors = channels / _full_scale(channels, dtype)
    if colors.min() < 0 or colors.max() > 1:
        raise PlyError(
            f"{path}: colours run from {channels.min():g} to {channels.max():g} as {dtype.name}, but 0 to 255 "
            "(65535 for uint16, 1 for floats) was expected. Scale them or leave them out."
        )
    return colors


def _full_scale(channels: Array, dtype: np.dtype[Any]) -> float:
    if dtype.kind == "u" and dtype.itemsize == 2:
        return 65535.0
    return 1.0 if dtype.kind == "f" and channels.max() <= 1 else 255.0
