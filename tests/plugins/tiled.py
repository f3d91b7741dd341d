"""Tiled products on the CPU: run_tiled.cpp as a library of the host's compiler."""

from __future__ import annotations

import ctypes
import re
import subprocess
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np

from tests.plugins.halves import Array
from tests.plugins.small import HERE

TILING = (HERE.parents[1] / "plugins" / "language_model" / "tiling.h").read_text()
CLUSTERS = {"alone": (1, 1), "across": (2, 1), "along": (1, 2)}  # blocks along tokens, along channels
SHARED_BYTES = 227 << 10  # that a block may have on compute capability 9.0


def _numbers(pattern: str) -> tuple[int, ...]:
    """Of the header, so that no width is left out here."""
    found = re.search(pattern, TILING)
    assert found is not None, pattern
    return tuple(map(int, found[1].split(",")))


WIDTHS = _numbers(r"WIDTHS\[\] = \{(.+?)\}")
(MOST,) = _numbers(r"most_width\(Kind kind\) \{ return kind == SUMS \? 256 : (\d+); \}")  # of other kinds


class Kind(IntEnum):
    SUMS = 0
    GATED = 1
    ROTATED = 2

    @property
    def widths(self) -> Sequence[int]:
        return [width for width in WIDTHS if self == Kind.SUMS or width <= MOST]

    @property
    def channels(self) -> int:
        """Of a tile."""
        return 64 if self == Kind.GATED else 128


class Cut(ctypes.Structure):
    """`Cut` of run_tiled.cpp."""

    _fields_ = [(name, ctypes.c_int) for name in ("width", "splits", "across", "along", "multiprocessors")]


class Rotation(ctypes.Structure):
    """`Rotation` of run_tiled.cpp: addresses, null (None) where there is no bias, no mask."""

    _fields_ = [
        *(
            (name, ctypes.c_void_p)
            for name in ("bias", "cos_3d", "sin_3d", "cos_1d", "sin_1d", "point_mask", "queries", "keys", "values")
        ),
        *((name, ctypes.c_int) for name in ("batch", "rows", "heads", "kv_heads", "row_stride")),
    ]


class Tiling(ctypes.Structure):
    """`Tiling` of tiling.h."""

    _fields_ = [
        *((n, ctypes.c_int) for n in ("width", "splits", "across", "along", "rows", "columns", "steps", "clusters")),
        ("cycles", ctypes.c_longlong),
    ]


class Guarded:
    """An array of ones in all bits (NaN, in whatever type of float), with more of them on both sides."""

    GUARD = 4096  # values

    def __init__(self, shape: Sequence[int], dtype: Any) -> None:
        size = int(np.prod(shape))
        self._all = np.full((size + 2 * self.GUARD) * np.dtype(dtype).itemsize, 0xFF, np.uint8).view(dtype)
        self.array: Array = self._all[self.GUARD : -self.GUARD].reshape(shape)

    def assert_ends_untouched(self) -> None:
        around = (self._all[: self.GUARD], self._all[-self.GUARD :])
        assert all((side.view(np.uint8) == 0xFF).all() for side in around), "written beyond its ends"


def compiled(source: str, folder: Path, *, bf16: bool = False) -> Any:
    """A file of this folder over the kernels."""
    library = folder / f"{Path(source).stem}.so"
    options = ["-std=c++17", "-O1", "-w", "-fno-strict-aliasing", "-U_FORTIFY_SOURCE", "-fPIC", "-shared"]
    folders = [f"-I{HERE}", f"-I{HERE / 'no_cuda'}", f"-I{HERE.parents[1] / 'plugins'}"]
    command = ["g++", *options, *folders, f"-DHALF_IS_BF16={bf16:d}", str(HERE / source), "-o", str(library)]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(library))


def run_tiled(
    library: Any,
    kind: Kind,
    weight: Array,
    given: Array,
    made: Array | None,
    cut: Cut,
    rotation: Rotation | None = None,
    seed: int = 0,
) -> int:
    """Of bits: weight [out, in] (gated: [2 * out, in]), given [tokens, in]. How many tiles a block has had at most."""
    out = len(weight) // (2 if kind == Kind.GATED else 1)
    to = None if made is None else ctypes.c_void_p(made.ctypes.data)
    start, given_start = ctypes.c_void_p(weight.ctypes.data), ctypes.c_void_p(given.ctypes.data)
    rotate = None if rotation is None else ctypes.byref(rotation)
    sizes = (int(kind), out, weight.shape[1], len(given))
    tiles: int = library.run_tiled(start, given_start, to, rotate, *sizes, ctypes.byref(cut), seed)
    assert tiles > 0, f"no kernel for a {kind.name} product of tiles of {cut.width} tokens"
    return tiles
