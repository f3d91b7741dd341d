"""Metadata and label mapping: what is read from them, and how each mistake is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.errors import SceneError
from runtime.evaluation import OBJECT_CLASSES, read_mapping, read_scene_ids
from runtime.evaluation import categories as module
from runtime.evaluation.categories import boxes_by_class
from runtime.layout import Bbox

HEAD = "name\tspatiallm59\tother\tspatiallm20\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "table"


def ids(file: Path, content: str) -> list[str]:
    file.write_bytes(content.encode())
    return read_scene_ids(file)


def mapping(file: Path, content: str, *columns: str) -> dict[str, str]:
    file.write_bytes(content.encode())
    return read_mapping(file, *columns)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("id\na\nb\n", ["a", "b"]),
        ("pcd,id,layout\nx.ply,a,x.txt\n", ["a"]),
        ("\ufeffid\r\na\r\n\r\nb", ["a", "b"]),
        ('id,note\n"a, b","two\nlines"\nc,\n', ["a, b", "c"]),
        ("id\n001\n1.0\nNA\n", ["001", "1.0", "NA"]),
        ("id\na\na\n", ["a", "a"]),
        ("id\npart/a\nb..c\n\u2028\n", ["part/a", "b..c", "\u2028"]),
    ],
)
def test_ids_in_their_order_and_as_they_are_written(file: Path, content: str, expected: list[str]) -> None:
    assert ids(file, content) == expected


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "has no column 'id'; its first line names none. A comma-separated file with that column was expected"),
        ("scene;id\na;b\n", "has no column 'id'; its first line names 'scene;id'"),
        ("Id,ID\na,b\n", "has no column 'id'; its first line names 'Id', 'ID'"),
        ("id\n", "there is no scene in it"),
        ("id,x\na,1\n,2\n", "line 3: the id is empty"),
        ("x,id\n1\n", "line 2: the id is empty"),
        ("id\n/etc/passwd\n", "line 2: the id '/etc/passwd' leads out of the folders"),
        ("id\na/../../b\n", "leads out of the folders"),
        ("id\n" + "a" * 200_000 + "\n", "no comma-separated text (field larger than field limit"),
    ],
)
def test_metadata_that_cannot_be_used(file: Path, content: str, sentence: str) -> None:
    with pytest.raises(SceneError) as error:
        ids(file, content)
    assert str(file) in str(error.value)
    assert sentence in str(error.value)


def test_a_zero_byte_is_told(file: Path) -> None:
    with pytest.raises(SceneError, match=r"leads out|NUL"):
        ids(file, "id\na\0b\n")


def test_two_columns_of_the_mapping(file: Path) -> None:
    content = HEAD + "1\tbunk bed\t-\tbed\n2\tbed\t-\tbed\n3\tthing\t-\t\n4\t\t-\tsofa\n5\tnan\t-\tchair\n6\tshort\n"
    assert mapping(file, content) == {"bunk bed": "bed", "bed": "bed", "nan": "chair"}
    assert mapping(file, content, "name", "spatiallm59")["3"] == "thing"


def test_the_last_of_two_lines_holds(file: Path) -> None:
    assert mapping(file, "spatiallm59\tspatiallm20\nbed\tbed\nbed\tsofa\n") == {"bed": "sofa"}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            "spatiallm59,spatiallm20\nbed,bed\n",
            "no column 'spatiallm59'; its first line names 'spatiallm59,",
        ),
        (
            "spatiallm59\tx\nbed\tbed\n",
            "no column 'spatiallm20'; its first line names 'spatiallm59', 'x'. A tab",
        ),
        ("spatiallm59\tspatiallm20\nbed\t\n", "no line has both 'spatiallm59' and 'spatiallm20'"),
    ],
)
def test_a_mapping_that_cannot_be_used(file: Path, content: str, sentence: str) -> None:
    with pytest.raises(SceneError, match=sentence):
        mapping(file, content)


def test_a_file_that_is_no_text(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SceneError, match="cannot be read"):
        read_mapping(file)
    with pytest.raises(SceneError, match="is no file"):
        read_mapping(file.parent)
    file.write_bytes(b"id\n\xff\n")
    with pytest.raises(SceneError, match="is no UTF-8 text"):
        read_scene_ids(file)
    monkeypatch.setattr(module, "MAX_BYTES", 4)
    with pytest.raises(SceneError, match=r"has 5 bytes, but at most 4 were expected"):
        read_scene_ids(file)


def named(*names: str) -> list[Bbox]:
    return [Bbox(i, name, 0, 0, 0, 0, 1, 1, 1) for i, name in enumerate(names)]


def test_names_are_looked_up_with_blanks_for_underscores() -> None:
    table = {"dining table": "dining table", "bunk bed": "bed", "tv": "tv", "dog": "animal", "a_b": "tv"}
    boxes = named("dining_table", "bunk_bed", "dining table", " tv", "tv", "TV", "cat", "dog", "a_b")
    found, unknown = boxes_by_class(boxes, table)
    assert {name: [box.id for box in those] for name, those in found.items()} == {
        "dining table": [0, 2],
        "bed": [1],
        "tv": [4],
    }
    assert unknown == [" tv", "TV", "cat", "dog", "a b"]


def test_twenty_classes() -> None:
    assert len(set(OBJECT_CLASSES)) == 20
