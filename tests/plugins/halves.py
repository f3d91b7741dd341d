"""Half precision in numpy: fp16 as it is, bf16 as the bits of a float32's upper half."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def to_bits(values: Array, bf16: bool) -> Array:
    """Rounded to the nearest, ties to even; uint16."""
    if not bf16:
        return values.astype(np.float16).view(np.uint16)
    bits = values.astype(np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)


def from_bits(bits: Array, bf16: bool) -> Array:
    """float64."""
    if not bf16:
        return bits.view(np.float16).astype(np.float64)
    return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
