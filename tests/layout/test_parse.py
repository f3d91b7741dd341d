"""The tolerant parser: what it takes, what it refuses, and what it says then."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.layout import Bbox, Door, Issue, Layout, Wall, Window, parse_layout, to_text

WALL = "wall_0=Wall(0,0,0,4,0,0,3,0)"


def test_one_of_each() -> None:
    layout = parse_layout(
        "wall_0=Wall(2,2,2,132,2,2,136,0)\n"
        "door_1=Door(wall_0,10,20,30,40,50)\n"
        "window_1003=Window(wall_0,67,2,68,116,83)\n"
        "bbox_0=Bbox(curtain,67,6,68,639,207,12,133)"
    )
    assert layout == Layout(
        walls=(Wall(0, 2.0, 2.0, 2.0, 132.0, 2.0, 2.0, 136.0, 0.0),),
        doors=(Door(1, 0, 10.0, 20.0, 30.0, 40.0, 50.0),),
        windows=(Window(1003, 0, 67.0, 2.0, 68.0, 116.0, 83.0),),
        boxes=(Bbox(0, "curtain", 67.0, 6.0, 68.0, 639.0, 207.0, 12.0, 133.0),),
    )


USED = {
    "the last character is lost with the closing bracket": (
        "wall_1=Wall(1,2,3,4,5,6,7,88",
        "wall_1=Wall(1.0,2.0,3.0,4.0,5.0,6.0,7.0,8.0)",
    ),
    "extra values": ("wall_1=Wall(1,2,3,4,5,6,7,8,9,x)", "wall_1=Wall(1.0,2.0,3.0,4.0,5.0,6.0,7.0,8.0)"),
    "blanks": ("wall_1 = Wall( 1 , 2,3,4,5,6,7,8 )", "wall_1=Wall(1.0,2.0,3.0,4.0,5.0,6.0,7.0,8.0)"),
    "the word before the bracket is not read": (
        "wall_1=Door(1,2,3,4,5,6,7,8)",
        "wall_1=Wall(1.0,2.0,3.0,4.0,5.0,6.0,7.0,8.0)",
    ),
    "no word": ("wall_1=(1,2,3,4,5,6,7,8)", "wall_1=Wall(1.0,2.0,3.0,4.0,5.0,6.0,7.0,8.0)"),
    "a third part of the label": ("wall_1_5=Wall(1,2,3,4,5,6,7,8)", "wall_1=Wall(1.0,2.0,3.0,4.0,5.0,6.0,7.0,8.0)"),
    "a negative id": ("wall_-1=Wall(1,2,3,4,5,6,7,8)", "wall_-1=Wall(1.0,2.0,3.0,4.0,5.0,6.0,7.0,8.0)"),
    "any float": (
        "wall_1=Wall(1e2,nan,inf,-inf,1_000,.5,7,8)",
        "wall_1=Wall(100.0,nan,inf,-inf,1000.0,0.5,7.0,8.0)",
    ),
    "a carriage return": ("wall_1=Wall(1,2,3,4,5,6,7,8)\r", "wall_1=Wall(1.0,2.0,3.0,4.0,5.0,6.0,7.0,8.0)"),
    "text behind the bracket": (
        "wall_1=Wall(1,2,3,4,5,6,7,8) door_0=Door(wall_0,1,2,3,4,5)",
        "wall_1=Wall(1.0,2.0,3.0,4.0,5.0,6.0,7.0,8.0)",
    ),
    "an id that stands twice": ("wall_0=Wall(9,9,9,9,9,9,9,9)", "wall_0=Wall(9.0,9.0,9.0,9.0,9.0,9.0,9.0,9.0)"),
    "any word before the wall's id": ("door_0=Door(foo_0,1,2,3,4,5)", "door_0=Door(wall_0,1.0,2.0,3.0,4.0,5.0)"),
    "scales become positive": (
        "bbox_0=Bbox(bed,-1,2,3,-4,-5,-0,nan)",
        "bbox_0=Bbox(bed,-1.0,2.0,3.0,-4.0,5.0,0.0,nan)",
    ),
    "a class name is not stripped": (
        "bbox_0=Bbox( sofa ,1,2,3,4,5,6,7)",
        "bbox_0=Bbox( sofa ,1.0,2.0,3.0,4.0,5.0,6.0,7.0)",
    ),
    "an empty class name": ("bbox_0=Bbox(,1,2,3,4,5,6,7)", "bbox_0=Bbox(,1.0,2.0,3.0,4.0,5.0,6.0,7.0)"),
    "a bracket in the class name": (
        "bbox_0=Bbox(a(b,1,2,3,4,5,6,7)",
        "bbox_0=Bbox(a(b,1.0,2.0,3.0,4.0,5.0,6.0,7.0)",
    ),
    "no opening bracket: from the line's begin": (
        "bbox_0=sofa,1,2,3,4,-5,6,7)",
        "bbox_0=Bbox(bbox_0=sofa,1.0,2.0,3.0,4.0,5.0,6.0,7.0)",
    ),
}


@pytest.mark.parametrize(("line", "written"), USED.values(), ids=USED.keys())
def test_odd_lines_that_are_used(line: str, written: str) -> None:
    layout = parse_layout(f"{WALL}\n{line}")
    assert layout.issues == ()
    assert sorted(to_text(layout).split("\n")) == sorted([to_text(parse_layout(WALL)), written])


UNUSED = {
    "words": ("hello", "'hello' is no known entity: one of wall, door, window, bbox was expected"),
    "an unknown name": ("chair_0=Chair(1,2)", "'chair' is no known entity"),
    "upper case": ("Wall_1=Wall(1,2,3,4,5,6,7,8)", "'Wall' is no known entity"),
    "a blank before the name": (" wall_1=Wall(1,2,3,4,5,6,7,8)", "' wall' is no known entity"),
    "no id": ("wall=Wall(1,2,3,4,5,6,7,8)", "the label 'wall' has no integer id: wall_<id> was expected"),
    "an id of letters": ("wall_x=Wall(1,2,3,4,5,6,7,8)", "the label 'wall_x' has no integer id"),
    "an id with a fraction": ("wall_1.5=Wall(1,2,3,4,5,6,7,8)", "the label 'wall_1.5' has no integer id"),
    "an id beyond Python's digits": (f"wall_{'9' * 5000}=Wall(1,2,3,4,5,6,7,8)", "has no integer id"),
    "no equals sign": ("wall_1(1,2,3,4,5,6,7,8)", "the label 'wall_1(1,2,3,4,5,6,7,8)' has no integer id"),
    "too few numbers": (
        "wall_1=Wall(1,2,3,4,5,6,7)",
        "7 numbers, but Wall needs 8: ax, ay, az, bx, by, bz, height, thickness",
    ),
    "an empty number": ("wall_1=Wall(1,2,,4,5,6,7,8)", "az is '', but a number was expected"),
    "a hexadecimal number": ("wall_1=Wall(0x1,2,3,4,5,6,7,8)", "ax is '0x1', but a number was expected"),
    "two opening brackets": ("wall_1=Wall((1,2,3,4,5,6,7,8)", "ax is '(1', but a number was expected"),
    "the only digit lost with the bracket": ("wall_1=Wall(1,2,3,4,5,6,7,8", "thickness is '', but a number"),
    "brackets in the wrong order": ("wall_1=Wall)1,2(3,4,5,6,7,8", "1 numbers, but Wall needs 8"),
    "a box with too few numbers": ("bbox_0=Bbox(sofa,1,2,3,4,5,6)", "6 numbers, but Bbox needs 7"),
    "a door without a wall": ("door_0=Door(0,1,2,3,4,5)", "the first value '0' has no integer id: wall_<id>"),
    "a door in an unknown wall": ("door_0=Door(wall_9,1,2,3,4,5)", "wall_9 does not stand on an earlier line"),
    "a window with too few numbers": ("window_0=Window(wall_0,1,2,3,4)", "4 numbers, but Window needs 5"),
}


@pytest.mark.parametrize(("line", "reason"), UNUSED.values(), ids=UNUSED.keys())
def test_lines_that_cannot_be_used_are_reported_and_cost_no_other_line(line: str, reason: str) -> None:
    layout = parse_layout(f"{WALL}\n{line}\ndoor_7=Door(wall_0,1,2,3,4,5)")
    assert [issue.line for issue in layout.issues] == [2]
    assert layout.issues[0].text == line
    assert reason in layout.issues[0].reason
    assert (len(layout.walls), len(layout.doors), len(layout.windows), len(layout.boxes)) == (1, 1, 0, 0)


def test_a_wall_must_stand_before_its_door() -> None:
    layout = parse_layout(f"door_0=Door(wall_0,1,2,3,4,5)\n{WALL}\nwindow_0=Window(wall_0,1,2,3,4,5)")
    assert layout.doors == ()
    assert [window.id for window in layout.windows] == [0]
    assert layout.issues == (Issue(1, "door_0=Door(wall_0,1,2,3,4,5)", "wall_0 does not stand on an earlier line"),)


def test_a_wall_that_failed_is_no_wall() -> None:
    assert parse_layout("wall_0=Wall(1,2,3)\ndoor_0=Door(wall_0,1,2,3,4,5)").doors == ()


@pytest.mark.parametrize("text", ["", "\n", "\n \n\t\n"])
def test_blank_text_is_an_empty_layout_without_issues(text: str) -> None:
    assert parse_layout(text) == Layout()


def test_lines_are_counted_in_the_given_text() -> None:
    assert [issue.line for issue in parse_layout(f"\n\n{WALL}\n\noops").issues] == [5]


def test_equal_ids_are_kept_in_order() -> None:
    layout = parse_layout(f"{WALL}\n{WALL}\nbbox_1=Bbox(b,1,2,3,4,5,6,7)\nbbox_1=Bbox(a,1,2,3,4,5,6,7)")
    assert len(layout.walls) == 2
    assert [box.class_name for box in layout.boxes] == ["b", "a"]


def test_a_box_made_by_hand_has_positive_scales() -> None:
    box = Bbox(0, "bed", 1.0, 2.0, 3.0, -1.0, -2.0, 2.0, math.nan)
    assert (box.scale_x, box.scale_y, box.angle_z) == (2.0, 2.0, -1.0)


NUMBERS = st.one_of(st.integers(-5, 2000), st.floats(allow_nan=False, width=64))
IDS = st.integers(0, 5000)
PIECES = st.sampled_from(
    [
        "wall",
        "door",
        "window",
        "bbox",
        "_",
        "=",
        "(",
        ")",
        ",",
        "wall_0",
        "1",
        "2.5",
        "nan",
        " ",
        "\n",
        "\r",
        "sofa",
        "٣",
    ]
)


@given(st.lists(st.one_of(PIECES, st.text(max_size=3)), max_size=40).map("".join))
def test_no_text_breaks_the_parser_and_every_line_is_accounted_for(text: str) -> None:
    layout = parse_layout(text)
    lines = [line for line in text.split("\n") if line.strip()]
    assert len(list(layout.entities())) + len(layout.issues) == len(lines)
    assert all(issue.reason and issue.text in lines for issue in layout.issues)


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """Layouts as they come out of a file: float values, ids below 1000 where the writer keeps them so."""
    number = st.floats(allow_nan=False)
    small_id = st.integers(0, 999)
    walls = draw(st.lists(st.builds(Wall, IDS, *[number] * 8), min_size=1, max_size=3))
    wall_id = st.sampled_from([wall.id for wall in walls])
    names = st.text(st.characters(categories=["L", "N", "Pd"], include_characters="_ "), max_size=12)
    return Layout(
        walls=tuple(walls),
        doors=tuple(draw(st.lists(st.builds(Door, small_id, wall_id, *[number] * 5), max_size=3))),
        windows=tuple(draw(st.lists(st.builds(Window, small_id, wall_id, *[number] * 5), max_size=3))),
        boxes=tuple(draw(st.lists(st.builds(Bbox, small_id, names, *[number] * 7), max_size=3))),
    )


@given(layouts())
def test_layout_to_text_and_back_is_exact(layout: Layout) -> None:
    assert parse_layout(to_text(layout)) == layout


@given(st.lists(st.tuples(IDS, st.lists(NUMBERS, min_size=8, max_size=8)), max_size=4))
def test_text_to_layout_to_text_settles_after_one_round(rows: list[tuple[int, list[float]]]) -> None:
    text = "\n".join(f"wall_{i}=Wall({','.join(map(str, numbers))})" for i, numbers in rows)
    once = to_text(parse_layout(text))
    assert to_text(parse_layout(once)) == once
