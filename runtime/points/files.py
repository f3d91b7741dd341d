"""What is wrong with a file before its format matters: no such file, a folder, a pipe, a web page named .ply."""

from __future__ import annotations

import stat
from pathlib import Path

from runtime.errors import PlyError

HEADER_LIMIT = 1 << 20  # bytes; a header of a kilobyte is already a long one

_FOREIGN = {
    b"\x1f\x8b": ("compressed with gzip", "Unpack it first (gunzip)"),
    b"PK\x03\x04": ("a zip archive", "Unpack it first"),
    b"<": ("a web page or XML", "Download the point cloud itself"),
    b"version https://git-lfs": ("a Git LFS pointer", "Fetch its contents (git lfs pull)"),
    b"\x93NUMPY": ("a NumPy array", "Rename it to end in .npy"),
    b"ply\n": ("a PLY file", "Rename it to end in .ply"),
    b"ply\r": ("a PLY file", "Rename it to end in .ply"),
    b"# .PCD": ("a PCD file", "Convert it to PLY"),
    b"LASF": ("a LAS file", "Convert it to PLY"),
}


def first_bytes(path: Path, limit: int = HEADER_LIMIT) -> bytes:
    """The first `limit` bytes of a regular file that is not empty. Pipes and devices are refused unopened: they would
    hang. Raises PlyError."""
    try:
        facts = path.stat()
        mode = facts.st_mode
        if stat.S_ISDIR(mode):
            raise PlyError(f"{path}: a folder, but a point cloud file was expected. Name one file in it.")
        if not stat.S_ISREG(mode):
            raise PlyError(f"{path}: a pipe or device, but a file was expected. Save the scene to a file first.")
        with path.open("rb") as file:
            start = file.read(min(limit, facts.st_size))  # a read allocates what it is asked for
    except FileNotFoundError as error:
        raise PlyError(f"{path}: no such file. Give the path of a point cloud file.") from error
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    if not start:
        raise PlyError(f"{path}: the file is empty, but points were expected. Copy or export it again.")
    return start


def unreadable(path: Path, error: Exception) -> PlyError:
    """The sentence for a file the system will not give."""
    reason = getattr(error, "strerror", None) or error
    return PlyError(f"{path}: cannot be read ({reason}). Check the path, the file and its permissions.")


def known_kind(start: bytes) -> tuple[str, str] | None:
    """What a file is by its first bytes, and what to do with it; None for text and everything unknown."""
    start = start.lstrip()
    return next((kind for signature, kind in _FOREIGN.items() if start.startswith(signature)), None)


def wrong_kind(path: Path, expected: str, start: bytes) -> PlyError:
    """The sentence for a file that is not what its name says, by its first bytes."""
    if known := known_kind(start):
        return PlyError(f"{path}: not {expected} but {known[0]}, it begins with {start[:8]!r}. {known[1]}.")
    return PlyError(f"{path}: not {expected}, it begins with {start[:8]!r}. Convert the scene to PLY.")
