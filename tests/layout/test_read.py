"""Layout files read back."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from runtime.errors import SceneError
from runtime.layout import Bbox, Issue, Layout, Wall, parse_layout, read_layout, write_layout
from tests.layout.test_write import ROOM


@pytest.mark.parametrize("name", ["room.txt", "room.json", "room.JSON"])
def test_what_was_written_is_read(tmp_path: Path, name: str) -> None:
    write_layout(ROOM, tmp_path / name)
    assert str(read_layout(tmp_path / name)) == str(ROOM)


def test_json_keeps_issues_and_numbers_that_are_none(tmp_path: Path) -> None:
    wall = Wall(0, 0.0, 0.0, 0.0, math.nan, 1.0, 0.0, 2.5, 0.0)
    layout = Layout(walls=(wall,), boxes=(Bbox(1, "a, b", *[1.0] * 7),), issues=(Issue(3, "oops", "no entity"),))
    write_layout(layout, tmp_path / "room.json")
    found = read_layout(tmp_path / "room.json")
    assert math.isnan(found.walls[0].bx)
    assert (found.boxes, found.issues) == (layout.boxes, layout.issues)


def test_an_empty_file_is_an_empty_layout(tmp_path: Path) -> None:
    (tmp_path / "room.txt").write_text("\n")
    assert read_layout(tmp_path / "room.txt") == Layout()


def test_some_unusable_lines_are_issues(tmp_path: Path) -> None:
    text = "bbox_0=Bbox(bed,1,2,3,4,5,6,7)\noops"
    (tmp_path / "room.txt").write_text(text)
    assert read_layout(tmp_path / "room.txt") == parse_layout(text)


def _wall(**numbers: str) -> bytes:
    """A layout of one wall in JSON, with other numbers than 1."""
    names = ("id", "ax", "ay", "az", "bx", "by", "bz", "height", "thickness")
    wall = ", ".join(f'"{name}": {numbers.get(name, "1")}' for name in names)
    return f'{{"walls": [{{{wall}}}], "doors": [], "windows": [], "boxes": []}}'.encode()


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        (
            "a.txt",
            b"solid cube\n",
            r"a\.txt: no line of it is part of a layout \(line 1: .* check that it is the right",
        ),
        ("a.txt", b"\xff\xfe", r"a\.txt: cannot be read as a layout \(.*codec.*\)\. Name a layout file"),
        ("a.json", b"{", r"a\.json: not a layout as run_engine\.py writes it in JSON \(JSONDecodeError"),
        ("a.json", b"[]", r"a\.json: not a layout"),
        ("a.json", b'{"walls": [{}], "doors": [], "windows": [], "boxes": []}', r"a\.json: not a layout .*KeyError"),
        ("a.json", b'{"walls": 3}', r"a\.json: not a layout"),
        ("a.json", _wall(id="Infinity"), r"a\.json: not a layout .*OverflowError"),
        ("a.json", _wall(ax="1" + "0" * 400), r"a\.json: not a layout .*OverflowError"),
        ("a.json", b"[" * 200_000, r"a\.json: not a layout .*RecursionError"),
    ],
)
def test_what_is_no_layout(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SceneError, match=sentence):
        read_layout(tmp_path / name)


def test_no_file_and_too_large_ones(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match="No such file"):
        read_layout(tmp_path / "none.txt")
    with (tmp_path / "large.txt").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(SceneError, match="1,073,741,824 bytes"):
        read_layout(tmp_path / "large.txt")
