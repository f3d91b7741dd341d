"""A layout file back into a layout: the original's text, or our JSON."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from runtime.errors import SceneError
from runtime.files import read_small_text
from runtime.layout.entities import KINDS, Issue, Layout, number_names
from runtime.layout.parse import parse_layout

MAX_BYTES = 16 << 20  # a room takes some thousand bytes
_LISTS = {"walls": "wall", "doors": "door", "windows": "window", "boxes": "bbox"}


def read_layout(path: Path) -> Layout:
    """Read `.txt` as `parse_layout` does, or a `.json` that `write_layout` wrote (null becomes nan). Raises SceneError.

    A text without a single usable line is refused, unless it is blank: it is most likely no layout.
    """
    try:
        text = read_small_text(path, MAX_BYTES)
    except (OSError, ValueError) as error:  # a UnicodeDecodeError is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise SceneError(
            f"{path}: cannot be read as a layout ({reason}). Name a layout file, .txt or .json."
        ) from error
    if path.suffix.lower() == ".json":
        return _from_json(path, text)
    layout = parse_layout(text)
    if layout.issues and not any(True for _ in layout.entities()):
        raise SceneError(
            f"{path}: no line of it is part of a layout (line {layout.issues[0].line}: {layout.issues[0].reason}). "
            "Lines such as wall_0=Wall(0.0,0.0,0.0,4.0,0.0,0.0,2.7,0.0) were expected; check that it is the right file."
        )
    return layout


def _from_json(path: Path, text: str) -> Layout:
    try:
        facts = json.loads(text)
        found = {name: tuple(_entity(label, record) for record in facts[name]) for name, label in _LISTS.items()}
        return Layout(**found, issues=tuple(Issue(**record) for record in facts.get("issues", ())))
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise SceneError(
            f"{path}: not a layout as run_engine.py writes it in JSON ({type(error).__name__}: {error}). "
            "Check that it is the right file."
        ) from error


def _entity(label: str, record: dict[str, Any]) -> Any:
    kind = KINDS[label]
    values = {field.name: record[field.name] for field in fields(kind)}
    for name in number_names(kind):
        values[name] = float("nan") if values[name] is None else float(values[name])
    for name in ("id", "wall_id"):
        if name in values:
            values[name] = int(values[name])
    if "class_name" in values:
        values["class_name"] = str(values["class_name"])
    return kind(**values)
