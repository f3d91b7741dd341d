"""PLY files for the tests: plyfile's writer, and our own where that one errs.

plyfile 1.1 writes plain numbers beside lists in the machine's byte order, also into big-endian files.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from plyfile import PlyData, PlyElement, PlyListProperty


def write(path: Path, *elements: PlyElement, text: bool = False, byte_order: str = "<") -> Path:
    """Write elements as text or in a byte order, "<" or ">"."""
    layout = PlyData(list(elements), text=text, byte_order="=" if text else byte_order)
    stream = io.BytesIO()
    if text or byte_order == "<":
        layout.write(stream)
    else:
        stream.write((layout.header + "\n").encode())
        for element in elements:
            stream.write(b"".join(_row(element, row, byte_order) for row in element.data))
    path.write_bytes(stream.getvalue())
    return path


def _row(element: PlyElement, row: np.void, byte_order: str) -> bytes:
    parts = []
    for prop in element.properties:
        value = row[prop.name]
        if isinstance(prop, PlyListProperty):
            length, kind = prop.list_dtype(byte_order)
            parts += [np.array(len(value), length).tobytes(), np.asarray(value, kind).tobytes()]
        else:
            parts.append(np.array(value, prop.dtype(byte_order)).tobytes())
    return b"".join(parts)
