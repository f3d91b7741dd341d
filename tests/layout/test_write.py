"""Text, JSON and files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from runtime.errors import SceneError
from runtime.layout import Bbox, Door, Layout, Wall, Window, parse_layout, to_json, to_text, undiscretize, write_layout

ROOM = Layout(
    walls=(Wall(1002, 0.05, 0.0, 0.0, 4.0, 0.0, 0.0, 2.72, 0.0),),
    doors=(Door(1007, 1002, 1.0, 0.0, 1.0, 0.9, 2.0), Door(-1, 1002, 2.0, 0.0, 1.0, 0.9, 2.0)),
    windows=(Window(1003, 1002, 3.0, 0.0, 1.5, 1.2, 1.6600000000000001),),
    boxes=(Bbox(2000, "bed", 1.0, 2.0, 0.3, -0.5, 2.0, 1.6, 0.6),),
)
TEXT = (
    "wall_1002=Wall(0.05,0.0,0.0,4.0,0.0,0.0,2.72,0.0)\n"
    "door_7=Door(wall_1002,1.0,0.0,1.0,0.9,2.0)\n"
    "door_999=Door(wall_1002,2.0,0.0,1.0,0.9,2.0)\n"
    "window_3=Window(wall_1002,3.0,0.0,1.5,1.2,1.6600000000000001)\n"
    "bbox_0=Bbox(bed,1.0,2.0,0.3,-0.5,2.0,1.6,0.6)"
)


def test_text_has_upstream_order_and_ids_below_1000_except_for_walls() -> None:
    assert to_text(ROOM) == TEXT
    assert str(ROOM) == TEXT
    assert ROOM.doors[0].id == 1007  # writing changes nothing


def test_text_orders_by_kind_and_keeps_the_order_within() -> None:
    lines = ["bbox_1=Bbox(b,1,2,3,4,5,6,7)", "wall_5=Wall(1,2,3,4,5,6,7,8)", "bbox_0=Bbox(a,1,2,3,4,5,6,7)"]
    assert [line.split("=")[0] for line in to_text(parse_layout("\n".join(lines))).split("\n")] == [
        "wall_5",
        "bbox_1",
        "bbox_0",
    ]


def test_integers_stay_integers_and_parsed_numbers_are_floats() -> None:
    assert to_text(Layout(walls=(Wall(0, 1, 2, 3, 4, 5, 6, 7, 8),))) == "wall_0=Wall(1,2,3,4,5,6,7,8)"
    assert to_text(parse_layout("wall_0=Wall(1,2,3,4,5,6,7,8)")) == "wall_0=Wall(1.0,2.0,3.0,4.0,5.0,6.0,7.0,8.0)"


def test_an_empty_layout_is_empty_text() -> None:
    assert to_text(Layout()) == ""


def test_json_has_the_same_entities_as_the_text_and_the_issues() -> None:
    facts = to_json(Layout(ROOM.walls, ROOM.doors[:1], ROOM.windows, ROOM.boxes, parse_layout("oops").issues))
    assert facts["walls"] == [
        {
            "id": 1002,
            "ax": 0.05,
            "ay": 0.0,
            "az": 0.0,
            "bx": 4.0,
            "by": 0.0,
            "bz": 0.0,
            "height": 2.72,
            "thickness": 0.0,
        }
    ]
    assert facts["doors"] == [
        {"id": 7, "wall_id": 1002, "position_x": 1.0, "position_y": 0.0, "position_z": 1.0, "width": 0.9, "height": 2.0}
    ]
    assert facts["windows"][0]["id"] == 3
    assert facts["boxes"][0] == {
        "id": 0,
        "class_name": "bed",
        "position_x": 1.0,
        "position_y": 2.0,
        "position_z": 0.3,
        "angle_z": -0.5,
        "scale_x": 2.0,
        "scale_y": 1.6,
        "scale_z": 0.6,
    }
    assert facts["issues"] == [{"line": 1, "text": "oops", "reason": parse_layout("oops").issues[0].reason}]
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts


def test_json_has_null_where_a_number_is_not_finite() -> None:
    wall = to_json(parse_layout("wall_0=Wall(nan,inf,-inf,4,5,6,7,8)"))["walls"][0]
    assert (wall["ax"], wall["ay"], wall["az"], wall["bx"]) == (None, None, None, 4.0)


def test_write_layout_goes_by_the_ending(tmp_path: Path) -> None:
    write_layout(ROOM, tmp_path / "scene.txt")
    write_layout(ROOM, tmp_path / "scene.JSON")
    assert (tmp_path / "scene.txt").read_bytes() == TEXT.encode()
    assert json.loads((tmp_path / "scene.JSON").read_text(encoding="utf-8")) == to_json(ROOM)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scene.JSON", "scene.txt"]


def test_a_written_text_reads_back_as_the_same_layout(tmp_path: Path) -> None:
    layout = undiscretize(parse_layout("wall_0=Wall(2,2,2,132,2,2,136,0)\nbbox_0=Bbox(sofå,1,2,3,4,5,6,7)"), 1280)
    write_layout(layout, tmp_path / "scene.txt")
    assert parse_layout((tmp_path / "scene.txt").read_text(encoding="utf-8")) == layout


def test_a_file_that_is_there_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "scene.txt"
    path.write_text("something longer than the layout" * 100)
    write_layout(Layout(), path)
    assert path.read_bytes() == b""


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_keeps_the_old_file_and_leaves_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path = tmp_path / "scene.txt"
    path.write_text("old")
    seen: list[str] = []

    def fail(self: Path, target: Path) -> None:
        seen.append(self.read_text(encoding="utf-8"))
        assert self.parent == target.parent  # another file system could not swap the names in one step
        raise error

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(SceneError if isinstance(error, OSError) else KeyboardInterrupt):
        write_layout(ROOM, path)
    assert seen == [TEXT]  # all was written before the names were swapped
    assert [file.name for file in tmp_path.iterdir()] == ["scene.txt"]
    assert path.read_text() == "old"


@pytest.mark.parametrize("name", ["scene.ply", "scene", ".txt"])
def test_another_ending_is_a_sentence_that_names_the_two(tmp_path: Path, name: str) -> None:
    with pytest.raises(SceneError, match=r"the ending is '.*', but \.txt or \.json was expected"):
        write_layout(ROOM, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.txt").mkdir()
    for path in (tmp_path / "absent" / "scene.txt", tmp_path / "file" / "scene.txt", tmp_path / "folder.txt"):
        with pytest.raises(SceneError, match=r"cannot be written .* in a folder that exists"):
            write_layout(ROOM, path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.txt"]


def test_text_that_is_no_unicode_is_a_sentence(tmp_path: Path) -> None:
    box = Bbox(0, "\ud800", 1.0, 2.0, 3.0, math.pi, 1.0, 1.0, 1.0)
    with pytest.raises(SceneError, match="not valid Unicode"):
        write_layout(Layout(boxes=(box,)), tmp_path / "scene.txt")
    assert list(tmp_path.iterdir()) == []
