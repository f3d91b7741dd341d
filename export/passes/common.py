"""What the passes share: finding weights, exchanging nodes, and the report of what was done."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import onnx
from onnx import TensorProto, helper

from export.graph.weights import NOT_STORED, WeightFile

MICROSOFT = "com.microsoft"  # the domain of ONNX Runtime's own operators


@dataclass(slots=True)
class Report:
    """What a pass replaced and what it left, by the name of the node."""

    replaced: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)  # node -> why it did not match


Match = Callable[[onnx.NodeProto, dict[str, TensorProto]], str | None]  # why a node does not match, or None
Replace = Callable[[onnx.NodeProto], tuple[onnx.NodeProto, list[str]]]  # the new node and the weights it reads


def exchange(model: onnx.ModelProto, kind: str, weights: WeightFile, match: Match, replace: Replace) -> Report:
    """Replace each node of a kind that matches; initializers that nothing reads any more go."""
    report, graph = Report(), model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for index, node in enumerate(graph.node):
        if node.op_type != kind or node.domain:
            continue
        if reason := match(node, tensors):
            report.left[node.name] = reason
            continue
        new, read = replace(node)
        graph.node[index].CopyFrom(new)
        tensors |= {name: weights.tensor_proto(name) for name in read if name not in tensors}
        report.replaced.append(new.name)
    if report.replaced:
        _use_domain(model)
        _keep_read(graph, tensors.values())
    return report


def external_weight(name: str, tensors: dict[str, TensorProto]) -> str | None:
    """Why a value is no weight of the external file, or None."""
    if name not in tensors:
        return f"{name!r} is computed, not stored"
    if tensors[name].data_location != TensorProto.EXTERNAL:
        return f"{name!r} lies in the graph itself, not in the weight file"
    return None


def attributes(node: onnx.NodeProto) -> dict[str, object]:
    """The attributes that are set."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def refuse_left_out(model: onnx.ModelProto, reports: Iterable[Report]) -> None:
    """Raise ValueError if a node still reads a weight that was not stored, and say why it was not replaced."""
    missing = {
        tensor.name
        for tensor in model.graph.initializer
        if any(entry.key == "location" and entry.value == NOT_STORED for entry in tensor.external_data)
    }
    reasons = {name: reason for report in reports for name, reason in report.left.items()}
    for node in model.graph.node:
        if lost := missing.intersection(node.input):
            raise ValueError(f"{node.name} reads {min(lost)!r}, which is not stored: {reasons.get(node.name)}")


def _use_domain(model: onnx.ModelProto) -> None:
    if MICROSOFT not in {opset.domain for opset in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))


def _keep_read(graph: onnx.GraphProto, tensors: Iterable[TensorProto]) -> None:
    read = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in tensors if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
