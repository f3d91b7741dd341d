"""Space-filling curves: a number for each voxel, so that voxels near on the curve are near in space."""

from __future__ import annotations

import numpy as np

from runtime.arrays import Array

CURVES = ("z", "z-trans", "hilbert", "hilbert-trans")


def curve_depth(grid: Array) -> int:
    """Bits per axis for a grid [N, 3]: those of the largest coordinate plus one, as the encoder was trained."""
    return int(int(grid.max()) + 1).bit_length()


def curve_codes(grid: Array, curve: str, depth: int) -> Array:
    """Position of each voxel on a curve, int64 [N], from a grid [N, 3] of coordinates below 2 ** depth.

    `z` interleaves the bits of x, y, z; `hilbert` follows J. Skilling, "Programming the Hilbert curve" (2004);
    `-trans` swaps x and y first. `depth` is at most 21 (3 * 21 bits in an int64).
    """
    if curve not in CURVES:
        raise ValueError(f"unknown curve {curve!r}, expected one of {', '.join(CURVES)}")
    assert depth <= 21, f"{depth} bits per axis do not fit an int64"
    x, y, z = (grid[:, axis].astype(np.int64) for axis in range(3))
    if curve.endswith("-trans"):
        x, y = y, x
    return _hilbert(x, y, z, depth) if curve.startswith("hilbert") else _interleave(x, y, z)


def _interleave(x: Array, y: Array, z: Array) -> Array:
    """Bit i of x, y, z becomes bit 3i + 2, 3i + 1, 3i."""
    return _spread(x) << 2 | _spread(y) << 1 | _spread(z)


def _spread(value: Array) -> Array:
    """Move bit i of each number (21 bits) to bit 3i, halving the groups that move together."""
    value = (value | value << 32) & 0x1F00000000FFFF
    value = (value | value << 16) & 0x1F0000FF0000FF
    value = (value | value << 8) & 0x100F00F00F00F00F
    value = (value | value << 4) & 0x10C30C30C30C30C3
    spread: Array = (value | value << 2) & 0x1249249249249249
    return spread


def _hilbert(x: Array, y: Array, z: Array, depth: int) -> Array:
    """From the top bit down, undo the turns of each cube; the interleaved bits are then the position's Gray code."""
    axes = [axis.astype(np.int32) for axis in (x, y, z)]
    for bit in range(depth - 1, 0, -1):  # bit 0 has no lower bits to turn
        lower = np.int32((1 << bit) - 1)
        for axis in axes:
            is_set = -(axis >> bit & 1)  # all ones where the bit is 1
            exchange = (axes[0] ^ axis) & lower & ~is_set
            axis ^= exchange
            axes[0] ^= exchange | (lower & is_set)
    return _gray_to_binary(_interleave(*(axis.astype(np.int64) for axis in axes)), 3 * depth)


def _gray_to_binary(code: Array, bits: int) -> Array:
    """Each bit becomes the parity of itself and all bits above it."""
    shift = 1
    while shift < bits:
        code = code ^ code >> shift
        shift *= 2
    return code
