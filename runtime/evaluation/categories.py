"""Which scenes and which classes: the metadata (CSV) and the label mapping (TSV)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath

from runtime.errors import SceneError
from runtime.evaluation.texts import read_text
from runtime.layout import Bbox

LAYOUT_CLASSES = ("wall", "door", "window")
OBJECT_CLASSES = (
    *("curtain", "nightstand", "chandelier", "wardrobe", "bed", "sofa", "chair", "cabinet", "dining table", "plants"),
    *("tv cabinet", "coffee table", "side table", "air conditioner", "dresser", "stool", "refrigerator", "painting"),
    *("carpet", "tv"),
)
LABEL_FROM, LABEL_TO = "spatiallm59", "spatiallm20"
MAX_BYTES = 64 << 20


def read_scene_ids(path: Path) -> list[str]:
    """The column `id` of a comma-separated file, in its order; a scene named twice is there twice.

    Raises SceneError.
    """
    ids: list[str] = []
    for line, (scene,) in _rows(path, ",", ["id"]):
        if not scene:
            raise SceneError(f"{path}, line {line}: the id is empty. Name the scene, or remove the line.")
        if PurePath(scene).is_absolute() or ".." in PurePath(scene).parts or "\0" in scene:
            raise SceneError(
                f"{path}, line {line}: the id {scene!r:.80} leads out of the folders. Name a file in them."
            )
        ids.append(scene)
    if not ids:
        raise SceneError(f"{path}: there is no scene in it. A line under the heading 'id' was expected for each scene.")
    return ids


def read_mapping(path: Path, label_from: str = LABEL_FROM, label_to: str = LABEL_TO) -> dict[str, str]:
    """Class to class, from two columns of a tab-separated file; where a cell is empty the line says nothing, and of two
    lines for one class the last holds. Raises SceneError."""
    pairs = (cells for _, cells in _rows(path, "\t", [label_from, label_to]))
    mapping = {source: target for source, target in pairs if source and target}
    if not mapping:
        raise SceneError(
            f"{path}: no line has both {label_from!r} and {label_to!r}, so no object could be scored. "
            "Name other columns with --label_from and --label_to, or fill these."
        )
    return mapping


def boxes_by_class(
    boxes: Sequence[Bbox], mapping: Mapping[str, str], classes: Sequence[str] = OBJECT_CLASSES
) -> tuple[dict[str, list[Bbox]], list[str]]:
    """Boxes by the scored class that the mapping gives them, and the names of the others. `_` in a name is a blank."""
    found: dict[str, list[Bbox]] = {}
    unknown: list[str] = []
    for box in boxes:
        name = box.class_name.replace("_", " ")
        if mapping.get(name) in classes:
            found.setdefault(mapping[name], []).append(box)
        else:
            unknown.append(name)
    return found, unknown


def _rows(path: Path, delimiter: str, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Line number and the cells of `columns`, for every line that is not blank; a cell that is not there is empty."""
    text = read_text(path, MAX_BYTES, "utf-8-sig")  # spreadsheets put a byte order mark first
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    kind = {",": "comma", "\t": "tab"}[delimiter]
    try:
        names = reader.fieldnames or []
        if missing := [name for name in columns if name not in names]:
            raise SceneError(
                f"{path}: has no column {missing[0]!r}; its first line names "
                f"{', '.join(map(repr, names))[:200] or 'none'}. A {kind}-separated file with that column was expected."
            )
        for row in reader:
            yield reader.line_num, [row[name] or "" for name in columns]
    except csv.Error as error:
        raise SceneError(
            f"{path}, line {reader.line_num}: no {kind}-separated text ({error}). Mend that line."
        ) from error
