"""What TensorRT said in the log of a build.

Its own logger writes lines such as "[11/24/2026-02:26:43] [TRT] [E] 10: Could not find any implementation for node x.".
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

LINE = re.compile(r"\[TRT\] \[([FEW])\] (.*)")  # fatal, error, warning; notes and all else are passed over
MAX_MESSAGES, WARNING_LENGTH = 20, 300  # of those that are handed on; the log has all


@dataclass(frozen=True, slots=True)
class Messages:
    """The last errors, the first distinct warnings, each on one line without its full stop."""

    errors: tuple[str, ...]
    warnings: tuple[str, ...]


def read_messages(log: Path) -> Messages:
    """Those in a log that may still be written."""
    with log.open(encoding="utf-8", errors="replace") as lines:
        return messages(lines)


def messages(lines: Iterable[str]) -> Messages:
    """Those among the lines of a log."""
    errors: list[str] = []
    warnings: dict[str, None] = {}
    for found in filter(None, map(LINE.search, lines)):
        text = one_line(found[2])
        if found[1] != "W":
            errors = [*errors[1 - MAX_MESSAGES :], text]
        elif len(warnings) < MAX_MESSAGES:
            warnings[text[:WARNING_LENGTH]] = None
    return Messages(tuple(errors), tuple(warnings))


def one_line(text: str) -> str:
    """A message as part of a sentence of ours."""
    return " ".join(text.split()).rstrip(".")
