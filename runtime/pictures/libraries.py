"""What must be installed for which picture, asked before any work is done."""

from __future__ import annotations

import importlib

from runtime.errors import SceneError

_EXTRAS = {"matplotlib": ("pictures", "plot"), "rerun": ("recordings for the Rerun viewer", "rerun")}


def need(library: str) -> None:
    """Import matplotlib or rerun. Raises SceneError that says what to install."""
    what, extra = _EXTRAS[library]
    try:
        importlib.import_module(library)
    except ModuleNotFoundError as error:
        raise SceneError(
            f"{what} need {error.name!r}, which is not installed. Install it: pip install '.[{extra}]'"
        ) from error
    except ImportError as error:
        raise SceneError(
            f"{what} need {library!r}, which is installed but cannot be loaded ({error}). "
            f"Install it again: pip install --force-reinstall '.[{extra}]'"
        ) from error


def scores_are_possible() -> bool:
    """Whether shapely is there, which the scores in a title need."""
    try:
        importlib.import_module("shapely")
    except ImportError:
        return False
    return True
