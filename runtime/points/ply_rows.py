"""The vertex rows of a PLY file: whole columns where rows are alike, one row after another where lists stand."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np

from runtime.arrays import Array
from runtime.errors import PlyError
from runtime.points.ply_header import Element, PlyHeader, Property
from runtime.points.text import bad_row, parse_rows, text_lines


def read_columns(header: PlyHeader, names: tuple[str, ...]) -> Mapping[str, Array]:
    """Vertex properties by name (lower case), each [N] in its own type. What follows the vertices is not read."""
    if header.text:
        return _read_text(header, names)
    if any(element.has_lists for element in (*header.before_vertex, header.vertex)):
        return _read_walking(header, names)
    start = header.offset + sum(element.count * element.least_bytes for element in header.before_vertex)
    rows = np.fromfile(header.path, _row_dtype(header.vertex), header.vertex.count, offset=start)
    _check_count(header, len(rows))
    return {name: rows[header.vertex.numbers[name].name] for name in names}


def _row_dtype(element: Element) -> np.dtype[Any]:
    return np.dtype([(p.name, p.dtype) for p in element.properties])


def _check_count(header: PlyHeader, found: int) -> None:
    if found < header.vertex.count:
        raise PlyError(
            f"{header.path}: the file is cut off. Its header promises {header.vertex.count} vertex rows, "
            f"but {found} follow. Copy or export it again."
        )


def _read_walking(header: PlyHeader, names: tuple[str, ...]) -> dict[str, Array]:
    """Binary rows of different lengths: where one ends is known only when it has been read."""
    with header.path.open("rb") as file:
        file.seek(header.offset)
        data = file.read()
    place = 0
    try:
        for element in header.before_vertex:
            if element.has_lists:
                _, place = _walk(data, place, element, ())
            else:
                place += element.count * element.least_bytes
        values, _ = _walk(data, place, header.vertex, names)
    except struct.error as error:
        raise PlyError(
            f"{header.path}: the file is cut off or altered: a list reaches beyond its end. Copy or export it again."
        ) from error
    return _typed(header, names, values)


def _walk(data: bytes, place: int, element: Element, names: tuple[str, ...]) -> tuple[Array, int]:
    """Wanted values, float64 [N, names], of the rows from `place` on, and where they end. Raises struct.error."""
    wanted = [element.numbers[name] for name in names]
    steps = [
        (struct.Struct(_code(p.first)), 0 if p.length is None else p.dtype.itemsize, _place(p, wanted))
        for p in element.properties
    ]
    values = np.empty((element.count, len(names)))
    for row in range(element.count):
        for number, item_bytes, column in steps:
            (value,) = number.unpack_from(data, place)
            place += number.size
            if item_bytes:
                place += _list_length(value) * item_bytes
            elif column is not None:
                values[row, column] = value
    return values, place


def _code(dtype: np.dtype[Any]) -> str:
    """The struct code of a number type."""
    return (">" if dtype.str.startswith(">") else "<") + dtype.char.replace("l", "i").replace("L", "I")


def _place(prop: Property, wanted: list[Property]) -> int | None:
    return wanted.index(prop) if prop in wanted else None


def _list_length(value: float) -> int:
    if value != value or value < 0 or value > 2**32 or value != int(value):
        raise struct.error(f"a list of {value} values")
    return int(value)


def _read_text(header: PlyHeader, names: tuple[str, ...]) -> dict[str, Array]:
    with text_lines(header.path, header.offset) as lines:
        for element in header.before_vertex:
            if element.properties:
                _skip(lines, element.count)
        rows = islice(lines, header.vertex.count)
        if header.vertex.has_lists:
            values = _walk_text(header, rows, names)
        else:
            table = parse_rows(header.path, rows, len(header.vertex.properties))
            values = table[:, [header.vertex.properties.index(header.vertex.numbers[name]) for name in names]]
    _check_count(header, len(values))
    return _typed(header, names, values)


def _skip(lines: Iterator[str], count: int) -> None:
    next(islice(lines, count, count), None)


def _walk_text(header: PlyHeader, rows: Iterable[str], names: tuple[str, ...]) -> Array:
    values = np.empty((header.vertex.count, len(names)))
    wanted = [header.vertex.numbers[name] for name in names]
    steps = [(p.length is not None, _place(p, wanted)) for p in header.vertex.properties]
    count, line = 0, ""
    try:
        for count, line in enumerate(rows, 1):
            _fill(values[count - 1], line.split(), steps)
    except (ValueError, IndexError, OverflowError, struct.error) as error:
        raise bad_row(header.path, count, line, "numbers and lists as in the header were expected") from error
    return values[:count]


def _fill(values: Array, tokens: list[str], steps: list[tuple[bool, int | None]]) -> None:
    place = 0
    for is_list, column in steps:
        if is_list:
            place += _list_length(float(tokens[place]))
        elif column is not None:
            values[column] = float(tokens[place])
        place += 1
    if place != len(tokens):
        raise ValueError(f"{len(tokens)} values, but {place} are due")


def _typed(header: PlyHeader, names: tuple[str, ...], values: Array) -> dict[str, Array]:
    """float64 columns [N, names] in the types of the header; a text may hold what its type cannot. Raises PlyError."""
    columns = {}
    for column, name in zip(values.T, names, strict=True):
        dtype = header.vertex.numbers[name].dtype.newbyteorder("=")
        with np.errstate(over="ignore", invalid="ignore"):  # beyond a float's range is infinite, and then dropped
            columns[name] = column.astype(dtype)
        if dtype.kind in "iu":
            _check_whole(header, name, column, dtype)
    return columns


def _check_whole(header: PlyHeader, name: str, column: Array, dtype: np.dtype[Any]) -> None:
    limits = np.iinfo(dtype)
    wrong = ~((column >= limits.min) & (column <= limits.max) & (column == np.floor(column)))
    if wrong.any():
        row = int(np.argmax(wrong))
        expectation = f"a whole number from {limits.min} to {limits.max} was expected as {dtype.name}"
        raise bad_row(header.path, row + 1, f"{name} {column[row]:g}", expectation)
