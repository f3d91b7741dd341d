from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plyfile import PlyElement

from runtime.arrays import Array
from runtime.errors import PlyError
from runtime.points import PointCloud, read_point_cloud
from tests.points.ply_writer import write

POINTS = np.array([[0.5, -1.25, 2.0], [3.0, 0.1, -0.7], [1e-3, 100.5, 7.0]])
BYTES = np.array([[0, 128, 255], [1, 2, 3], [200, 100, 50]])
HEADER = "ply\nformat ascii 1.0\nelement vertex {count}\n{properties}end_header\n"
XYZ = "property float x\nproperty float y\nproperty float z\n"
RGB = "property uchar red\nproperty uchar green\nproperty uchar blue\n"


def vertex_rows(coordinate: str = "f4", color: str | None = "u1", scale: float = 1) -> Array:
    kinds = [(name, coordinate) for name in "xyz"] + [("confidence", "f4")]
    kinds += [(name, color) for name in ("red", "green", "blue")] if color else []
    rows = np.zeros(len(POINTS), dtype=kinds)
    for axis, name in enumerate("xyz"):
        rows[name] = POINTS[:, axis]
    for channel, name in enumerate(("red", "green", "blue") if color else ()):
        rows[name] = BYTES[:, channel] * scale
    return rows


def faces() -> PlyElement:
    rows = np.empty(2, dtype=[("vertex_indices", "O")])
    rows["vertex_indices"] = [np.array([0, 1, 2], dtype="i4"), np.array([0, 1, 2, 0], dtype="i4")]
    return PlyElement.describe(rows, "face")


def sensors() -> PlyElement:
    return PlyElement.describe(np.array([(7, 0.5)] * 4, dtype=[("id", "i2"), ("gain", "f8")]), "sensor")


def vertex(rows: Array | None = None) -> PlyElement:
    return PlyElement.describe(vertex_rows() if rows is None else rows, "vertex")


def text_ply(path: Path, body: str, properties: str = XYZ, count: int | str = 1) -> Path:
    path.write_text(HEADER.format(count=count, properties=properties) + body)
    return path


@pytest.mark.parametrize("coordinate", ["f4", "f8"])
@pytest.mark.parametrize(("text", "byte_order"), [(True, "<"), (False, "<"), (False, ">")])
def test_formats(tmp_path: Path, coordinate: str, text: bool, byte_order: str) -> None:
    path = write(tmp_path / "a.ply", vertex(vertex_rows(coordinate)), text=text, byte_order=byte_order)
    cloud = read_point_cloud(path)
    assert cloud.points.dtype == np.float64 and cloud.colors is not None and cloud.colors.dtype == np.float64
    np.testing.assert_array_equal(cloud.points, POINTS.astype(coordinate).astype(np.float64))
    np.testing.assert_array_equal(cloud.colors, BYTES / 255.0)
    assert cloud.dropped == 0 and len(cloud) == 3


@pytest.mark.parametrize("text", [True, False])
def test_other_elements_before_and_after(tmp_path: Path, text: bool) -> None:
    for elements in ([vertex(), faces()], [sensors(), vertex(), faces()], [faces(), vertex(), sensors()]):
        cloud = read_point_cloud(write(tmp_path / "a.ply", *elements, text=text))
        np.testing.assert_array_equal(cloud.points, POINTS.astype(np.float32).astype(np.float64))


def test_without_colors(tmp_path: Path) -> None:
    assert read_point_cloud(write(tmp_path / "a.ply", vertex(vertex_rows(color=None)))).colors is None


@pytest.mark.parametrize(("color", "scale"), [("u2", 257), ("f4", 1 / 255), ("f8", 1 / 255), ("f4", 1), ("i4", 1)])
def test_color_types(tmp_path: Path, color: str, scale: float) -> None:
    cloud = read_point_cloud(write(tmp_path / "a.ply", vertex(vertex_rows(color=color, scale=scale))))
    assert cloud.colors is not None
    np.testing.assert_allclose(cloud.colors, BYTES / 255.0, atol=1e-7)


@pytest.mark.filterwarnings("error")
def test_rows_that_are_not_finite_are_counted(tmp_path: Path) -> None:
    rows = vertex_rows()
    rows["y"][0] = np.nan
    cloud = read_point_cloud(write(tmp_path / "a.ply", vertex(rows)))
    assert cloud.dropped == 1 and cloud.colors is not None
    np.testing.assert_array_equal(cloud.points, POINTS[1:].astype(np.float32))
    np.testing.assert_array_equal(cloud.colors, BYTES[1:] / 255.0)
    text = "1 2 3\n1e99 2 3\nnan 0 0\n4 5 6\n"
    assert read_point_cloud(text_ply(tmp_path / "b.ply", text, XYZ, 4)).dropped == 2
    rows["x"][1], rows["z"][2] = np.inf, -np.inf
    with pytest.raises(PlyError, match="all 3 points have NaN or infinite values"):
        read_point_cloud(write(tmp_path / "a.ply", vertex(rows)))


def test_comments_may_hold_any_bytes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ply", vertex())
    path.write_bytes(
        path.read_bytes().replace(b"element vertex", b"comment caf\xc3\xa9 element vertex 9\nelement vertex")
    )
    assert len(read_point_cloud(path)) == 3


@pytest.mark.parametrize("newline", ["\r\n", "\r"])
def test_other_line_ends(tmp_path: Path, newline: str) -> None:
    path = tmp_path / "a.ply"
    path.write_bytes(
        HEADER.format(count=2, properties=XYZ).replace("\n", newline).encode() + b"1 2 3" + newline.encode() + b"4 5 6"
    )
    np.testing.assert_array_equal(read_point_cloud(path).points, [[1, 2, 3], [4, 5, 6]])


def test_missing_file_folder_empty_and_foreign(tmp_path: Path) -> None:
    with pytest.raises(PlyError, match=r"none\.ply: no such file"):
        read_point_cloud(tmp_path / "none.ply")
    with pytest.raises(PlyError, match="a folder, but a point cloud file was expected"):
        read_point_cloud(tmp_path)
    (tmp_path / "a.ply").write_bytes(b"")
    with pytest.raises(PlyError, match="the file is empty"):
        read_point_cloud(tmp_path / "a.ply")
    (tmp_path / "a.ply").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(PlyError, match=r"not a PLY file, it begins with b'\\x89PNG"):
        read_point_cloud(tmp_path / "a.ply")


@pytest.mark.parametrize(
    ("properties", "count", "body", "message"),
    [
        ("property float x\nproperty float y\n", 1, "1 2\n", r"vertices have no z \(properties: x, y\)"),
        ("property list uchar float x\n", 1, "1 2\n", r"vertices have no x, y, z \(properties: none\)"),
        (XYZ + "property uchar red\n", 1, "1 2 3 4\n", "of red, green, blue only red is there"),
        (XYZ, 0, "", "the file holds no points"),
        (XYZ, -3, "1 2 3\n", r"header is not valid \(element vertex has the count -3\)"),
        (XYZ, "many", "1 2 3\n", "header is not valid"),
        ("property quaternion x\n", 1, "1\n", "header is not valid"),
        (XYZ, 2, "1 2 3\nfour 5 6\n", "a row cannot be read"),
        (XYZ + RGB, 1, "1 2 3 0 300 0\n", "a row cannot be read"),
        (XYZ, 2, "1 2 3\n4 5\n", "a row cannot be read|cut off"),
        (XYZ + RGB.replace("uchar", "int"), 1, "1 2 3 0 300 0\n", "colours run from 0 to 300 as int32"),
    ],
)
def test_bad_contents(tmp_path: Path, properties: str, count: int | str, body: str, message: str) -> None:
    with pytest.raises(PlyError, match=message):
        read_point_cloud(text_ply(tmp_path / "a.ply", body, properties, count))


def test_no_vertex_element(tmp_path: Path) -> None:
    with pytest.raises(PlyError, match=r"no vertex element \(elements: sensor\)"):
        read_point_cloud(write(tmp_path / "a.ply", sensors()))


@pytest.mark.parametrize("count", [4, 10**12, 10**40])
@pytest.mark.parametrize("text", [True, False])
def test_counts_are_held_against_the_size_before_anything_is_allocated(tmp_path: Path, text: bool, count: int) -> None:
    path = write(tmp_path / "a.ply", vertex(), text=text)
    path.write_bytes(path.read_bytes().replace(b"element vertex 3", b"element vertex %d" % count))
    with pytest.raises(PlyError, match="cut off" if count > 4 or not text else "cut off|a row cannot be read"):
        read_point_cloud(path)


def test_every_cut_of_a_binary_file_is_noticed(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.ply", vertex(), faces()).read_bytes()
    faces_beyond_their_counts = 13 + 17 - 2 * 1  # how long a list is stands in the list: not known beforehand
    for length in range(len(whole) - faces_beyond_their_counts):
        (tmp_path / "cut.ply").write_bytes(whole[:length])
        with pytest.raises(PlyError, match=r"cut\.ply: "):
            read_point_cloud(tmp_path / "cut.ply")


@pytest.mark.parametrize("text", [True, False])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 400), value=st.sampled_from(list(b"\x00\x01\n\r \x1c09+_-.aelpry\x7f\xff")))
def test_one_altered_byte_gives_a_cloud_or_a_sentence(tmp_path: Path, text: bool, place: int, value: int) -> None:
    data = bytearray(write(tmp_path / "a.ply", vertex(), faces(), text=text).read_bytes())
    data[place % len(data)] = value
    (tmp_path / "a.ply").write_bytes(data)
    try:
        assert isinstance(read_point_cloud(tmp_path / "a.ply"), PointCloud)
    except PlyError as error:
        assert "a.ply: " in str(error)
