"""One door for every kind of point cloud file, chosen by the ending of its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from runtime.errors import PlyError
from runtime.points.cloud import PointCloud
from runtime.points.files import first_bytes, unreadable, wrong_kind
from runtime.points.numpy_files import read_npy, read_npz
from runtime.points.ply import read_ply
from runtime.points.raw import RawCloud, check_scale, usable
from runtime.points.text import read_text

_READERS: dict[str, Callable[[Path], RawCloud]] = {
    ".ply": read_ply,
    ".npy": read_npy,
    ".npz": read_npz,
    ".xyz": read_text,
    ".txt": read_text,
}
POINT_CLOUD_ENDINGS = tuple(_READERS)


def read_point_cloud(path: str | Path, *, scale: float | None = None) -> PointCloud:
    """Read .ply, .npy, .npz, .xyz or .txt; a PLY file under any other ending too. See each reader for what it takes.

    Full scale of a colour is 255; 65535 for 16-bit unsigned integers; 1 for floats that stay below 1.1.
    Rows with a NaN or infinite value are left out and counted in `dropped`. `scale` multiplies the coordinates, so
    that they become metres; whole numbers without it give a warning. Raises PlyError, and allocates nothing that the
    size of the file does not justify.
    """
    path = Path(path)
    check_scale(scale)
    try:
        cloud = usable(str(path), _reader(path)(path), scale)
    except OSError as error:
        raise unreadable(path, error) from error
    except MemoryError as error:
        raise PlyError(f"{path}: not enough memory to read it. Crop or thin the scene, or free some memory.") from error
    return PointCloud(cloud.points, cloud.colors, cloud.dropped, cloud.warnings)


def _reader(path: Path) -> Callable[[Path], RawCloud]:
    start = first_bytes(path, 64)
    reader = _READERS.get(path.suffix.lower())
    if reader is None and not start.startswith(b"ply"):
        raise wrong_kind(path, f"a point cloud by its ending ({', '.join(_READERS)})", start)
    return reader or read_ply
