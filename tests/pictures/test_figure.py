"""What is in a picture: artists, names, limits, words. Never pixels."""

from __future__ import annotations

import dataclasses
import sys
import warnings
from typing import Any

import matplotlib
import numpy as np
import pytest

from runtime.layout import Bbox, Layout, parse_layout, undiscretize
from runtime.pictures import plot_layout, words
from runtime.points import PointCloud
from tests.blocked import run_without
from tests.pictures.rooms import ROOM, SIZE, cloud, moved

CLOUD = cloud()


def by_gid(ax: Any, gid: str) -> list[Any]:
    return [artist for artist in ax.get_children() if artist.get_gid() == gid]


def labels(ax: Any) -> list[str]:
    return [artist.get_text() for artist in by_gid(ax, "label")]


def written(figure: Any) -> str:
    return "\n".join(text.get_text() for text in figure.texts)


def outline(patch: Any) -> np.ndarray[Any, Any]:
    return np.asarray(patch.get_xy())


@pytest.fixture(autouse=True)
def no_warnings() -> Any:
    """A picture warns of nothing: no missing glyph, no empty image, no division by zero."""
    with warnings.catch_warnings():
        for kind in (UserWarning, RuntimeWarning):
            warnings.simplefilter("error", kind)
        yield


def test_two_views_with_everything_that_the_layout_has() -> None:
    plan, corner = plot_layout(ROOM, CLOUD, title="kitchen").axes
    assert [len(by_gid(plan, kind)) for kind in ("wall", "door", "window", "bbox")] == [4, 2, 1, 3]
    assert len(by_gid(plan, "swing")) == 3, "one leaf, and two of the wide door"
    assert labels(plan) == labels(corner) == ["bed", "dining table", "chair"], "the largest first"
    assert [len(ax.get_images()) for ax in (plan, corner)] == [1, 1], "the points"


def test_boxes_turn_by_their_angle() -> None:
    plan = plot_layout(ROOM, CLOUD).axes[0]
    tables = [it for it in by_gid(plan, "bbox") if np.allclose(outline(it)[:4].mean(axis=0), (3.6, 1.4))]
    first, second = outline(tables[0])[:2]
    assert np.arctan2(*(second - first)[::-1]) == pytest.approx(0.5236)
    assert np.linalg.norm(second - first) == pytest.approx(1.4)


@pytest.mark.parametrize("truth", [None, ROOM])
def test_metres_are_as_long_along_both_axes_and_nothing_is_cut_off(truth: Layout | None) -> None:
    figure = plot_layout(ROOM, CLOUD, truth)
    for number, ax in enumerate(figure.axes):
        (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
        extent = ax.get_window_extent()
        assert ax.get_aspect() == 1.0
        assert (right - left) / (high - low) == pytest.approx(extent.width / extent.height, rel=1e-3)
        if number % 2 == 0:
            assert left < 0 < 5 < right
            assert low < 0 < 4 < high


def test_a_door_opens_into_the_room() -> None:
    plan = plot_layout(ROOM, CLOUD).axes[0]
    for line in by_gid(plan, "leaf"):
        tip = np.array(line.get_data())[:, 1]
        assert (tip > 0.3).all()
        assert (tip < SIZE[:2] - 0.3).all()


def test_near_walls_are_only_feet_and_far_ones_stand() -> None:
    corner = plot_layout(ROOM, CLOUD).axes[1]
    assert len(by_gid(corner, "near wall")) == 2
    assert len(by_gid(corner, "wall")) == 2
    shown = len(by_gid(corner, "door")) + len(by_gid(corner, "window"))
    assert shown >= 2, "the corner is chosen for what it shows"
    assert shown + len(by_gid(corner, "near door")) + len(by_gid(corner, "near window")) == 3


def test_points_outside_do_not_turn_a_wall_around() -> None:
    """As behind a large window: the wall is still one that the room lies before."""
    rng, inside = np.random.default_rng(0), cloud(300)
    outside = rng.random((3000, 3)) * (SIZE[0], 0.5, SIZE[2]) + (0.0, SIZE[1] + 0.1, 0.0)
    points = PointCloud(np.concatenate([inside.points, outside]), None)
    for at in (CLOUD, points):
        assert len(by_gid(plot_layout(ROOM, at).axes[1], "near wall")) == 2


def test_scale_bar_and_axes() -> None:
    plan, corner = plot_layout(ROOM, CLOUD).axes
    halves = by_gid(plan, "scale")
    ends = [edge for patch in halves[:2] for edge in outline(patch)[:, 0]]
    assert max(ends) - min(ends) == pytest.approx(1.0)
    assert halves[2].get_text() == "1 m"
    assert sorted(text.get_text() for text in by_gid(plan, "axis")) == ["x", "y"]
    assert sorted(text.get_text() for text in by_gid(corner, "axis")) == ["x", "y", "z"]


def test_the_ceiling_is_gone_from_the_plan_and_near_walls_from_the_corner() -> None:
    """The room's ceiling is red and the floor blue; no red is left, and blue is."""
    points = CLOUD.points
    colors = np.full((len(points), 3), 0.5)
    colors[points[:, 2] > 2.59] = (1, 0, 0)
    colors[points[:, 2] < 0.01] = (0, 0, 1)
    for ax in plot_layout(ROOM, PointCloud(points, colors)).axes:
        red, _, blue, shown = np.moveaxis(np.asarray(ax.get_images()[0].get_array()), -1, 0)
        assert not ((red - blue > 0.1) & (shown > 0)).any()
        assert ((blue - red > 0.1) & (shown > 0)).any()


def test_a_cloud_without_colours_is_grey() -> None:
    image = np.asarray(plot_layout(ROOM, cloud(colors=False)).axes[0].get_images()[0].get_array())
    shown = image[image[..., 3] > 0]
    assert len(shown)
    assert (shown[:, 0] == shown[:, 1]).all()
    assert shown[:, 0].std() > 0.01


def test_prediction_beside_ground_truth_with_scores() -> None:
    figure = plot_layout(moved(ROOM, 0.2), CLOUD, ROOM, title="kitchen")
    assert len(figure.axes) == 4
    text = written(figure)
    assert "kitchen" in text
    assert "Prediction" in text
    assert "Ground truth" in text
    assert "F1 at IoU 0.25 / 0.50:   wall 1.00 / 1.00   ·   door 1.00 / 1.00   ·   window 1.00 / 1.00" in text
    assert "all boxes 1.00 / 0.67" in text
    assert "bed 1.00 / 1.00   ·   chair 1.00 / 0.00   ·   dining table 1.00 / 1.00" in text


def test_both_columns_show_the_same_place_from_the_same_side() -> None:
    plan, corner, true_plan, true_corner = plot_layout(moved(ROOM, 0.25), CLOUD, ROOM).axes
    assert plan.get_xlim() == true_plan.get_xlim()
    assert corner.get_ylim() == true_corner.get_ylim()
    assert np.allclose(outline(by_gid(corner, "wall")[0]), outline(by_gid(true_corner, "wall")[0]))


def test_without_shapely_the_title_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shapely", None)
    assert words.NO_SHAPELY in written(plot_layout(ROOM, CLOUD, ROOM))


def test_an_empty_layout_shows_the_points_alone() -> None:
    figure = plot_layout(Layout(), CLOUD)
    assert "0 walls, 0 doors, 0 windows, 0 boxes" in written(figure)
    assert [len(ax.get_images()) for ax in figure.axes] == [1, 1]
    assert plot_layout(Layout()).axes, "nor does it need points"


def test_a_layout_without_points() -> None:
    plan, _ = plot_layout(ROOM).axes
    assert not plan.get_images()
    assert len(by_gid(plan, "bbox")) == 3


def test_what_cannot_be_drawn_is_counted() -> None:
    layout = parse_layout(
        "wall_0=Wall(0,0,0,4,0,0,2.5,0)\nwall_1=Wall(nan,0,0,4,4,0,2.5,0)\nwall_2=Wall(0,0,0,1e308,0,0,2.5,0)\n"
        "door_0=Door(wall_1,1,1,1,1,2)\nbbox_0=Bbox(bed,1,1,1,inf,1,1,1)\nbbox_1=Bbox(sofa,1,1,1,0,nan,1,1)\noops"
    )
    figure = plot_layout(layout, CLOUD)
    assert "1 line of the text could not be used." in written(figure)
    assert "5 entities have no usable numbers and are left out." in written(figure)
    assert len(by_gid(figure.axes[0], "wall")) == 1


def test_a_box_of_no_size_and_a_wall_of_no_length() -> None:
    layout = parse_layout("wall_0=Wall(1,1,0,1,1,0,0,0)\ndoor_0=Door(wall_0,1,1,0,0,0)\nbbox_0=Bbox(tv,1,1,1,0,0,0,0)")
    assert labels(plot_layout(layout, CLOUD).axes[0]) == ["tv"]
    assert labels(plot_layout(layout).axes[0]) == ["tv"]


def test_a_layout_far_away_does_not_make_the_room_a_dot() -> None:
    layout = dataclasses.replace(ROOM, boxes=(*ROOM.boxes, Bbox(9, "sofa", 4000.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0)))
    figure = plot_layout(layout, CLOUD)
    assert np.ptp(figure.axes[0].get_xlim()) < 20
    assert "1 entity reaches out of the picture." in written(figure)


@pytest.mark.parametrize(
    ("factor", "bar"), [(1e-3, "1 mm"), (0.01, "1 cm"), (1.0, "1 m"), (40.0, "50 m"), (2e3, "2 km")]
)
def test_scenes_of_any_size(factor: float, bar: str) -> None:
    walls = tuple(
        dataclasses.replace(it, **{name: getattr(it, name) * factor for name in ("ax", "ay", "bx", "by", "height")})
        for it in ROOM.walls
    )
    figure = plot_layout(Layout(walls=walls), PointCloud(CLOUD.points * factor, CLOUD.colors))
    assert by_gid(figure.axes[0], "scale")[2].get_text() == bar
    assert figure.axes[0].get_images()


def test_far_from_the_origin() -> None:
    """As map coordinates are."""
    shift = np.array([4.5e5, 5.4e6, 300.0])
    plan, corner = plot_layout(Layout(), PointCloud(CLOUD.points + shift, CLOUD.colors)).axes
    assert plan.get_xlim()[0] == pytest.approx(4.5e5, abs=1.0)
    assert (np.asarray(corner.get_images()[0].get_array())[..., 3] > 0).mean() > 0.2


@pytest.mark.parametrize("points", [np.zeros((1, 3)), np.ones((50, 3)), np.eye(3), np.arange(30.0).reshape(10, 3)])
def test_hardly_any_points(points: Any) -> None:
    assert len(plot_layout(Layout(), PointCloud(points)).axes) == 2


def test_hundreds_of_boxes_keep_their_names_apart() -> None:
    rng = np.random.default_rng(0)
    places = rng.random((400, 2)) * SIZE[:2]
    boxes = tuple(Bbox(i, "dining_table", x, y, 0.4, 0.0, 0.3, 0.3, 0.8) for i, (x, y) in enumerate(places.tolist()))
    figure = plot_layout(dataclasses.replace(ROOM, boxes=boxes), CLOUD)
    assert " names found no room." in written(figure)
    for ax in figure.axes:
        found = [text.get_window_extent() for text in by_gid(ax, "label")]
        assert 20 < len(found) < 400
        for number, one in enumerate(found):
            assert not any(one.overlaps(other) for other in found[:number])


def test_names_that_a_model_made_up() -> None:
    names = ["$\\frac{1$", "a\nb\x1b[31m", "x" * 300, "", "椅子", "%s {0} \\"]
    boxes = tuple(Bbox(i, name, 1.0 + 0.5 * i, 1.0, 0.4, 0.0, 0.3, 0.3, 0.8) for i, name in enumerate(names))
    figure = plot_layout(Layout(boxes=boxes), CLOUD, title="_$\\bad{")
    figure._repr_png_()
    shown = labels(figure.axes[0])
    assert "a\\nb\\x1b[31m" in shown
    assert max(map(len, shown)) <= 26


def test_a_notebook_shows_it_and_nothing_global_is_touched() -> None:
    before = dict(matplotlib.rcParams)
    assert plot_layout(ROOM, CLOUD)._repr_png_().startswith(b"\x89PNG")
    assert dict(matplotlib.rcParams) == before
    code = "from tests.pictures.rooms import *; from runtime.pictures import plot_layout; import sys\n"
    code += "plot_layout(ROOM, cloud())._repr_png_(); assert 'matplotlib.pyplot' not in sys.modules"
    done = run_without(("torch", "tkinter"), code)
    assert done.returncode == 0, done.stderr


def test_settings_of_the_user_do_not_matter() -> None:
    with matplotlib.rc_context({"text.usetex": True, "axes.facecolor": "black", "figure.facecolor": "black"}):
        figure = plot_layout(ROOM, CLOUD)
        assert figure.get_facecolor() == (1, 1, 1, 1)
        assert figure._repr_png_()


def test_undiscretized_bins_are_a_layout_like_any_other() -> None:
    layout = undiscretize(
        parse_layout("wall_0=Wall(2,2,2,132,2,2,136,0)\nbbox_0=Bbox(bed,67,60,68,639,70,70,70)"), 1280
    )
    assert labels(plot_layout(layout, CLOUD).axes[0]) == ["bed"]
