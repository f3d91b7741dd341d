"""What can be chosen, and what is refused. Imports nothing heavy: the command line reads it."""

from __future__ import annotations

from runtime.errors import SceneError
from runtime.manifest import LanguageModelSpec, QuantizationSpec

BITS = {"int8": 8, "int4": 4}
KEPT = "none"  # of the head or the embeddings: stays in float32
BLOCK_SIZES = (16, 32, 64, 128, 256)  # what MatMulNBits takes
DEFAULT_BLOCK_SIZE = 32
DEFAULT_HEAD = "int8"  # under either preset: what the head gets wrong, no later layer can mend


def quantization_spec(
    preset: str, block_size: int = DEFAULT_BLOCK_SIZE, head: str | None = None, embeddings: str | None = None
) -> QuantizationSpec:
    """The choice by names; `embeddings` follow the head unless told, so that tied ones share a tensor."""
    head = head or DEFAULT_HEAD
    return QuantizationSpec(
        bits=BITS[preset],
        block_size=block_size,
        symmetric=False,  # zero points cost 3 % of the size and no time, and take a tenth off the error of the logits
        head=BITS.get(head),
        embeddings=BITS.get(embeddings or head),
    )


def check_quantization(quantization: QuantizationSpec, spec: LanguageModelSpec, precision: str) -> None:
    """Raise SceneError, before anything is written, for what the graphs cannot be rewritten to."""
    if precision != "fp32":
        raise SceneError(
            f"--quantization works on --precision fp32, but {precision} was asked for: the CPU computes between "
            f"quantized products in float32. Leave one of the two out."
        )
    if quantization.block_size not in BLOCK_SIZES:
        raise SceneError(
            f"--block_size is {quantization.block_size}, but it is one of {', '.join(map(str, BLOCK_SIZES))}."
        )
    sizes = {
        "hidden size": spec.hidden_size,
        "width of all heads": spec.heads * spec.head_dim,
        "intermediate size": spec.intermediate_size,
    }
    fitting = [size for size in BLOCK_SIZES if not any(width % size for width in sizes.values())]
    for name, width in sizes.items():
        if width % quantization.block_size:
            raise SceneError(
                f"--block_size {quantization.block_size} does not divide the model's {name}, {width}. "
                + (f"Choose from {', '.join(map(str, fitting))}." if fitting else "This model cannot be quantized.")
            )
