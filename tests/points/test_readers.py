"""Arrays, archives, columns of text, and whatever else is given for a point cloud."""

from __future__ import annotations

import gzip
import io
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from runtime.arrays import Array
from runtime.errors import PlyError
from runtime.points import POINT_CLOUD_ENDINGS, PointCloud, clean_up, read_point_cloud, readers
from tests.points.test_ply import BYTES, HEADER, POINTS, XYZ

TABLE = np.hstack([POINTS, BYTES])


def assert_cloud(cloud: PointCloud, colors: Array | None = BYTES / 255.0, points: Array = POINTS) -> None:
    assert cloud.points.dtype == np.float64 and cloud.points.flags.c_contiguous
    np.testing.assert_allclose(cloud.points, points, rtol=1e-12)
    if colors is None:
        assert cloud.colors is None
    else:
        assert cloud.colors is not None
        np.testing.assert_allclose(cloud.colors, colors, rtol=1e-12)


def npy_bytes(array: Array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def claimed(shape: str, descr: str = "'<f4'") -> bytes:
    """A .npy header that says what it likes, and 24 bytes of values."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(24)


@pytest.mark.parametrize("kind", ["<f8", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy(tmp_path: Path, kind: str, order: str) -> None:
    np.save(tmp_path / "a.npy", np.asarray(POINTS, dtype=kind, order=order))  # type: ignore[call-overload]
    assert_cloud(read_point_cloud(tmp_path / "a.npy"), colors=None)
    np.save(tmp_path / "a.npy", np.asarray(TABLE, dtype=kind, order=order))  # type: ignore[call-overload]
    assert_cloud(read_point_cloud(tmp_path / "a.npy"))


@pytest.mark.parametrize("kind", ["f2", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"])
def test_npy_number_types(tmp_path: Path, kind: str) -> None:
    table = np.array([[1, 2, 3], [4, 5, 100]], dtype=kind)
    np.save(tmp_path / "a.npy", table)
    assert_cloud(read_point_cloud(tmp_path / "a.npy", scale=0.5), colors=None, points=table / 2)


@pytest.mark.parametrize("columns", [4, 5, 7, 9])
def test_further_columns_are_left_out_with_a_warning(tmp_path: Path, columns: int) -> None:
    np.save(tmp_path / "a.npy", np.hstack([TABLE, TABLE])[:, :columns])
    cloud = read_point_cloud(tmp_path / "a.npy")
    used, names = (6, "x y z r g b") if columns >= 6 else (3, "x y z")
    assert_cloud(cloud, colors=BYTES / 255.0 if used == 6 else None)
    assert cloud.warnings == (f"Of {columns} columns the first {used} were used, as {names}.",)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("points", ["points", "xyz", "coord", "coords"])
@pytest.mark.parametrize("colors", ["colors", "rgb", "color", None])
def test_npz(tmp_path: Path, save: object, points: str, colors: str | None) -> None:
    arrays = {points: POINTS, "labels": np.arange(3)} | ({colors: BYTES.astype(np.uint8)} if colors else {})
    save(tmp_path / "a.npz", **arrays)  # type: ignore[operator]
    assert_cloud(read_point_cloud(tmp_path / "a.npz"), colors=BYTES / 255.0 if colors else None)


@pytest.mark.parametrize("ending", [".xyz", ".txt", ".TXT"])
@pytest.mark.parametrize("separator", [" ", "\t", ", ", ";"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_columns_of_text(tmp_path: Path, ending: str, separator: str, newline: str) -> None:
    path = tmp_path / f"a{ending}"
    lines = ["\ufeff# x y z r g b", "//X,Y,Z", "", *(separator.join(map(str, row)) for row in TABLE.tolist())]
    path.write_bytes(newline.join(lines).encode())
    assert_cloud(read_point_cloud(path))
    path.write_bytes(newline.join(separator.join(map(str, row)) for row in POINTS.tolist()).encode())
    assert_cloud(read_point_cloud(path), colors=None)


def test_from_array() -> None:
    assert_cloud(PointCloud.from_array(POINTS), colors=None)
    assert_cloud(PointCloud.from_array(TABLE.tolist()))
    assert_cloud(PointCloud.from_array(np.hstack([POINTS, BYTES / 255.0]), scale=2.0), points=2 * POINTS)
    table = TABLE.copy()
    table[0, 0] = np.nan
    cloud = PointCloud.from_array(table)
    assert cloud.dropped == 1 and len(cloud) == 2
    table[1] = 0
    assert cloud.points[0, 0] == 3.0  # a copy


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((5, 4)), r"the shape \[5, 4\], but \[N, 3\] or \[N, 6\] was expected"),
        (np.zeros(3), r"the shape \[3\]"),
        (np.array([["a", "b", "c"]]), "the values are <U1, but integers or floats"),
        (np.array([[1, 2, None]]), "the values are object"),
        (np.zeros((0, 3)), "holds no points"),
        (POINTS[:1], "only one usable point"),
        (np.ones((4, 3)), r"all 4 points are equal, at \(1, 1, 1\)"),
        (POINTS * 1e300, r"a coordinate is 1\.00\w+e\+302|a coordinate is"),
        (np.hstack([POINTS, BYTES * 2.0]), "colours run from 0 to 510 as float64"),
        (np.hstack([POINTS, BYTES - 9.0]), "colours run from -9 to"),
    ],
)
def test_from_array_refuses(array: Array, message: str) -> None:
    with pytest.raises(PlyError, match=message):
        PointCloud.from_array(array)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_scales_that_make_no_sense(scale: float) -> None:
    with pytest.raises(PlyError, match="but a finite number above 0 was expected"):
        PointCloud.from_array(POINTS, scale=scale)
    with pytest.raises(PlyError, match="--scale is"):
        read_point_cloud("none.ply", scale=scale)


def test_a_scale_beyond_all_range() -> None:
    with pytest.raises(PlyError, match="a coordinate is inf"):
        PointCloud.from_array(POINTS * 1e100, scale=1e300)
    with pytest.raises(PlyError, match="points are equal"):
        PointCloud.from_array(POINTS, scale=5e-324)


FOREIGN = [
    (gzip.compress(b"ply\n", mtime=0), "compressed with gzip.* Unpack it first"),
    (b"PK\x03\x04rest", "a zip archive"),
    (b"\n <!DOCTYPE html><html>", "a web page or XML.* Download the point cloud itself"),
    (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
    (bytes(range(7, 200)), "it begins with"),
]


@pytest.mark.parametrize("ending", POINT_CLOUD_ENDINGS)
@pytest.mark.parametrize(("data", "message"), FOREIGN)
def test_something_else_by_that_name(tmp_path: Path, ending: str, data: bytes, message: str) -> None:
    path = tmp_path / f"a{ending}"
    path.write_bytes(data)
    as_archive = ending == ".npz" and data.startswith(b"PK")
    as_text = ending in (".xyz", ".txt") and data.startswith(b"\x07")
    message = "damaged" if as_archive else "a row cannot be read|no points" if as_text else message
    with pytest.raises(PlyError, match=rf"(?s)a\{ending}: .*({message})"):
        read_point_cloud(path)


@pytest.mark.parametrize("ending", POINT_CLOUD_ENDINGS)
def test_no_file_at_all(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    for prepare, message in [
        (lambda: None, "no such file"),
        (path.touch, "the file is empty"),
        (lambda: (path.unlink(), path.mkdir()), "a folder, but a point cloud file was expected"),
        (lambda: (path.rmdir(), os.mkfifo(path)), "a pipe or device"),
    ]:
        prepare()
        with pytest.raises(PlyError, match=message):
            read_point_cloud(path)
    for strange in ["/dev/zero", f"a\0{ending}", "x" * 5000 + ending]:
        with pytest.raises(PlyError, match=r"a pipe or device|cannot be read"):
            read_point_cloud(strange)


def test_files_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.ply"
    path.write_text("ply\n")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # the tests may run as one who may read all
    with pytest.raises(PlyError, match=r"cannot be read \(Permission denied\)"):
        read_point_cloud(path)


def test_not_enough_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "a.npy", POINTS)

    def exhausted(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(readers, "usable", exhausted)
    with pytest.raises(PlyError, match=r"not enough memory to read it\. Crop or thin the scene"):
        read_point_cloud(tmp_path / "a.npy")


def test_endings(tmp_path: Path) -> None:
    (tmp_path / "scene").write_text(HEADER.format(count=2, properties=XYZ) + "1 2 3\n4 5 6\n")
    assert len(read_point_cloud(tmp_path / "scene")) == 2
    (tmp_path / "scene.las").write_bytes(b"LASF")
    with pytest.raises(PlyError, match=r"ending \(.ply, .npy, .npz, .xyz, .txt\) but a LAS file.* Convert it to PLY"):
        read_point_cloud(tmp_path / "scene.las")
    (tmp_path / "scene.npy").write_bytes((tmp_path / "scene").read_bytes())
    with pytest.raises(PlyError, match=r"not a NumPy array but a PLY file.* Rename it to end in \.ply"):
        read_point_cloud(tmp_path / "scene.npy")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (claimed("(1000000000000, 3)"), "promises 1000000000000 rows, 12000000000000 bytes, but 24 follow"),
        (claimed("(3, 3)"), "promises 3 rows, 36 bytes, but 24 follow"),
        (claimed("(-2, 3)"), r"the shape is \[-2, 3\], but \[N, 3\] or \[N, 6\] was expected"),
        (claimed("(2, 2)"), r"the shape is \[2, 2\]"),
        (claimed("(6,)"), r"the shape is \[6\]"),
        (claimed("(0, 3)"), "holds no points"),
        (claimed("(2, 3)", "'|O'"), "holds Python objects, which are not loaded"),
        (claimed("(2, 3)", "'<c8'"), "the values are complex64"),
        (claimed("(2, 3)", "[('x', '<f4')]"), "the values are .*'x', '<f4'"),
        (claimed("(2, 3)", "'|V1000000000000'"), "the header of the array is not valid|the values are"),
        (claimed("(" * 9000), "the header of the array is not valid"),
        (claimed("(2, 3)").replace(b"\x93NUMPY\x01", b"\x93NUMPY\x07"), "header of the array is not valid"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff{", "header of the array is not valid"),
        (npy_bytes(POINTS)[:60], "header of the array is not valid"),
    ],
)
def test_npy_headers_are_not_believed(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(PlyError, match=rf"a\.npy: .*{message}"):
        read_point_cloud(tmp_path / "a.npy")
    np.savez(tmp_path / "a.npz", labels=POINTS)
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr("points.npy", data)
    with pytest.raises(PlyError, match=rf"a\.npz.*: .*{message}"):
        read_point_cloud(tmp_path / "a.npz")


def test_npz_refuses(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, vertices=POINTS)
    with pytest.raises(PlyError, match=r"no array named points, xyz, coord, coords \(arrays: vertices\)"):
        read_point_cloud(path)
    np.savez(path, points=POINTS, colors=BYTES[:2])
    with pytest.raises(PlyError, match="3 points, but 2 colors"):
        read_point_cloud(path)
    np.savez(path, points=np.array([[1, 2, None]]))
    with pytest.raises(PlyError, match="Python objects"):
        read_point_cloud(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(PlyError, match="the archive is damaged"):
        read_point_cloud(path)
    np.savez(path, points=POINTS)
    path.write_bytes(path.read_bytes().replace(POINTS.tobytes(), np.zeros_like(POINTS).tobytes()))
    with pytest.raises(PlyError, match=r"the archive is damaged \(Bad CRC"):
        read_point_cloud(path)


def test_zip_bombs_are_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, points=np.zeros((2_000_000, 3)))
    with pytest.raises(PlyError, match=r"points.npy claims 480\d+ bytes, more than 20 times"):
        read_point_cloud(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("points.npy", npy_bytes(POINTS))
    with pytest.raises(PlyError, match="packed in a way numpy does not write"):
        read_point_cloud(path)


def test_warnings_outlive_the_clean_up() -> None:
    rng = np.random.default_rng(0)
    cloud = PointCloud.from_array(rng.integers(0, 3000, (2000, 3)))
    assert cloud.warnings and clean_up(cloud, 25).warnings == cloud.warnings


@pytest.mark.parametrize("row", ["0,5 0,25 1,0", "0,5;0,25;1,0"])
def test_decimal_commas_are_not_taken_for_separators(tmp_path: Path, row: str) -> None:
    path = tmp_path / "a.xyz"
    path.write_text("\n".join([row] * 3))
    with pytest.raises(PlyError, match=r"may be decimal commas\. Write the numbers with decimal points"):
        read_point_cloud(path)


@pytest.mark.parametrize("rows", ["0,0,0\n1,2,3", "0, 0, 0\n1, 2, 3", "0;0;0\n1;2;3", "0 0 0\n1 2 3", "0,0,0,\n1,2,3,"])
def test_separators(tmp_path: Path, rows: str) -> None:
    path = tmp_path / "a.xyz"
    path.write_text(rows)
    assert read_point_cloud(path).points.tolist() == [[0, 0, 0], [1, 2, 3]]
