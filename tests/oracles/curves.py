"""Serialization codes of one voxel, bit by bit in plain integers."""

from __future__ import annotations

Cell = tuple[int, int, int]


def curve_code(curve: str, cell: Cell, depth: int) -> int:
    """Place of a cell along a curve; "-trans" curves swap x and y first."""
    x, y, z = cell
    if curve.endswith("-trans"):
        x, y = y, x
    kind = curve.removesuffix("-trans")
    return {"z": z_code, "hilbert": hilbert_code}[kind]((x, y, z), depth)


def z_code(cell: Cell, depth: int) -> int:
    """Bit i of x, y, z becomes bit 3i + 2, 3i + 1, 3i."""
    code = 0
    for i in range(depth):
        for axis, coordinate in enumerate(cell):
            code |= (coordinate >> i & 1) << (3 * i + 2 - axis)
    return code


def hilbert_code(cell: Cell, depth: int) -> int:
    """Skilling's transform: bits[axis][0] is the most significant bit of an axis."""
    bits = [[coordinate >> (depth - 1 - j) & 1 for j in range(depth)] for coordinate in cell]
    for i in range(depth):
        for axis in range(3):
            for j in range(i + 1, depth):
                if bits[axis][i]:
                    bits[0][j] = 1 - bits[0][j]
                else:
                    bits[0][j], bits[axis][j] = bits[axis][j], bits[0][j]
    code = parity = 0
    for i in range(depth):
        for axis in range(3):
            parity ^= bits[axis][i]
            code = code << 1 | parity
    return code
