"""All cache tensors of a graph become one, for back ends that pay for every tensor at their border.

    inputs past_key.<l>, past_value.<l> [M, B, K, D]    ->   past [M, B, 2L*K, D], split inside
    outputs key.<l>, value.<l> [T, B, K, D]             ->   rows [T, B, 2L*K, D], joined inside

Keys of all layers come first, then values. Every prefix stays contiguous, and so does all that one token brings:
appending is one copy. TensorRT 8.6 puts a reformatting copy before or behind every cache tensor (docs/LOG.md).
"""

from __future__ import annotations

import onnx
from onnx import helper

from runtime.bundle import PAST, ROWS
from runtime.manifest import LanguageModelSpec

AXIS = 2  # heads


def stack_cache(model: onnx.ModelProto, spec: LanguageModelSpec) -> None:
    """Rewrite a prefill or decode graph in place. Raises ValueError where it has not the cache tensors of `spec`."""
    graph = model.graph
    names = [f"{kind}.{layer}" for kind in ("key", "value") for layer in range(spec.layers)]
    _stack_outputs(graph, names, spec)
    if any(tensor.name.startswith("past_key.") for tensor in graph.input):
        _stack_inputs(graph, [f"past_{name}" for name in names], spec)


def _stack_outputs(graph: onnx.GraphProto, names: list[str], spec: LanguageModelSpec) -> None:
    first = _take(graph.output, names, spec)
    graph.node.append(helper.make_node("Concat", names, [ROWS], name=f"{ROWS}:Concat", axis=AXIS))
    graph.output.append(_stacked(ROWS, first, spec))


def _stack_inputs(graph: onnx.GraphProto, names: list[str], spec: LanguageModelSpec) -> None:
    first = _take(graph.input, names, spec)
    graph.input.append(_stacked(PAST, first, spec))
    # Opset 17 splits evenly by the number of outputs when no sizes are given.
    graph.node.insert(0, helper.make_node("Split", [PAST], names, name=f"{PAST}:Split", axis=AXIS))


def _take(tensors: object, names: list[str], spec: LanguageModelSpec) -> onnx.ValueInfoProto:
    """Remove the named tensors from a graph's inputs or outputs; returns the first, which all are like."""
    found = {tensor.name: tensor for tensor in tensors}  # type: ignore[attr-defined]
    if missing := [name for name in names if name not in found]:
        raise ValueError(f"the graph has no tensor {missing[0]!r}, but one for each of {spec.layers} layers is needed")
    first = onnx.ValueInfoProto()
    first.CopyFrom(found[names[0]])
    for name in names:
        tensors.remove(found[name])  # type: ignore[attr-defined]
    return first


def _stacked(name: str, like: onnx.ValueInfoProto, spec: LanguageModelSpec) -> onnx.ValueInfoProto:
    stacked = onnx.ValueInfoProto()
    stacked.CopyFrom(like)
    stacked.name = name
    stacked.type.tensor_type.shape.dim[AXIS].dim_value = 2 * spec.layers * spec.kv_heads
    return stacked
