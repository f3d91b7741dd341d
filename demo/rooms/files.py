"""A scan as two files: a point cloud, and its ground truth as text."""

from __future__ import annotations

import secrets
from pathlib import Path

import numpy as np

from demo.rooms.scan import Scan, make_scan
from runtime.errors import SceneError
from runtime.layout import write_layout

_ROW = np.dtype([("xyz", "<f4", 3), ("rgb", "u1", 3)])
_HEADER = """\
ply
format binary_little_endian 1.0
element vertex {count}
property float x
property float y
property float z
property uchar red
property uchar green
property uchar blue
end_header
"""


def write_scan(scan: Scan, folder: Path, name: str) -> None:
    """Write `name`.txt and `name`.ply into a folder that exists, each whole or not at all, the cloud last: where it
    is, its ground truth is too. Raises SceneError."""
    write_layout(scan.layout, folder / f"{name}.txt")
    path = folder / f"{name}.ply"
    try:
        _replace_file(path, ply_bytes(scan))
    except OSError as error:
        reason = error.strerror or str(error)
        raise SceneError(f"{path}: cannot be written ({reason}). Name a folder that can be written to.") from error


def write_seed(folder: Path, seed: int) -> None:
    """Make the scan of a seed and write it under the seed's number. Raises SceneError."""
    write_scan(make_scan(seed), folder, str(seed))


def ply_bytes(scan: Scan) -> bytes:
    """Binary little-endian PLY: x, y, z as float, red, green, blue as uchar."""
    rows = np.empty(len(scan.points), dtype=_ROW)
    rows["xyz"], rows["rgb"] = scan.points, scan.colors
    return _HEADER.format(count=len(rows)).encode("ascii") + rows.tobytes()


def _replace_file(path: Path, content: bytes) -> None:
    temporary = path.parent / f".scan-{secrets.token_hex(8)}.tmp"
    try:
        with temporary.open("xb") as file:
            file.write(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
