"""A folder that appears whole or not at all. Standard library only."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from runtime.errors import SceneError


@contextmanager
def replacing(folder: Path, error: type[SceneError], advice: str) -> Iterator[Path]:
    """Write into a neighbour folder and put it in place at the end; on any failure nothing of it stays.

    What the system refuses is raised as `error`; `advice` says what else the user can do ("choose another --output").
    """
    folder = folder.resolve()
    missing = [parent for parent in folder.parents if not parent.exists()]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    except OSError as refusal:
        _remove_empty(missing)
        raise error(f"{folder}: cannot be written ({refusal.strerror}). {advice[0].upper()}{advice[1:]}.") from refusal
    aside = partial.with_suffix(".old")
    try:
        yield partial
        partial.chmod(0o755)
        if folder.exists():  # step aside, so that at no moment half a folder stands there
            folder.replace(aside)
        partial.replace(folder)
    except OSError as refusal:
        raise error(f"{folder}: cannot be written ({refusal.strerror or refusal}). Make room or {advice}.") from refusal
    finally:
        if aside.exists() and not folder.exists():  # stopped between the two moves
            aside.replace(folder)
        shutil.rmtree(partial, ignore_errors=True)
        _remove(aside)
        _remove_empty(missing)


def _remove(path: Path) -> None:
    """What stood there before: a folder, or a file that was in its place."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _remove_empty(folders: list[Path]) -> None:
    """Parents that were made for a folder that did not come about, the innermost first."""
    with suppress(OSError):  # not empty, or never made
        for folder in folders:
            folder.rmdir()
