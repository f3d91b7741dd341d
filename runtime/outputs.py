"""Files that a command is about to write: refused before the work, where they cannot be or would replace an input."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from runtime.errors import SceneError


def check_output(path: Path, *, bundle: Path | None = None, read: Mapping[str, Path | None] | None = None) -> None:
    """Refuse a file that cannot be written, that lies in the bundle, or that is one of those read.

    `read` names each by what it is, e.g. {"the scene": path}; None where it is not given. Raises SceneError.
    """
    if bundle is not None:
        check_outside(bundle, path)
    check_writable(path)
    for what, other in (read or {}).items():
        if other is not None and same_file(path, other):
            raise SceneError(f"{path}: is {what}, which the output would replace. Name another output.")


def check_outside(folder: Path, path: Path, what: str = "bundle") -> None:
    """Raises SceneError where `path` is the folder or lies in it."""
    real = _real(path)
    if _real(folder) in (real, *real.parents):
        raise SceneError(f"{path}: lies inside the {what} {folder}, which must stay as it is. Name another place.")


def check_writable(path: Path) -> None:
    """Raises SceneError for what is no ordinary file, or lies in a folder that is missing or cannot be written to."""
    if path.exists() and not path.is_file():
        raise SceneError(f"{path}: cannot be written there, it is no ordinary file. Name another file.")
    if not path.name or not (folder := _real(path).parent).is_dir() or not os.access(folder, os.W_OK):
        raise SceneError(f"{path}: cannot be written there. Name a file in a folder that exists and can be written to.")


def same_file(path: Path, other: Path) -> bool:
    """Whether both name one file, there or not."""
    try:
        return path.samefile(other)
    except OSError:
        return _real(path) == _real(other)


def _real(path: Path) -> Path:
    """Links followed; a link that leads to itself stays, where Path.resolve gives up before Python 3.13."""
    return Path(os.path.realpath(path))
