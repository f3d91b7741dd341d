"""Products with a weight of floating point become products with a quantized one.

    Gemm(x, W, bias?, transB=1)   ->   com.microsoft.MatMulNBits(x, codes, scales, zero_points?, "", bias?)

where the weight file holds W [N, K] quantized. x is [R, K], as in every product of our graphs.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx
from onnx import TensorProto, helper

from export.graph.weights import WeightFile
from export.passes.common import MICROSOFT, Report, attributes, exchange, external_weight
from export.quantization.storage import QuantizedNames

# 4 rounds x to int8 block by block. Beside the error of four-bit weights that is nothing; to the small one of eight-bit
# weights it adds 40 %. Without it ONNX Runtime has no kernel for eight bits on x86 (it expands the weights on every
# call, hundreds of times slower for one row), and its kernel for four bits takes three times as long.
ACCURACY_LEVEL = 4
PLAIN = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 1}

Bits = Callable[[str], int | None]


def to_matmul_nbits(model: onnx.ModelProto, weights: WeightFile, bits: Bits) -> Report:
    """Rewrite every Gemm whose weight has `bits`; the others are named in the report with the reason."""

    def match(node: onnx.NodeProto, tensors: dict[str, TensorProto]) -> str | None:
        return _mismatch(node, tensors, weights, bits)

    return exchange(model, "Gemm", weights, match, lambda node: _replacement(node, weights, bits))


def _mismatch(node: onnx.NodeProto, tensors: dict[str, TensorProto], weights: WeightFile, bits: Bits) -> str | None:
    weight = node.input[1]
    if reason := external_weight(weight, tensors):
        return reason
    if (count := bits(weight)) is None:
        return f"{weight!r} is kept in floating point"
    if QuantizedNames.of(weight, count).codes not in weights.records:
        return f"{weight!r} is not in the weight file with {count} bits"
    if tensors[weight].data_type != TensorProto.FLOAT:
        return f"{weight!r} is {TensorProto.DataType.Name(tensors[weight].data_type)}, but FLOAT was expected"
    found = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0} | attributes(node)
    if wrong := [name for name, value in PLAIN.items() if found[name] != value]:
        return ", ".join(f"{name} is {found[name]}, but {PLAIN[name]} was expected" for name in wrong)
    return None


def _replacement(node: onnx.NodeProto, weights: WeightFile, bits: Bits) -> tuple[onnx.NodeProto, list[str]]:
    count = bits(node.input[1])
    assert count is not None
    names = QuantizedNames.of(node.input[1], count)
    rows, blocks, width = weights.records[names.codes].shape
    block_size = width * 8 // count
    points = names.zero_points if names.zero_points in weights.records else ""
    bias = ["", node.input[2]] if len(node.input) > 2 and node.input[2] else []  # "": the place of g_idx
    inputs = [node.input[0], names.codes, names.scales, points, *bias]
    new = helper.make_node(
        "MatMulNBits",
        inputs if bias or points else inputs[:3],
        list(node.output),
        name=f"{node.output[0]}:MatMulNBits",
        domain=MICROSOFT,
        K=blocks * block_size,
        N=rows,
        bits=count,
        block_size=block_size,
        accuracy_level=ACCURACY_LEVEL,
    )
    return new, [name for name in (names.codes, names.scales, points) if name]
