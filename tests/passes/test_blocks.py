"""The arithmetic of quantization, against its definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from export.quantization.blocks import PIECE, dequantize, quantize
from tests.compare import EXACT, Tol, assert_close
from tests.passes.blocks import CASES, expand, matrix


@pytest.mark.parametrize(("bits", "block_size", "symmetric"), CASES)
def test_codes_stand_for_the_nearest_values(bits: int, block_size: int, symmetric: bool) -> None:
    weight = matrix(7, 3 * block_size)
    quantized = quantize(torch.from_numpy(weight), bits, block_size, symmetric)
    assert quantized.codes.shape == (7, 3, block_size * bits // 8)
    assert quantized.scales.shape == (7, 3)
    points = None if quantized.zero_points is None else quantized.zero_points.numpy()
    got = expand(quantized.codes.numpy(), quantized.scales.numpy(), points, bits)
    assert_close("dequantize", dequantize(quantized, bits), got, EXACT)
    step = np.repeat(np.abs(quantized.scales.numpy()), block_size, axis=1)
    # Half a step, but where the grid ends: symmetric codes have one step less on one side, and rounding a zero point
    # shifts the grid by up to half a step.
    assert (np.abs(got - weight) <= step * (1.0 + 1e-5)).all()
    assert (np.abs(got - weight) <= step * 0.5001).mean() > 0.97


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [8, 4])
def test_what_has_a_code_comes_back_exactly(bits: int, symmetric: bool) -> None:
    """Weights that are codes times a power of two, both ends of the range among them."""
    top = 2**bits - 1
    codes = np.random.default_rng(0).integers(0, top + 1, (5, 2, 32))
    codes[..., 0], codes[..., 1] = 0, top
    weight = ((codes - 2 ** (bits - 1)) * 0.25).astype(np.float32).reshape(5, 64)
    got = dequantize(quantize(torch.from_numpy(weight), bits, 32, symmetric), bits)
    assert_close("weights", got, weight, EXACT)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [8, 4])
def test_zero_stays_zero(bits: int, symmetric: bool) -> None:
    weight = matrix(6, 64)
    weight[:, ::5] = 0
    got = dequantize(quantize(torch.from_numpy(weight), bits, 32, symmetric), bits).numpy()
    assert (got[:, ::5] == 0).all()
    assert (got[1] == 0).all(), "a row of zeros"


@pytest.mark.parametrize(("bits", "most"), [(8, 0.006), (4, 0.09)])
def test_the_error_is_what_the_bits_allow(bits: int, most: float) -> None:
    """Normal weights, blocks of 32; zero points gain on symmetric codes at either width."""
    weight = np.random.default_rng(0).standard_normal((400, 256)).astype(np.float32)
    errors = {}
    for symmetric in (True, False):
        got = dequantize(quantize(torch.from_numpy(weight), bits, 32, symmetric), bits).numpy()
        errors[symmetric] = float(np.sqrt(((got - weight) ** 2).mean()))
    assert errors[False] < 0.95 * errors[True] < errors[True] < most


def test_a_matrix_of_several_pieces_is_that_of_one() -> None:
    weight = torch.from_numpy(matrix(9, 64))
    long = weight.repeat(PIECE // weight.numel() + 2, 1)
    quantized = quantize(long, 4, 32, False)
    start = len(long) - 9
    assert_close("last rows", dequantize(quantized, 4)[start:], dequantize(quantize(weight, 4, 32, False), 4), EXACT)


def test_four_bit_codes_are_packed_low_half_first() -> None:
    weight = torch.arange(-8, 8, dtype=torch.float32)[None]  # as codes: 0, 1, ..., 15, with a scale of 1
    quantized = quantize(weight, 4, 16, True)
    assert quantized.codes.flatten().tolist() == [low | (low + 1) << 4 for low in range(0, 16, 2)]
    assert_close("scale", quantized.scales, [[1.0]], Tol(0.0, why="8 / 8"))
