"""What a launch of the decode kernel is given: `StepArguments` of kernel.cuh, and buffers that the grid writes into."""

from __future__ import annotations

import ctypes

from plugins.decode_step.sizes import Sizes

SPLITS, COPIES = 16, 4  # of the kernel, at most
FLAGGED = 8  # bytes of a value with the turn in which it was written
LAYER_FIELDS = ("input_norm", "qkv", "qkv_bias", "o", "post_norm", "gate_up", "down")  # addresses, one row a layer
STATE_FIELDS = ("turns", "token", "past_length", "tokens", "logits")
BUFFERS = ("hidden_in", "hidden_mid", "qkv", "mixed", "peaks", "activation", "bests")


class StepArguments(ctypes.Structure):
    """Addresses on the device, in the order of the kernel's struct."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("layers", "embedding", "final_norm", "head", "past")),
        *((name, ctypes.c_void_p) for name in ("cos_table", "sin_table", *BUFFERS, *STATE_FIELDS)),
        ("steps", ctypes.c_int),
        ("marks", ctypes.c_void_p),
        ("rows", ctypes.c_void_p),
        ("past_rows", ctypes.c_int),
    ]


def buffer_bytes(sizes: Sizes, blocks: int) -> dict[str, int]:
    """How large each buffer is. All are zeros before the first launch, and never touched between launches."""
    values = {
        "hidden_in": COPIES * sizes.hidden,
        "hidden_mid": COPIES * sizes.hidden,
        "qkv": sizes.qkv_rows,
        "mixed": COPIES * sizes.heads * SPLITS * sizes.head_dim // 2,
        "peaks": COPIES * sizes.heads * SPLITS * 2,
        "activation": COPIES * sizes.intermediate // 2,
        "bests": 2 * blocks,
    }
    return {name: FLAGGED * count for name, count in values.items()}
