from __future__ import annotations

import numpy as np
import pytest

from runtime.points import CURVES, curve_codes, curve_depth
from tests.points.scenes import scalar_codes

CHECK_VALUES = {
    11: (
        [[1279, 7, 640], [100, 50, 25]],
        {
            "z": [4440869302, 1258257],
            "z-trans": [2288592310, 742049],
            "hilbert": [8000035602, 853757],
            "hilbert-trans": [3401880064, 459643],
        },
    ),
    4: (
        [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [5, 3, 6]],
        {
            "z": [0, 4, 2, 1, 350],
            "z-trans": [0, 2, 4, 1, 238],
            "hilbert": [0, 7, 3, 1, 304],
            "hilbert-trans": [0, 3, 7, 1, 390],
        },
    ),
}


@pytest.mark.parametrize("depth", CHECK_VALUES)
@pytest.mark.parametrize("curve", CURVES)
def test_check_values(depth: int, curve: str) -> None:
    points, codes = CHECK_VALUES[depth]
    got = curve_codes(np.array(points, dtype=np.int32), curve, depth)
    assert got.dtype == np.int64
    assert got.tolist() == codes[curve] == scalar_codes(np.array(points), curve, depth)


@pytest.mark.parametrize("depth", [1, 2, 5, 11, 16, 21])
@pytest.mark.parametrize("curve", CURVES)
def test_codes_are_the_bit_by_bit_form(depth: int, curve: str) -> None:
    grid = np.random.default_rng(depth).integers(0, 2**depth, (60, 3))
    grid[0] = 2**depth - 1
    assert curve_codes(grid, curve, depth).tolist() == scalar_codes(grid, curve, depth)


@pytest.mark.parametrize("curve", ["hilbert", "hilbert-trans"])
def test_a_step_on_the_hilbert_curve_is_a_step_in_space(curve: str) -> None:
    grid = np.stack(np.meshgrid(*[np.arange(8)] * 3), axis=-1).reshape(-1, 3)
    codes = curve_codes(grid, curve, 3)
    assert sorted(codes.tolist()) == list(range(512))
    steps = np.abs(np.diff(grid[np.argsort(codes)], axis=0)).sum(axis=1)
    assert (steps == 1).all()


@pytest.mark.parametrize(("largest", "depth"), [(0, 1), (1, 2), (99, 7), (127, 8), (1279, 11)])
def test_depth(largest: int, depth: int) -> None:
    assert curve_depth(np.array([[0, 0, 0], [0, largest, 0]])) == depth


def test_unknown_curve() -> None:
    with pytest.raises(ValueError, match=r"unknown curve 'peano', expected one of z, z-trans"):
        curve_codes(np.zeros((1, 3), dtype=np.int32), "peano", 3)
