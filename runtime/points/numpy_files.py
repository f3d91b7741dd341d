"""Point clouds from .npy and .npz. Nothing is unpickled, and nothing is read on the word of a header alone."""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtime.arrays import Array
from runtime.errors import PlyError
from runtime.points.files import first_bytes, wrong_kind
from runtime.points.raw import RawCloud, raw_from_table

_POINTS = ("points", "xyz", "coord", "coords")
_COLORS = ("colors", "rgb", "color")
_HEADER_BYTES = 1 << 14  # numpy itself refuses headers above 10,000
_UNPACKED = (20, 1 << 24)  # an archive may hold so many times its size and so many bytes more
_ZIP_ERRORS = (
    zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, OverflowError, struct.error, OSError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _ArrayHeader:
    shape: tuple[int, int]
    fortran_order: bool
    dtype: np.dtype[Any]
    offset: int  # bytes before the values

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    def shaped(self, values: Array) -> Array:
        return values.reshape(self.shape, order="F" if self.fortran_order else "C")


def read_npy(path: Path) -> RawCloud:
    """An array [N, 3] or [N, 6] of integers or floats; further columns are left out. Raises PlyError."""
    start = first_bytes(path, _HEADER_BYTES)
    header = _array_header(path, start, path.stat().st_size)
    values = np.fromfile(path, header.dtype, header.count, offset=header.offset)
    return raw_from_table(str(path), header.shaped(values))


def read_npz(path: Path) -> RawCloud:
    """Points [N, 3] under points, xyz, coord or coords, colours [N, 3] under colors, rgb or color. Raises PlyError."""
    start = first_bytes(path, 64)
    if not start.startswith(b"PK"):
        raise wrong_kind(path, "an .npz archive", start)
    try:  # from memory: a file would be asked for as many bytes as the archive claims
        archive = zipfile.ZipFile(io.BytesIO(path.read_bytes()))
    except _ZIP_ERRORS as error:
        raise _damaged(path, error) from error
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    points_key, colors_key = (next((key for key in keys if key in members), None) for keys in (_POINTS, _COLORS))
    if points_key is None:
        raise PlyError(
            f"{path}: no array named {', '.join(_POINTS)} (arrays: {', '.join(list(members)[:20]) or 'none'}). "
            "Save the points under one of these names."
        )
    raw = raw_from_table(f"{path}[{points_key}]", _member(path, archive, members[points_key]))
    if colors_key is None:
        return raw
    colors = raw_from_table(f"{path}[{colors_key}]", _member(path, archive, members[colors_key])).points
    if len(colors) != len(raw.points):
        raise PlyError(
            f"{path}: {len(raw.points)} {points_key}, but {len(colors)} {colors_key}. "
            "Save as many of one as of the other."
        )
    return RawCloud(points=raw.points, channels=colors, notes=raw.notes)


def _member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Array:
    packed = path.stat().st_size
    if info.file_size > _UNPACKED[0] * packed + _UNPACKED[1]:
        raise PlyError(
            f"{path}: {info.filename} claims {info.file_size} bytes, more than {_UNPACKED[0]} times the {packed} of "
            "the archive, so it is not unpacked. Save it with numpy.savez."
        )
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise PlyError(f"{path}: {info.filename} is packed in a way numpy does not write. Save it with numpy.savez.")
    try:
        with archive.open(info) as member:
            data = member.read(info.file_size)  # not read(): that unpacks all there is, whatever the claim
    except _ZIP_ERRORS as error:
        raise _damaged(path, error) from error
    header = _array_header(path, data[:_HEADER_BYTES], len(data))
    return header.shaped(np.frombuffer(data, header.dtype, header.count, offset=header.offset))


def _damaged(path: Path, error: Exception) -> PlyError:
    return PlyError(f"{path}: the archive is damaged ({str(error)[:100]}). Copy or save it again.")


def _array_header(path: Path, start: bytes, size: int) -> _ArrayHeader:
    """Header of a .npy of `size` bytes, from its first bytes, held against that size. Raises PlyError."""
    if not start.startswith(b"\x93NUMPY"):
        raise wrong_kind(path, "a NumPy array", start)
    shape, fortran_order, dtype, offset = _parse_header(path, start)
    if dtype.hasobject:
        raise PlyError(f"{path}: the array holds Python objects, which are not loaded. Save it as numbers (float32).")
    if dtype.kind not in "iuf":
        raise PlyError(f"{path}: the values are {str(dtype)[:60]}, but integers or floats were expected. Convert them.")
    if len(shape) != 2 or min(shape) < 0 or shape[1] < 3:
        raise PlyError(f"{path}: the shape is {str(list(shape))[:60]}, but [N, 3] or [N, 6] was expected. Reshape it.")
    need, have = math.prod(shape) * dtype.itemsize, size - offset
    if need > have:
        raise PlyError(
            f"{path}: the file is cut off. Its header promises {shape[0]} rows, {need} bytes, but {have} follow. "
            "Copy or save it again."
        )
    return _ArrayHeader((shape[0], shape[1]), fortran_order, dtype, offset)


def _parse_header(path: Path, start: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    stream = io.BytesIO(start)  # bounded: a header may claim 4 GiB for itself
    try:
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"format version {version[0]}.{version[1]}")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = read(stream)
    except Exception as error:  # a literal of Python's is parsed there, which can fail in a dozen ways
        raise PlyError(
            f"{path}: the header of the array is not valid ({str(error)[:100]}). Save it again with numpy.save."
        ) from error
    return shape, fortran_order, dtype, stream.tell()
