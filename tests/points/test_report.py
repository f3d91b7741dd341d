from __future__ import annotations

import dataclasses
import json
import time

import numpy as np
import pytest

from demo.make_room import make_room
from runtime.arrays import Array
from runtime.points import PointCloud, encoder_inputs, grid_sample, inspect_cloud
from tests.points.scenes import spec


def furnished(seed: int = 0, count: int = 30_000) -> PointCloud:
    points, colors = make_room(seed=seed, count=count)
    return PointCloud(points.astype(np.float64), colors / 255.0)


def moved(cloud: PointCloud, points: Array) -> PointCloud:
    return dataclasses.replace(cloud, points=points)


def box_room(x: float, y: float, z: float, ceiling: bool = True) -> PointCloud:
    """Points spread evenly over the walls, the floor and perhaps the ceiling of an empty room."""
    rng, size = np.random.default_rng(0), np.array([x, y, z])
    areas = np.array([y * z, y * z, x * z, x * z, x * y, x * y if ceiling else 0.0])
    face = rng.choice(6, 20_000, p=areas / areas.sum())
    inside = rng.random((20_000, 3))
    inside[np.arange(20_000), face // 2] = face % 2
    return PointCloud(inside * size + rng.normal(0, 0.01, (20_000, 3)), np.zeros((20_000, 3)))


def turn_about_z(angle: float) -> Array:
    return np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("angle", [0.0, 0.3, 0.8])
@pytest.mark.parametrize("units", [1.0, 1000.0])
def test_up_axis_of_furnished_rooms(seed: int, angle: float, units: float) -> None:
    cloud = furnished(seed)
    turned = cloud.points @ turn_about_z(angle).T * units
    for axes, up in [((0, 1, 2), "z"), ((0, 2, 1), "y"), ((2, 0, 1), "x"), ((1, 2, 0), "y")]:
        report = inspect_cloud(moved(cloud, turned[:, axes]))
        assert report.up_axis == up and report.up_confidence > 0.3
        advice = f"The {up} axis seems to point up, but z was expected. If so, rotate the scene so that z is up."
        assert [warning for warning in report.warnings if "point up" in warning] == ([] if up == "z" else [advice])


@pytest.mark.parametrize("room", [(5, 4, 2.7), (1.5, 10, 2.6), (2, 1.8, 2.5), (3, 2.2, 2.5), (12, 9, 3)])
@pytest.mark.parametrize("ceiling", [True, False])
def test_no_false_alarm_in_rooms_of_any_shape(room: tuple[float, float, float], ceiling: bool) -> None:
    assert inspect_cloud(box_room(*room, ceiling)).warnings == ()


def test_up_axis_despite_stray_points() -> None:
    cloud = furnished()
    points = cloud.points.copy()
    points[:50] = np.random.default_rng(0).normal(0, 5000, (50, 3))
    report = inspect_cloud(moved(cloud, points))
    assert report.up_axis == "z" and report.up_confidence > 0.3
    (warning,) = report.warnings
    assert warning.startswith(f"{report.clamped} points lie beyond 32 m") and "remove stray points" in warning


@pytest.mark.parametrize(
    ("factor", "advice"),
    [
        (1000, "millimetres, give --scale 0.001."),
        (100, "centimetres, give --scale 0.01."),
        (1 / 0.0254, "inches, give --scale 0.0254."),
        (0.05, "Give --scale with the factor that turns its unit into metres."),
        (1e6, "Give --scale with the factor that turns its unit into metres."),
    ],
)
def test_units(factor: float, advice: str) -> None:
    cloud = furnished()
    (warning,) = inspect_cloud(moved(cloud, cloud.points * factor)).warnings
    assert warning.startswith("The cloud measures ") and warning.endswith(advice)
    assert "but a room of 1 to 40 metres was expected" in warning


def test_a_flat_in_feet() -> None:
    (warning,) = inspect_cloud(moved(box_room(14, 9, 2.6), box_room(14, 9, 2.6).points / 0.3048)).warnings
    assert warning.endswith("If these are feet, give --scale 0.3048.")


@pytest.mark.parametrize("factor", [0.3, 1, 3, 5])
def test_sizes_that_pass(factor: float) -> None:
    cloud = furnished()
    assert inspect_cloud(moved(cloud, cloud.points * factor)).warnings == ()


def test_whole_millimetres_are_said_once() -> None:
    cloud = PointCloud.from_array((furnished().points * 1000).astype(np.int32))
    warnings = inspect_cloud(cloud).warnings
    assert cloud.warnings[0] == warnings[0] and sum("--scale" in warning for warning in warnings) == 1


def test_counts_and_sentences() -> None:
    cloud = dataclasses.replace(furnished(), dropped=7, colors=None)
    cloud = moved(cloud, np.vstack([cloud.points, [[40.0, 0, 0]]]))
    voxels = grid_sample(cloud, 320)
    inputs = encoder_inputs(voxels, spec())
    report = inspect_cloud(cloud, voxels, inputs)
    assert (report.points, report.dropped, report.clamped, report.has_colors) == (30_001, 7, 1, False)
    assert report.clamped == inspect_cloud(cloud).clamped == voxels.clamped
    np.testing.assert_allclose(report.extents, np.ptp(cloud.points, axis=0))
    assert report.voxels == len(voxels) and report.point_tokens == inputs.voxel_counts[-1]
    assert [warning.split(" ", 1)[1][:24] for warning in report.warnings] == [
        "rows with NaN or infinite values"[:24], "points lie beyond 32 m a"[:24], "cloud has no colours, so"[:24],
    ]  # fmt: skip
    lines = "\n".join(report.lines())
    for word in ("30001", "7 rows", "without colours", "1 points beyond", str(len(voxels)), "up axis: z"):
        assert word in lines
    assert json.loads(json.dumps(report.to_json())) == report.to_json()
    assert inspect_cloud(cloud).to_json()["voxels"] is None


def test_two_points_and_a_flat_cloud_are_no_trouble() -> None:
    for points in ([[0, 0, 0], [1, 1, 1]], [[0, 0, 0], [0, 2, 0], [0, 3, 0]], [[0, 0, 0]]):
        report = inspect_cloud(PointCloud(np.array(points, dtype=float)))
        assert report.points == len(points) and 0 <= report.up_confidence <= 1


def test_it_is_cheap() -> None:
    cloud = furnished(count=100_000)
    started = time.process_time()
    inspect_cloud(cloud)
    assert time.process_time() - started < 0.2  # 0.012 s is usual; other programs may be running
