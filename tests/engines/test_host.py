"""Memory in RAM: views share it, scattered rows land one by one."""

from __future__ import annotations

import numpy as np

from runtime.engines.host import HostMemory
from tests.compare import EXACT, assert_close


def test_views_share_their_memory() -> None:
    memory = HostMemory()
    slab = memory.zeros((3, 4, 2), "float32")
    view = slab[1][2:4]
    assert (view.shape, view.dtype) == ((2, 2), "float32")
    memory.copy(memory.upload(np.ones((2, 2), np.float32)), view)
    want = np.zeros((3, 4, 2))
    want[1, 2:4] = 1
    assert_close("slab", memory.download(slab), want, EXACT)


def test_uploaded_views_become_contiguous() -> None:
    array = np.arange(12).reshape(3, 4).T
    tensor = HostMemory().upload(array)
    assert tensor.array.flags.c_contiguous
    assert_close("array", tensor.array, array, EXACT)


def test_rows_are_scattered_behind_each_start() -> None:
    memory = HostMemory()
    rows = np.random.default_rng(0).normal(size=(4, 3, 2, 5, 6))  # [X, T, B, K, D]
    target = memory.zeros((4, 9, 2, 5, 6), "float64")
    memory.scatter_rows(memory.upload(rows), target, [6, 0])
    want = np.zeros((4, 9, 2, 5, 6))
    for row in range(3):
        want[:, 6 + row, 0] = rows[:, row, 0]
        want[:, row, 1] = rows[:, row, 1]
    assert_close("target", target.array, want, EXACT)
