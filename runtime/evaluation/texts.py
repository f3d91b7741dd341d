"""Text files that others made: their size is looked at before they are read."""

from __future__ import annotations

from pathlib import Path

from runtime.errors import SceneError


def read_text(path: Path, limit: int, encoding: str = "utf-8") -> str:
    """The text of a file of at most `limit` bytes. Raises SceneError."""
    try:
        if path.exists() and not path.is_file():
            raise SceneError(f"{path}: is no file. A text file was expected; name one, or remove what lies there.")
        if (size := path.stat().st_size) > limit:
            raise SceneError(
                f"{path}: has {size} bytes, but at most {limit} were expected. Check that it is the right file."
            )
        return path.read_text(encoding=encoding)
    except UnicodeDecodeError as error:
        raise SceneError(
            f"{path}: is no UTF-8 text ({error.reason} at byte {error.start}). Check that it is the right file."
        ) from error
    except OSError as error:
        raise SceneError(f"{path}: cannot be read ({error.strerror or error}). Check path and permissions.") from error
