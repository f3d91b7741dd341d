"""Layout to file: the original's text, or JSON. A file appears whole or not at all."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from runtime.errors import SceneError
from runtime.files import replacing
from runtime.layout.entities import Entity, Layout, to_text


def to_json(layout: Layout) -> dict[str, list[dict[str, Any]]]:
    """The layout as plain JSON values: walls, doors, windows, boxes with the fields and ids of the text form, and
    the issues. JSON has no nan and no infinity: such a number becomes null."""
    return {
        "walls": [_record(wall) for wall in layout.walls],
        "doors": [_record(door) for door in layout.doors],
        "windows": [_record(window) for window in layout.windows],
        "boxes": [_record(box) for box in layout.boxes],
        "issues": [asdict(issue) for issue in layout.issues],
    }


def _record(entity: Entity) -> dict[str, Any]:
    values = asdict(entity) | {"id": entity.written_id}
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in values.items()
    }


def _json_text(layout: Layout) -> str:
    return json.dumps(to_json(layout), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


_WRITERS: dict[str, Callable[[Layout], str]] = {".txt": to_text, ".json": _json_text}
ENDINGS = tuple(_WRITERS)  # what an output file may end with


def write_layout(layout: Layout, path: Path) -> None:
    """Write a layout as text (`.txt`) or JSON (`.json`), by the path's ending, replacing a file that is there.

    The text goes to a temporary file beside the target, which then takes the target's name: a reader sees the old
    file or the new one, never a half. Raises SceneError for another ending and where nothing can be written.
    """
    writer = _WRITERS.get(path.suffix.lower())
    if writer is None:
        raise SceneError(f"{path}: the ending is {path.suffix!r}, but .txt or .json was expected. Rename the output.")
    try:
        content = writer(layout).encode("utf-8")
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise SceneError(
            f"{path}: cannot be written ({error.strerror or error}). "
            "Name an output file in a folder that exists and can be written to."
        ) from error
    except UnicodeEncodeError as error:
        raise SceneError(f"{path}: the layout holds text that is not valid Unicode ({error.reason}).") from error
