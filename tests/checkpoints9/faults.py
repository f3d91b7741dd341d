"""Faults planted in a copy of a bundle: in its graph with taps, in its weights, or in the data of its tables."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from runtime.arrays import Array
from runtime.bundle import TAPS, Bundle
from runtime.manifest import LanguageModelSpec, RopeSpec


def with_graph(bundle: Bundle, folder: Path, change: Callable[[onnx.GraphProto, LanguageModelSpec], None]) -> Bundle:
    """A copy whose graph with taps was changed. Taps show what the changed graph uses."""
    shutil.copytree(bundle.folder, folder)
    model = onnx.load(folder / bundle.manifest.graphs[TAPS], load_external_data=False)
    change(model.graph, bundle.manifest.language_model)
    in_order(model.graph)
    (folder / bundle.manifest.graphs[TAPS]).write_bytes(model.SerializeToString())
    return Bundle(folder, bundle.manifest)


def in_order(graph: onnx.GraphProto) -> None:
    """Put nodes behind those that make their inputs."""
    made = {tensor.name for tensors in (graph.input, graph.initializer) for tensor in tensors} | {""}
    waiting, done = list(graph.node), []
    while waiting:
        ready = [node for node in waiting if set(node.input) <= made]
        assert ready, "a cycle"
        made.update(name for node in ready for name in node.output)
        done += ready
        waiting = [node for node in waiting if node not in ready]
    del graph.node[:]
    graph.node.extend(done)


def with_weights(bundle: Bundle, folder: Path, name: str, change: Callable[[Array], Array]) -> Bundle:
    """A copy in which one tensor of the language model has other values."""
    shutil.copytree(bundle.folder, folder)
    file = folder / bundle.manifest.weights["prefill"]
    record = json.loads(file.with_name(f"{file.name}.index.json").read_text())[name]
    weight = change(bundle.weights("prefill")[name].copy())
    with file.open("r+b") as opened:
        opened.seek(record["offset"])
        opened.write(np.ascontiguousarray(weight).tobytes())
    return Bundle(folder, bundle.manifest)


def with_points(bundle: Bundle, change: Callable[[RopeSpec], RopeSpec | None]) -> Bundle:
    """The same bundle, with another table of the point tokens."""
    position = bundle.manifest.position
    assert position.points is not None
    changed = dataclasses.replace(position, points=change(position.points))
    return Bundle(bundle.folder, dataclasses.replace(bundle.manifest, position=changed))


def node_named(graph: onnx.GraphProto, name: str) -> onnx.NodeProto:
    (node,) = (node for node in graph.node if node.name == name)
    return node


def reroute(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Let all that read a value read another."""
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]


def table_1d_for_points(graph: onnx.GraphProto, _spec: LanguageModelSpec) -> None:
    """No choice between the tables."""
    for kind in ("cos", "sin"):
        (chosen,) = (node for node in graph.node if node.op_type == "Where" and f"{kind}_1d" in node.input)
        reroute(graph, chosen.output[0], f"{kind}_1d")


def restore_left_out(layer: int) -> Callable[[onnx.GraphProto, LanguageModelSpec], None]:
    """Point tokens keep the 1D turn that follows their 3D one."""

    def change(graph: onnx.GraphProto, spec: LanguageModelSpec) -> None:
        key = node_named(graph, f"tap9.key.{layer}:Identity").input[0]
        split = next(node for node in graph.node if key in node.output)
        turned, half = split.input[0], spec.head_dim // 2
        constants = {"half": np.array([half, half]), "two": np.array([2]), "three": np.array([3])}
        graph.initializer.extend(numpy_helper.from_array(array, f"x/{name}") for name, array in constants.items())
        add = graph.node.append
        add(helper.make_node("Unsqueeze", ["cos_1d", "x/two"], ["x/cos"]))
        add(helper.make_node("Unsqueeze", ["sin_1d", "x/two"], ["x/sin"]))
        add(helper.make_node("Unsqueeze", ["point_mask", "x/two"], ["x/mask.3"]))
        add(helper.make_node("Unsqueeze", ["x/mask.3", "x/three"], ["x/mask"]))
        add(helper.make_node("Split", [turned, "x/half"], ["x/low", "x/high"], axis=-1))
        add(helper.make_node("Neg", ["x/high"], ["x/minus"]))
        add(helper.make_node("Concat", ["x/minus", "x/low"], ["x/halves"], axis=-1))
        add(helper.make_node("Mul", [turned, "x/cos"], ["x/a"]))
        add(helper.make_node("Mul", ["x/halves", "x/sin"], ["x/b"]))
        add(helper.make_node("Add", ["x/a", "x/b"], ["x/twice"]))
        add(helper.make_node("Where", ["x/mask", "x/twice", turned], ["x/turned"]))
        split.input[0] = "x/turned"

    return change


def heads_reversed(graph: onnx.GraphProto, name: str, count: int) -> None:
    """Whoever reads a value [B, S, heads, D] finds its heads in the other order."""
    graph.initializer.append(numpy_helper.from_array(np.arange(count)[::-1].copy(), "x/order"))
    reroute(graph, name, "x/reversed")
    graph.node.append(helper.make_node("Gather", [name, "x/order"], ["x/reversed"], axis=2))


def query_heads_reversed_after_turning(layer: int) -> Callable[[onnx.GraphProto, LanguageModelSpec], None]:
    def change(graph: onnx.GraphProto, spec: LanguageModelSpec) -> None:
        heads_reversed(graph, node_named(graph, f"tap9.query.{layer}:Identity").input[0], spec.heads)

    return change


def heads_reversed_before_turning(layer: int) -> Callable[[onnx.GraphProto, LanguageModelSpec], None]:
    def change(graph: onnx.GraphProto, spec: LanguageModelSpec) -> None:
        heads_reversed(graph, node_named(graph, f"tap1.{layer}:Split").input[0], spec.heads + spec.kv_heads)

    return change


def per_axis(normalize: Callable[[Array], Any]) -> Callable[[Array], Any]:
    """Each axis divided by its own range, so that the aspect ratio is lost."""

    def wrong(patch_coords: Array) -> Any:
        found = normalize(patch_coords)
        return dataclasses.replace(found, coords=((patch_coords - found.low) / (found.high - found.low + 1e-8)))

    return wrong
