"""Bins to metres and back, and the shift to the scene's origin, digit for digit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import SceneError
from runtime.layout import Bbox, Issue, Layout, Wall, discretize, parse_layout, to_text, translate, undiscretize
from runtime.layout.entities import KINDS, number_names
from runtime.layout.units import RANGES

ROOM = (
    "wall_0=Wall(2,2,2,132,2,2,136,0)\n"
    "window_1003=Window(wall_0,67,2,68,116,83)\n"
    "bbox_0=Bbox(curtain,67,6,68,639,207,12,133)"
)


def test_undiscretize_writes_the_original_digits() -> None:
    assert to_text(undiscretize(parse_layout(ROOM), 1280)) == (
        "wall_0=Wall(0.05,0.05,0.05,3.3,0.05,0.05,2.72,0.0)\n"
        "window_3=Window(wall_0,1.675,0.05,1.7,2.32,1.6600000000000001)\n"
        "bbox_0=Bbox(curtain,1.675,0.15,1.7,-0.009817500000000479,3.234375,0.1875,2.078125)"
    )


def test_discretize_truncates_clips_and_gives_integers() -> None:
    layout = parse_layout("wall_0=Wall(0.05,0.05,0.05,31.99,33,-1,2.72,0.24)")
    assert to_text(discretize(layout, 1280)) == "wall_0=Wall(2,2,2,1279,1279,0,136,12)"


def test_discretize_truncates_and_does_not_round() -> None:
    """0.0249 m is bin 0.996: truncated 0, rounded 1. What lies below the range goes to bin 0, above it to the last."""
    box = Bbox(0, "bed", -0.01, 0.0249, 0.025, 6.2831, 19.99, 20.0, 1e9)
    got = discretize(Layout(boxes=(box,)), 1280).boxes[0]
    assert (got.position_x, got.position_y, got.position_z) == (0, 0, 1)
    assert (got.angle_z, got.scale_x, got.scale_y, got.scale_z) == (1279, 1279, 1279, 1279)
    assert all(type(getattr(got, name)) is int for name in number_names(got))


def test_every_number_of_every_entity_has_a_range() -> None:
    assert {name for kind in KINDS.values() for name in number_names(kind)} == set(RANGES)


@pytest.mark.parametrize("num_bins", [640, 1280])
@given(data=st.data())
def test_a_bin_comes_back_as_itself_or_its_lower_neighbour(num_bins: int, data: st.DataObject) -> None:
    """Bin 23 may come back as 22.999..., which truncation makes 22: the trip loses at most one bin, and gains none."""
    bins = data.draw(st.lists(st.integers(0, num_bins - 1), min_size=15, max_size=15))
    layout = Layout(walls=(Wall(0, *bins[:8]),), boxes=(Bbox(1, "bed", *bins[8:]),))
    back = discretize(undiscretize(layout, num_bins), num_bins)
    got = [getattr(entity, name) for entity in back.entities() for name in number_names(entity)]
    assert all(before - after in (0, 1) for before, after in zip(bins, got, strict=True))


@given(st.floats(0, 31.999), st.floats(0, 25.599), st.floats(-6.2832, 6.28), st.floats(0, 19.999))
def test_metres_come_back_within_one_bin(world: float, size: float, angle: float, scale: float) -> None:
    """Truncation loses less than one bin: 32/1280, 25.6/1280, 12.5664/1280, 20/1280."""
    wall = Wall(0, *[world] * 6, size, size)
    box = Bbox(0, "bed", *[world] * 3, angle, *[scale] * 3)
    layout = Layout(walls=(wall,), boxes=(box,))
    back = undiscretize(discretize(layout, 1280), 1280)
    for before, after in zip(layout.entities(), back.entities(), strict=True):
        for name in number_names(before):
            low, high = RANGES[name]
            assert -1e-9 <= getattr(before, name) - getattr(after, name) <= (high - low) / 1280 + 1e-9, name


def test_translate_moves_positions_only() -> None:
    layout = parse_layout("wall_0=Wall(1,2,3,4,5,6,7,8)\ndoor_0=Door(wall_0,1,2,3,4,5)\nbbox_0=Bbox(bed,1,2,3,4,5,6,7)")
    assert to_text(translate(layout, np.array([10.0, 20.0, -30.0]))) == (
        "wall_0=Wall(11.0,22.0,-27.0,14.0,25.0,-24.0,7.0,8.0)\n"
        "door_0=Door(wall_0,11.0,22.0,-27.0,4.0,5.0)\n"
        "bbox_0=Bbox(bed,11.0,22.0,-27.0,4.0,5.0,6.0,7.0)"
    )


def test_translate_adds_in_float64() -> None:
    layout = translate(parse_layout("wall_0=Wall(0.1,0,0,0,0,0,0,0)"), [0.2, 0.0, 0.0])
    assert layout.walls[0].ax == 0.1 + 0.2
    assert type(layout.walls[0].ax) is float


def test_the_given_layout_stays_as_it_is_and_issues_travel_along() -> None:
    layout = parse_layout(f"{ROOM}\noops")
    before = to_text(layout)
    moved = translate(undiscretize(layout, 1280), [1.0, 1.0, 1.0])
    assert to_text(layout) == before
    assert moved.issues == layout.issues == (Issue(4, "oops", layout.issues[0].reason),)
    assert discretize(moved, 1280).issues == layout.issues


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1e308"])
def test_a_number_without_a_bin_is_a_sentence(number: str) -> None:
    layout = parse_layout(f"wall_0=Wall({number},0,0,0,0,0,0,0)")
    assert to_text(undiscretize(layout, 1280)).startswith("wall_0=Wall(")  # passes, as in the original
    with pytest.raises(SceneError, match=r"ax is .* lies in no bin\. Remove that entity"):
        discretize(layout, 1280)


@pytest.mark.parametrize("convert", [discretize, undiscretize])
def test_no_bins_is_a_sentence(convert: object) -> None:
    with pytest.raises(SceneError, match="num_bins is 0, but at least 1"):
        convert(Layout(), 0)  # type: ignore[operator]


@pytest.mark.parametrize("offset", [[1.0, 2.0], [[1.0, 2.0, 3.0]], 1.0])
def test_an_offset_of_another_shape_is_a_sentence(offset: object) -> None:
    with pytest.raises(SceneError, match=r"The offset has shape .* \[3\]"):
        translate(Layout(), offset)  # type: ignore[arg-type]
