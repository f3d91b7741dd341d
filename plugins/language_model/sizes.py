"""What the general kernels ask of a model, and how large its tensors are: launch.cpp and shell/facts.cpp in words."""

from __future__ import annotations

from collections.abc import Iterator

from plugins.decode_step.sizes import Sizes

HEAD_DIM, MAX_LAYERS, MAX_HIDDEN, EIGHT = 64, 64, 4096, 8
MAX_INNER, MAX_HEADS = 1 << 18, 256
MOST_VALUES = 2**31 - 1  # of a tensor, in TensorRT 8.6; the weight file is one
OFFSET_BYTES = 16  # the unit of offsets into it
FIRST_TENSORS = ("embedding", "final_norm", "head")  # then those of each layer (arguments.py)


def misfit(sizes: Sizes) -> str | None:
    """Why the kernels cannot run a model, or None."""
    checks = {
        f"heads have {sizes.head_dim} channels, but {HEAD_DIM} were expected": sizes.head_dim == HEAD_DIM,
        f"{sizes.heads} query heads share {sizes.kv_heads} key heads, but a multiple of these was expected": (
            sizes.kv_heads >= 1 and sizes.heads >= 1 and sizes.heads % sizes.kv_heads == 0
        ),
        f"there are {sizes.heads} query heads, but at most {MAX_HEADS} were expected": sizes.heads <= MAX_HEADS,
        f"the hidden state has {sizes.hidden} channels, but a multiple of {EIGHT} up to {MAX_HIDDEN} was expected": (
            EIGHT <= sizes.hidden <= MAX_HIDDEN and sizes.hidden % EIGHT == 0
        ),
        f"the inner size is {sizes.intermediate}, but a multiple of {EIGHT} up to {MAX_INNER} was expected": (
            EIGHT <= sizes.intermediate <= MAX_INNER and sizes.intermediate % EIGHT == 0
        ),
        f"there are {sizes.layers} layers, but 1 to {MAX_LAYERS} were expected": 1 <= sizes.layers <= MAX_LAYERS,
    }
    return next((reason for reason, holds in checks.items() if not holds), None)


def call_misfit(sizes: Sizes, batch: int, rows: int, past_rows: int) -> str | None:
    """Why `batch` sequences of so many new rows, over so many of a cache, are too much for one call, or None."""
    cached = 2 * sizes.layers * sizes.kv_heads * sizes.head_dim
    widest = max(2 * sizes.intermediate, cached, sizes.heads * sizes.head_dim)
    if batch * rows * widest > MOST_VALUES:
        return f"{batch:,} x {rows:,} new rows of {widest:,} values are more than the {MOST_VALUES:,} of one buffer"
    if batch * past_rows * cached > MOST_VALUES:
        return f"a cache of {batch:,} x {past_rows:,} rows of {cached:,} values has more than {MOST_VALUES:,}"
    return None


def tensor_values(sizes: Sizes) -> Iterator[int]:
    """How many values each tensor has, in the order of the offsets; 0 for a qkv_bias that is not there."""
    hidden, queries = sizes.hidden, sizes.heads * sizes.head_dim
    yield from (sizes.vocabulary * hidden, hidden, sizes.vocabulary * hidden)
    bias = sizes.qkv_rows if sizes.qkv_bias else 0
    layer = (hidden, sizes.qkv_rows * hidden, bias, hidden * queries, hidden)
    for _ in range(sizes.layers):
        yield from (*layer, 2 * hidden * sizes.intermediate, hidden * sizes.intermediate)
