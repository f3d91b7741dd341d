"""PLY files as the tools of this world write them."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from plyfile import PlyElement

from runtime.errors import PlyError
from runtime.points import read_point_cloud
from tests.points.ply_writer import write
from tests.points.test_ply import BYTES, HEADER, POINTS, RGB, XYZ, faces, sensors, text_ply, vertex, vertex_rows

LIST = "property list uchar int near\n"


@pytest.mark.parametrize("names", ["red green blue", "r g b", "diffuse_red diffuse_green diffuse_blue", "R G B"])
def test_color_names(tmp_path: Path, names: str) -> None:
    spelling = dict(zip(("red", "green", "blue"), names.split(), strict=True))
    rows = vertex_rows()
    rows.dtype.names = tuple(spelling.get(name, name) for name in rows.dtype.names)
    cloud = read_point_cloud(write(tmp_path / "a.ply", vertex(rows)))
    assert cloud.colors is not None
    np.testing.assert_array_equal(cloud.colors, BYTES / 255.0)


def test_alpha_and_normals_are_passed_over(tmp_path: Path) -> None:
    properties = XYZ + "property float nx\nproperty float ny\nproperty float nz\n" + RGB + "property uchar alpha\n"
    body = "1 2 3 0 0 1 0 128 255 7\n4 5 6 0 0 1 1 2 3 7\n"
    cloud = read_point_cloud(text_ply(tmp_path / "a.ply", body, properties, 2))
    assert cloud.colors is not None
    np.testing.assert_array_equal(cloud.points, [[1, 2, 3], [4, 5, 6]])
    np.testing.assert_array_equal(cloud.colors, BYTES[:2] / 255.0)


def test_gaussian_splat_colors_are_the_constant_term(tmp_path: Path) -> None:
    names = [*"xyz", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "f_rest_0", "opacity"]
    rows = np.zeros(2, dtype=[(name, "f4") for name in names])
    rows["x"] = [0, 1]
    rows["f_dc_0"], rows["f_dc_1"], rows["f_dc_2"] = [0, 1], [-9, 9], [0.5, -0.5]
    cloud = read_point_cloud(write(tmp_path / "a.ply", vertex(rows)))
    assert cloud.colors is not None
    want = [[0.5, 0, 0.6410473958869391], [0.7820947917738782, 1, 0.3589526041130609]]
    np.testing.assert_allclose(cloud.colors, want, rtol=1e-12)


@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize("coordinate", ["i1", "u1", "i2", "u2", "i4", "u4"])
def test_whole_numbers_warn_unless_a_scale_is_given(tmp_path: Path, coordinate: str, text: bool) -> None:
    points = np.array([[0, 10, 20], [100, 90, 3]])
    rows = np.zeros(2, dtype=[(name, coordinate) for name in "xyz"])
    for axis, name in enumerate("xyz"):
        rows[name] = points[:, axis]
    path = write(tmp_path / "a.ply", vertex(rows), text=text)
    cloud = read_point_cloud(path)
    np.testing.assert_array_equal(cloud.points, points)
    assert any("--scale" in warning for warning in cloud.warnings)
    scaled = read_point_cloud(path, scale=0.001)
    assert scaled.warnings == ()
    np.testing.assert_allclose(scaled.points, points / 1000, rtol=1e-15)


def test_whole_millimetres_are_recognized(tmp_path: Path) -> None:
    rows = np.zeros(2, dtype=[(name, "i4") for name in "xyz"])
    rows["x"], rows["y"], rows["z"] = [0, 5200], [0, 4100], [0, 2700]
    (warning,) = read_point_cloud(write(tmp_path / "a.ply", vertex(rows))).warnings
    assert "5200 x 4100 x 2700" in warning and "If these are millimetres, give --scale 0.001." in warning


def test_short_floats_far_from_the_origin_warn(tmp_path: Path) -> None:
    rows = vertex_rows()
    rows["x"] += 4e6
    (warning,) = read_point_cloud(write(tmp_path / "a.ply", vertex(rows))).warnings
    assert "only exact to 0.25 m as float32" in warning
    wide = vertex_rows("f8")
    wide["x"] += 4e6
    assert read_point_cloud(write(tmp_path / "a.ply", vertex(wide))).warnings == ()


@pytest.mark.parametrize("order", ["<", ">", "text"])
def test_lists_among_the_vertex_properties(tmp_path: Path, order: str) -> None:
    rows = np.empty(3, dtype=[("near", "O"), ("x", "f4"), ("y", "f8"), ("views", "O"), ("z", "f4")])
    rows["near"] = [np.arange(n, dtype="i4") for n in (0, 3, 1)]
    rows["views"] = [np.arange(n, dtype="f8") for n in (2, 0, 4)]
    for axis, name in enumerate("xyz"):
        rows[name] = POINTS[:, axis]
    text = order == "text"
    for elements in ([vertex(rows)], [faces(), sensors(), vertex(rows)]):
        path = write(tmp_path / "a.ply", *elements, text=text, byte_order="<" if text else order)
        want = np.stack([rows[name].astype(float) for name in "xyz"], axis=1)
        np.testing.assert_array_equal(read_point_cloud(path).points, want)


def test_an_element_without_properties_takes_no_room(tmp_path: Path) -> None:
    (tmp_path / "a.ply").write_text(
        f"ply\nformat ascii 1.0\nelement nothing 3\nelement vertex 2\n{XYZ}end_header\n\n\n\n1 2 3\n4 5 6\n"
    )
    assert len(read_point_cloud(tmp_path / "a.ply")) == 2


def test_a_header_of_crlf_before_binary_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ply", vertex())
    head, body = path.read_bytes().split(b"end_header\n")
    (tmp_path / "b.ply").write_bytes((head + b"end_header\n").replace(b"\n", b"\r\n") + body)
    np.testing.assert_array_equal(read_point_cloud(tmp_path / "b.ply").points, read_point_cloud(path).points)


def test_headers_a_little_out_of_line(tmp_path: Path) -> None:
    properties = f"obj_info made by hand\n\ncomment end_header \n  {XYZ}obj_info again\n"
    path = text_ply(tmp_path / "a.ply", "1 2 3\n4 5 6\n", properties, 2)
    path.write_text(path.read_text().replace("\nend_header\n", "\nend_header \n"))
    assert len(read_point_cloud(path)) == 2


def test_a_lone_carriage_return_leaves_the_next_byte_to_the_data(tmp_path: Path) -> None:
    header = HEADER.format(count=2, properties=XYZ.replace("float", "uchar")).replace("ascii", "binary_little_endian")
    (tmp_path / "a.ply").write_bytes(header.replace("\n", "\r").encode() + b"\n\x01\x02\x03\x04\x05")
    np.testing.assert_array_equal(read_point_cloud(tmp_path / "a.ply").points, [[10, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize(("color", "value"), [("f4", 1.0004), ("f8", -0.004)])
def test_float_colors_may_overshoot_a_little(tmp_path: Path, color: str, value: float) -> None:
    rows = vertex_rows(color=color, scale=1 / 255)
    rows["red"][0] = value
    cloud = read_point_cloud(write(tmp_path / "a.ply", vertex(rows)))
    assert cloud.colors is not None
    assert cloud.colors[0, 0] == np.clip(value, 0, 1) and cloud.colors[0, 2] == pytest.approx(1, abs=1e-7)


def test_bytes_in_16_bit_channels_are_bytes(tmp_path: Path) -> None:
    cloud = read_point_cloud(write(tmp_path / "a.ply", vertex(vertex_rows(color="u2"))))
    assert cloud.colors is not None and cloud.warnings == (
        "16-bit colours reach only 255, so they were read as 0 to 255.",
    )
    np.testing.assert_array_equal(cloud.colors, BYTES / 255.0)


def test_a_text_of_many_points_is_read_in_bulk(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = np.hstack([rng.random((100_000, 3)), rng.integers(0, 256, (100_000, 3))])
    path = tmp_path / "a.ply"
    with path.open("w") as file:
        file.write(HEADER.format(count=100_000, properties=XYZ.replace("float", "double") + RGB))
        np.savetxt(file, values, fmt="%.6f %.6f %.6f %d %d %d")
    started = time.process_time()
    cloud = read_point_cloud(path)
    assert time.process_time() - started < 2  # 0.3 s is usual; row by row it takes 10 times that
    np.testing.assert_allclose(cloud.points, values[:, :3], atol=1e-6)


@pytest.mark.parametrize(
    ("properties", "count", "body", "message"),
    [
        (XYZ, 3, "1.0 2 3\n4 5\n6 7 8\n", "row 2 is '4 5', but 3 numbers were expected"),
        (XYZ, 3, "1 2 3\n4 5 6\n6 7 8 9\n", "row 3 is '6 7 8 9', but 3 numbers were expected"),
        (XYZ, 3, "1 2 3\n4 5 six\n6 7 8\n", "row 2 is '4 5 six', but 3 numbers were expected"),
        (XYZ, 2, "1 2 3\n\n \n            \n", "cut off. Its header promises 2 vertex rows, but 1 follow"),
        (XYZ + RGB, 2, "1 2 3 0 30 0\n1 2 4 0 0 300\n", "row 2 is 'blue 300', but a whole number from 0 to 255"),
        (XYZ.replace("float", "int"), 2, "1 2 3\n1 2.5 3\n", "row 2 is 'y 2.5', but a whole number"),
        (XYZ.replace("float", "int"), 2, "nan 2 3\n1 2 3\n", "row 1 is 'x nan', but a whole number"),
        (XYZ + LIST, 2, "1 2 3 0\n1 2 4 5 6\n", "row 2 is '1 2 4 5 6', but numbers and lists as in the header"),
        (XYZ + LIST, 2, "1 2 3 0\n1 2 4 -5 6\n", "row 2 is '1 2 4 -5 6', but numbers and lists"),
        (XYZ + "property float x\n", 2, "1 2 3 4\n" * 2, "header is not valid .*two properties with same name"),
        (XYZ + "property float f_dc_0\n", 2, "1 2 3 4\n" * 2, "of f_dc_0, f_dc_1, f_dc_2 only f_dc_0 is there"),
        (XYZ, 1, "1 2 3\n", "only one usable point"),
        (XYZ, 2, "1 2 3\nnan 2 4\n", "only one usable point"),
        (XYZ, 3, "1 2 3\n" * 3, r"all 3 points are equal, at \(1, 2, 3\)"),
        (
            XYZ.replace("float", "double"),
            2,
            "1 2 3\n1e300 2 3\n",
            r"a coordinate is 1e\+300, but at most 1.7e\+38 fits",
        ),
        (XYZ, 2, "1" * 70_000, "a line has more than 65536 characters"),
    ],
)
def test_bad_rows(tmp_path: Path, properties: str, count: int, body: str, message: str) -> None:
    with pytest.raises(PlyError, match=rf"a\.ply: .*{message}"):
        read_point_cloud(text_ply(tmp_path / "a.ply", body, properties, count))


def test_a_list_that_claims_more_than_the_file_holds(tmp_path: Path) -> None:
    rows = np.empty(1, dtype=[("items", "O")])
    rows["items"] = [np.zeros(2, dtype="i4")]
    bag = PlyElement.describe(rows, "bag", len_types={"items": "u4"})
    path = write(tmp_path / "a.ply", bag, vertex())
    path.write_bytes(path.read_bytes().replace(b"end_header\n\x02\0\0\0", b"end_header\n\xff\xff\xff\xff"))
    with pytest.raises(PlyError, match="a list reaches beyond its end"):
        read_point_cloud(path)
