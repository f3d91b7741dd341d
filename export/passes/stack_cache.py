"""All cache tensors of a graph become one, for back ends that pay for every tensor at their border.

    inputs past_key.<l>, past_value.<l> [M, B, K, D]    ->   past [M, B, 2L*K, D], split inside
    outputs key.<l>, value.<l> [T, B, K, D]             ->   rows [T, B, 2L*K, D], joined inside

In a graph of some layers only, `past` is still that of all, and `keys` and `values` [T, B, layers*K, D] come out
instead of `rows`, of which they are two slices.

Keys of all layers come first, then values. Every prefix stays contiguous, and so does all that one token brings:
appending is one copy. TensorRT 8.6 puts a reformatting copy before or behind every cache tensor (docs/LOG.md).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import helper, numpy_helper

from export.graph.segments import Segment
from runtime.bundle import KEYS, PAST, ROWS, VALUES
from runtime.manifest import LanguageModelSpec

AXIS = 2  # heads


def stack_cache(model: onnx.ModelProto, spec: LanguageModelSpec) -> None:
    """Rewrite a prefill or decode graph in place. Raises ValueError where it has not the cache tensors of `spec`."""
    graph = model.graph
    names = _names("key", range(spec.layers)) + _names("value", range(spec.layers))
    _join(graph, names, ROWS, spec)
    if _has_past(graph):
        _declare_past(graph, names, spec)
        _split(graph, PAST, names)


def stack_segment(model: onnx.ModelProto, spec: LanguageModelSpec, segment: Segment) -> None:
    """The same for the graph of a segment. Raises ValueError where it has not the segment's cache tensors."""
    graph = model.graph
    parts = {"key": KEYS, "value": VALUES}
    for kind, name in parts.items():
        _join(graph, _names(kind, segment.range), name, spec)
    if not _has_past(graph):
        return
    _declare_past(graph, [name for kind in parts for name in _names(kind, segment.range)], spec)
    for place, (kind, name) in enumerate(parts.items()):
        _split(graph, f"{PAST}.{name}", _names(kind, segment.range))
        _slice(graph, f"{PAST}.{name}", segment, spec, first=place * spec.layers)


def _names(kind: str, layers: Iterable[int]) -> list[str]:
    return [f"{kind}.{layer}" for layer in layers]


def _has_past(graph: onnx.GraphProto) -> bool:
    return any(tensor.name.startswith("past_key.") for tensor in graph.input)


def _join(graph: onnx.GraphProto, names: list[str], joined: str, spec: LanguageModelSpec) -> None:
    first = _take(graph.output, names, spec)
    graph.node.append(helper.make_node("Concat", names, [joined], name=f"{joined}:Concat", axis=AXIS))
    graph.output.append(_stacked(joined, first, len(names) * spec.kv_heads))


def _declare_past(graph: onnx.GraphProto, names: list[str], spec: LanguageModelSpec) -> None:
    first = _take(graph.input, [f"past_{name}" for name in names], spec)
    graph.input.append(_stacked(PAST, first, 2 * spec.layers * spec.kv_heads))


def _split(graph: onnx.GraphProto, joined: str, names: list[str]) -> None:
    # Opset 17 splits evenly by the number of outputs when no sizes are given.
    outputs = [f"past_{name}" for name in names]
    graph.node.insert(0, helper.make_node("Split", [joined], outputs, name=f"{joined}:Split", axis=AXIS))


def _slice(graph: onnx.GraphProto, name: str, segment: Segment, spec: LanguageModelSpec, first: int) -> None:
    """The heads of a segment's keys or values, of which those of all layers begin at layer `first` of `past`."""
    bounds = {"start": first + segment.first, "end": first + segment.last}
    values = {f"{name}:{end}": np.array([layer * spec.kv_heads], np.int64) for end, layer in bounds.items()}
    values[f"{name}:axis"] = np.array([AXIS], np.int64)
    graph.initializer.extend(numpy_helper.from_array(value, key) for key, value in values.items())
    graph.node.insert(0, helper.make_node("Slice", [PAST, *values], [name], name=f"{name}:Slice"))


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


def _stacked(name: str, like: onnx.ValueInfoProto, heads: int) -> onnx.ValueInfoProto:
    stacked = onnx.ValueInfoProto()
    stacked.CopyFrom(like)
    stacked.name = name
    stacked.type.tensor_type.shape.dim[AXIS].dim_value = heads
    return stacked
