"""The ladder's result as one page of HTML that needs nothing else: no network, no script, no other file."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from export.parity.report.text import LAYOUTS, VERDICTS, cosine, fact, number
from export.parity.report.view import page_view
from runtime.errors import SceneError

__all__ = ["render", "write_report"]


def write_report(result: dict[str, Any], path: Path) -> None:
    """Write the page, whole or not at all. Raises SceneError where it cannot be written."""
    # Names given on a command line may hold bytes that are no text.
    content = render(result).encode("utf-8", "backslashreplace")
    try:
        _replace_file(path, content)
    except OSError as error:
        raise SceneError(
            f"{path}: cannot be written ({error.strerror or error}). "
            "Name a report in a folder that exists and can be written to."
        ) from error


def render(result: dict[str, Any]) -> str:
    """The page as text. Every string of the result is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "cosine": cosine, "fact": fact}
    environment.globals |= {"verdicts": VERDICTS, "layouts": LAYOUTS}
    return environment.get_template("page.html").render(page=page_view(result))


def _replace_file(path: Path, content: bytes) -> None:
    temporary = path.parent / f".report-{secrets.token_hex(8)}.tmp"
    file = temporary.open("xb")
    try:
        with file:
            file.write(content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
