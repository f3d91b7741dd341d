"""The header of a PLY file. The only file that knows plyfile.

A header is somebody else's claim. It is held against the size of the file before any row is read: plyfile allocates
what a header asks for, so it sees the header with every count set to zero.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from plyfile import PlyData, PlyListProperty, PlyParseError

from runtime.errors import PlyError
from runtime.points.files import first_bytes, wrong_kind


@dataclass(frozen=True, slots=True)
class Property:
    """A column; with `length`, the number type of its count, a list of `dtype`. Types are in the file's byte order."""

    name: str
    dtype: np.dtype[Any]
    length: np.dtype[Any] | None = None

    @property
    def first(self) -> np.dtype[Any]:
        """The type of the first number. (A number type counts as false, so `or` would not do.)"""
        return self.dtype if self.length is None else self.length


@dataclass(frozen=True, slots=True)
class Element:
    """A table of `count` rows."""

    name: str
    count: int
    properties: tuple[Property, ...]

    @property
    def has_lists(self) -> bool:
        return any(p.length is not None for p in self.properties)

    @property
    def least_bytes(self) -> int:
        """Fewest bytes of a binary row, as a list may be empty; without lists, its size."""
        return sum(p.first.itemsize for p in self.properties)

    @property
    def numbers(self) -> dict[str, Property]:
        """Properties that are no lists, by name in lower case; the first of several."""
        return {p.name.lower(): p for p in reversed(self.properties) if p.length is None}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlyHeader:
    """What the file says of itself."""

    path: Path
    text: bool
    elements: tuple[Element, ...]
    offset: int  # bytes before the first row

    @property
    def vertex(self) -> Element:
        return next(element for element in self.elements if element.name == "vertex")

    @property
    def before_vertex(self) -> tuple[Element, ...]:
        return self.elements[: self.elements.index(self.vertex)]


def read_header(path: Path) -> PlyHeader:
    """Parse and check a header, its counts held against the file's size. Raises PlyError."""
    data = _header_bytes(path)
    try:
        text, counts = _without_counts(data.decode("ascii", "replace").replace("\ufffd", "?"))
        layout = PlyData.read(io.BytesIO(text.encode("ascii")))
    except (PlyParseError, ValueError) as error:
        reason = str(error)[:200]
        raise PlyError(f"{path}: the PLY header is not valid ({reason}). Save the scene again as PLY.") from error
    elements = tuple(_element(element, counts[element.name], layout.byte_order) for element in layout)
    header = PlyHeader(path=path, text=bool(layout.text), elements=elements, offset=len(data))
    _check_vertex(header)
    _check_size(header)
    return header


def _header_bytes(path: Path) -> bytes:
    start = first_bytes(path)
    first_line = re.match(rb"ply[ \t]*(\r\n|\n|\r)", start)
    if not first_line:
        raise wrong_kind(path, "a PLY file", start)
    # after a lone \r a \n would already be data
    line_end = rb"\r" if first_line[1] == b"\r" else rb"\r?\n"
    last_line = re.search(rb"[\r\n]end_header[ \t]*" + line_end, start)
    if not last_line:
        raise PlyError(f"{path}: the PLY header has no end_header line. The file is cut off or altered; copy it again.")
    return start[: last_line.end()]


def _without_counts(header: str) -> tuple[str, dict[str, int]]:
    """The header with every count set to zero, idle lines as comments; and the counts. Raises ValueError."""
    lines, counts = re.split(r"\r\n|\n|\r", header)[:-1], {}
    for number, line in enumerate(lines):
        match line.split():
            case [] | ["comment" | "obj_info", *_]:
                lines[number] = "comment"  # plyfile refuses some of their places
            case ["element", name, count]:
                if not count.isdigit():
                    raise ValueError(f"element {name} has the count {count:.20}")
                counts[name] = int(count) if len(count) < 19 else 10**18  # more than any file can hold
                lines[number] = f"element {name} 0"
            case [_, *_]:
                lines[number] = line.strip()
    return "\n".join([*lines, ""]), counts


def _element(element: Any, count: int, byte_order: str) -> Element:
    return Element(element.name, count, tuple(_property(p, byte_order) for p in element.properties))


def _property(prop: Any, byte_order: str) -> Property:
    if not isinstance(prop, PlyListProperty):
        return Property(prop.name, np.dtype(prop.dtype(byte_order)))
    length, value = map(np.dtype, prop.list_dtype(byte_order))
    return Property(prop.name, value, length)


def _check_vertex(header: PlyHeader) -> None:
    if "vertex" not in [element.name for element in header.elements]:
        names = ", ".join(element.name for element in header.elements) or "none"
        raise PlyError(f"{header.path}: no vertex element (elements: {names}). A point cloud with x, y, z is needed.")
    numbers = header.vertex.numbers
    if missing := [name for name in "xyz" if name not in numbers]:
        found = ", ".join(p.name for p in header.vertex.properties if p.length is None) or "none"
        raise PlyError(
            f"{header.path}: vertices have no {', '.join(missing)} (properties: {found}). "
            "A point cloud with x, y, z is needed."
        )
    if header.vertex.count == 0:
        raise PlyError(f"{header.path}: the file holds no points. Export the scene again.")


def _check_size(header: PlyHeader) -> None:
    """Hold the header's counts against the bytes that follow it, at the smallest size its rows can have."""
    need = sum(element.count * _least_bytes(element, header.text) for element in header.elements)
    have = header.path.stat().st_size - header.offset
    if have < need - header.text:  # the last line of text may lack its newline
        counts = ", ".join(f"{element.count} {element.name}" for element in header.elements)
        raise PlyError(
            f"{header.path}: the file is cut off. Its header promises {counts}, at least {need} bytes, "
            f"but {have} follow. Copy or export it again."
        )


def _least_bytes(element: Element, text: bool) -> int:
    """As text, a digit and a separator for each property."""
    return 2 * len(element.properties) if text else element.least_bytes
