"""Rows taken from a table of floating point become rows of a quantized one, expanded as they are taken.

    Gather(W, ids, axis=0)   ->   com.microsoft.GatherBlockQuantized(rows, ids, scales, zero_points?)

where the weight file holds W [N, K] quantized. The result is exactly (code - zero_point) * scale in float32.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx
from onnx import TensorProto, helper

from export.graph.weights import WeightFile
from export.passes.common import MICROSOFT, Report, attributes, exchange, external_weight
from export.quantization.storage import QuantizedNames

Bits = Callable[[str], int | None]


def to_gather_block_quantized(model: onnx.ModelProto, weights: WeightFile, bits: Bits) -> Report:
    """Rewrite every Gather whose table has `bits`; the others are named in the report with the reason."""

    def match(node: onnx.NodeProto, tensors: dict[str, TensorProto]) -> str | None:
        return _mismatch(node, tensors, weights, bits)

    return exchange(model, "Gather", weights, match, lambda node: _replacement(node, weights, bits))


def _mismatch(node: onnx.NodeProto, tensors: dict[str, TensorProto], weights: WeightFile, bits: Bits) -> str | None:
    table = node.input[0]
    if reason := external_weight(table, tensors):
        return reason
    if (count := bits(table)) is None:
        return f"{table!r} is kept in floating point"
    if QuantizedNames.of(table, count).rows not in weights.records:
        return f"{table!r} is not in the weight file as a table with {count} bits"
    if tensors[table].data_type != TensorProto.FLOAT:
        return f"{table!r} is {TensorProto.DataType.Name(tensors[table].data_type)}, but FLOAT was expected"
    if (axis := attributes(node).get("axis", 0)) != 0:
        return f"axis is {axis}, but 0 was expected"
    return None


def _replacement(node: onnx.NodeProto, weights: WeightFile, bits: Bits) -> tuple[onnx.NodeProto, list[str]]:
    count = bits(node.input[0])
    assert count is not None
    names = QuantizedNames.of(node.input[0], count)
    blocks, width = weights.records[names.scales].shape[1], weights.records[names.rows].shape[1]
    points = [names.zero_points] if names.zero_points in weights.records else []
    new = helper.make_node(
        "GatherBlockQuantized",
        [names.rows, node.input[1], names.scales, *points],
        list(node.output),
        name=f"{node.output[0]}:GatherBlockQuantized",
        domain=MICROSOFT,
        gather_axis=0,
        quantize_axis=1,
        bits=count,
        block_size=width * 8 // count // blocks,
    )
    return new, [names.rows, names.scales, *points]
