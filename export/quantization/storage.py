"""Which weights of the language model are stored in how many bits, and under which names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from export.graph.weights import WeightFile
from export.quantization.blocks import quantize
from runtime.manifest import QuantizationSpec

EMBEDDINGS = "model.embed_tokens.weight"


@dataclass(frozen=True, slots=True)
class QuantizedNames:
    """The tensors of one quantized matrix in the weight file."""

    codes: str  # uint8 [N, K / block_size, block_size * bits / 8], the form of a product
    rows: str  # the same bytes as [N, K * bits / 8], the form of a table
    scales: str
    zero_points: str

    @classmethod
    def of(cls, weight: str, bits: int) -> QuantizedNames:
        return cls(*(f"{weight}.int{bits}.{part}" for part in ("codes", "rows", "scales", "zero_points")))


@dataclass(frozen=True, slots=True)
class Scheme:
    """A choice of quantization applied to a model."""

    quantization: QuantizationSpec
    tied: bool  # one matrix is the embeddings and the head

    def product_bits(self, weight: str) -> int | None:
        """Bits of a weight where it is a factor of a product; None keeps it in float32."""
        if weight == (EMBEDDINGS if self.tied else "lm_head.weight"):
            return self.quantization.head
        in_layer = weight.startswith("model.layers.") and weight.endswith("_proj.weight")
        return self.quantization.bits if in_layer else None

    def row_bits(self, weight: str) -> int | None:
        """Bits of a weight where it is a table whose rows are gathered."""
        return self.quantization.embeddings if weight == EMBEDDINGS else None

    def forms(self, weight: str) -> tuple[int | None, ...]:
        """The bits of every form in which a weight is stored; None is the float32 one."""
        if weight != EMBEDDINGS:
            return (self.product_bits(weight),)
        return tuple(dict.fromkeys([self.row_bits(weight), *([self.product_bits(weight)] if self.tied else [])]))


def store(weights: WeightFile, name: str, tensor: torch.Tensor, scheme: Scheme) -> None:
    """Append a weight in all its forms. One without a float32 form can be referred to until a pass replaces it."""
    for bits in (forms := scheme.forms(name)):
        if bits is None:
            weights.add(name, tensor)
        else:
            _store_quantized(weights, name, tensor, bits, scheme.quantization)
    if None not in forms:
        weights.leave_out(name, tensor.dtype, tuple(tensor.shape))


def stored_bytes(name: str, shape: Sequence[int], scheme: Scheme) -> int:
    """How many bytes `store` writes, without the padding between tensors."""
    return sum(_form_bytes(shape, bits, scheme.quantization) for bits in scheme.forms(name))


def _form_bytes(shape: Sequence[int], bits: int | None, quantization: QuantizationSpec) -> int:
    if bits is None:
        return 4 * math.prod(shape)
    rows, blocks = shape[0], shape[1] // quantization.block_size
    points = 0 if quantization.symmetric else -(-blocks * bits // 8)
    return rows * (shape[1] * bits // 8 + 4 * blocks + points)


def _store_quantized(
    weights: WeightFile, name: str, tensor: torch.Tensor, bits: int, quantization: QuantizationSpec
) -> None:
    names = QuantizedNames.of(name, bits)
    quantized = quantize(tensor, bits, quantization.block_size, quantization.symmetric)
    weights.add(names.codes, quantized.codes)
    if name == EMBEDDINGS:
        weights.add_view(names.rows, names.codes, tuple(quantized.codes.flatten(1).shape))
    weights.add(names.scales, quantized.scales)
    if quantized.zero_points is not None:
        weights.add(names.zero_points, quantized.zero_points)
