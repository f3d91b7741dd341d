"""Small clouds and voxel grids for the tests, and the slow plain forms the fast code is held against."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from runtime.arrays import Array
from runtime.manifest import EncoderSpec
from runtime.points import PointCloud, VoxelGrid


def random_cloud(seed: int, count: int, size: float = 3.0) -> PointCloud:
    rng = np.random.default_rng(seed)
    return PointCloud(rng.uniform(-size / 2, size / 2, (count, 3)), rng.integers(0, 256, (count, 3)) / 255.0)


def random_grid(seed: int, count: int, span: tuple[int, int, int] = (9, 7, 5)) -> Array:
    """`count` different cells in random order, int32 [count, 3]."""
    rng = np.random.default_rng(seed)
    cells = rng.permutation(int(np.prod(span)))[:count]
    return np.stack(np.unravel_index(cells, span), axis=1).astype(np.int32)


def random_voxels(seed: int, count: int, span: tuple[int, int, int] = (9, 7, 5)) -> VoxelGrid:
    rng = np.random.default_rng(seed)
    grid = random_grid(seed, count, span)
    coords = ((grid + rng.random(grid.shape)) * 0.1).astype(np.float32)
    features = np.concatenate([coords, rng.uniform(-1, 1, grid.shape).astype(np.float32)], axis=1)
    return VoxelGrid(grid=grid, features=features, coords=coords, min_extent=np.zeros(3), clamped=0)


def spec(**changes: object) -> EncoderSpec:
    """Three stages with patch sizes that differ and orders permuted, unless changed."""
    facts: dict[str, object] = {
        "in_channels": 6,
        "num_bins": 1280,
        "order": ("hilbert-trans", "z", "hilbert", "z-trans"),
        "stride": (2, 2),
        "depths": (2, 5, 3),
        "channels": (8, 8, 8),
        "heads": (2, 2, 2),
        "patch_sizes": (16, 8, 5),
        "mlp_ratio": 4,
    }
    return EncoderSpec(**facts | changes)  # type: ignore[arg-type]


def cell_groups(cells: Array) -> dict[tuple[int, ...], list[int]]:
    """Rows of each cell, ascending; cells in order of first appearance."""
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for row, cell in enumerate(cells.tolist()):
        groups[tuple(cell)].append(row)
    return groups


def fnv_key(cell: list[int]) -> int:
    key = 14695981039346656037
    for value in cell:
        key = (key * 1099511628211 % 2**64) ^ value
    return key


def z_code(x: int, y: int, z: int, depth: int) -> int:
    return sum(((value >> i) & 1) << (3 * i + 2 - axis) for axis, value in enumerate((x, y, z)) for i in range(depth))


def hilbert_code(x: int, y: int, z: int, depth: int) -> int:
    """Skilling's transform one bit at a time; bit 0 is the most significant."""
    bits = [[(value >> (depth - 1 - j)) & 1 for j in range(depth)] for value in (x, y, z)]
    for i in range(depth):
        for axis in range(3):
            for j in range(i + 1, depth):
                if bits[axis][i]:
                    bits[0][j] ^= 1
                else:
                    bits[0][j], bits[axis][j] = bits[axis][j], bits[0][j]
    code = parity = 0
    for i in range(depth):
        for axis in range(3):
            parity ^= bits[axis][i]
            code = code << 1 | parity
    return code


def scalar_codes(grid: Array, curve: str, depth: int) -> list[int]:
    one = hilbert_code if curve.startswith("hilbert") else z_code
    swap = curve.endswith("-trans")
    return [one(y, x, z, depth) if swap else one(x, y, z, depth) for x, y, z in grid.tolist()]


def dictionary_neighbours(grid: Array) -> Array:
    row_of = {tuple(cell): row for row, cell in enumerate(grid.tolist())}
    around = [(a - 1, b - 1, c - 1) for a in range(3) for b in range(3) for c in range(3)]
    rows = [
        [row_of.get((x + a, y + b, z + c), len(grid)) for a, b, c in around] for x, y, z in grid.tolist()
    ]  # fmt: skip
    return np.array(rows, dtype=np.int32)


def dictionary_mean(coords: Array, rows: list[int]) -> Array:
    total = np.zeros(3, dtype=np.float32)
    for row in rows:
        total = total + coords[row]
    return total / np.float32(len(rows))
