"""Kernel source as one text, for NVRTC, which knows no folders, as for nvcc."""

from __future__ import annotations

import re
from pathlib import Path

INCLUDE = re.compile(r'^#include "([^"]+)"$', re.MULTILINE)


def inlined(path: Path, seen: set[Path] | None = None) -> str:
    """The file with what it includes put in place, each file once."""
    seen = set() if seen is None else seen
    seen.add(path.resolve())

    def put(match: re.Match[str]) -> str:
        other = (path.parent / match[1]).resolve()
        return "" if other in seen else inlined(other, seen)

    return INCLUDE.sub(put, path.read_text().replace("#pragma once\n", ""))


def with_constants(text: str, constants: dict[str, int | float]) -> str:
    """The text behind a definition of each constant; floats are float32 literals."""
    lines = [f"#define {name} {value!r}{'f' * isinstance(value, float)}" for name, value in constants.items()]
    return "\n".join([*lines, text])
