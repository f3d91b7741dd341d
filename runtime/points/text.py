"""Numbers in lines of text, parsed in bulk, with the row named where one is no number."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from runtime.arrays import Array
from runtime.errors import PlyError
from runtime.points.files import first_bytes, known_kind, wrong_kind
from runtime.points.raw import RawCloud, raw_from_table

_LINE_LIMIT = 1 << 16  # characters; a file without line ends is not read as one line
_COMMENTS = ("#", "//")
_TIGHT_COMMA, _OTHER_SEPARATOR = re.compile(r"\d,\d"), re.compile(r"\d[\s;]+[-+.\d]")
_SEPARATORS = str.maketrans(",;", "  ")


def read_text(path: Path) -> RawCloud:
    """Columns x y z [r g b] between blanks, commas or semicolons; `#` and `//` begin comment lines. Raises PlyError."""
    start = first_bytes(path, 64)
    if known_kind(start) or b"\0" in start:
        raise wrong_kind(path, "a text of columns x y z [r g b]", start)
    with text_lines(path) as lines:
        rows = (_separated(path, line) for line in lines if not line.lstrip().startswith(_COMMENTS))
        table = parse_rows(path, rows)
    if not len(table):
        raise PlyError(f"{path}: the file holds no points. Export the scene again.")
    return raw_from_table(str(path), table)


def _separated(path: Path, line: str) -> str:
    """The line with blanks between its numbers. Raises PlyError where a comma may as well be a decimal one."""
    if "," in line and _TIGHT_COMMA.search(line) and _OTHER_SEPARATOR.search(line):
        raise PlyError(
            f"{path}: {line.strip()[:40]!r} has commas between other separators, so they may be decimal "
            "commas. Write the numbers with decimal points."
        )
    return line.translate(_SEPARATORS)


@contextmanager
def text_lines(path: Path, offset: int = 0) -> Iterator[Iterator[str]]:
    """The lines of a file from a byte on, blank ones left out; any line end. Raises PlyError for an endless line."""
    with path.open("rb") as file:
        file.seek(offset)
        with io.TextIOWrapper(file, encoding="utf-8-sig", errors="replace", newline=None) as text:
            yield _lines(path, text)


def _lines(path: Path, text: io.TextIOWrapper) -> Iterator[str]:
    for line in iter(lambda: text.readline(_LINE_LIMIT), ""):
        if len(line) == _LINE_LIMIT and not line.endswith("\n"):
            raise PlyError(f"{path}: a line has more than {_LINE_LIMIT} characters. Is this a text of numbers?")
        if not line.isspace():
            yield line


class _Counted:
    """Rows as they are handed out: where parsing stops, the last one is to blame."""

    def __init__(self, rows: Iterable[str]) -> None:
        self._rows = iter(rows)
        self.count, self.last = 0, ""

    def __iter__(self) -> Iterator[str]:
        for row in self._rows:
            self.count, self.last = self.count + 1, row
            yield row


def parse_rows(path: Path, rows: Iterable[str], columns: int | None = None) -> Array:
    """Rows of `columns` numbers, or of as many as the first has: float64 [rows, columns]. Raises PlyError."""
    counted = _Counted(rows)
    lines = iter(counted)
    first = next(lines, None)
    if first is None:
        return np.empty((0, columns or 3))
    width = columns or len(first.split())
    if len(first.split()) != width:
        raise bad_row(path, counted.count, first, f"{width} numbers were expected")

    def again() -> Iterator[str]:
        yield first
        yield from lines

    try:
        return np.loadtxt(again(), dtype=np.float64, comments=None, ndmin=2)
    except (ValueError, OverflowError) as error:
        raise bad_row(path, counted.count, counted.last, f"{width} numbers were expected") from error


def bad_row(path: Path, row: int, text: str, expectation: str) -> PlyError:
    """The sentence for a row, counted from 1."""
    found = text.strip()
    found = found if len(found) <= 60 else found[:60] + "..."
    return PlyError(f"{path}: a row cannot be read: row {row} is {found!r}, but {expectation}. Export it again.")
