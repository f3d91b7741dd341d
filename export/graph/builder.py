"""A thin hand over onnx.helper: nodes and values get the names we choose, weights stay in an external file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import DTypeLike
from onnx import TensorProto, helper, numpy_helper

from export.graph.weights import WeightFile
from runtime.arrays import Array

OPSET = 17  # the newest that TensorRT 8.6 parses
IR_VERSION = 8  # the one that came with opset 17
FLOAT, FLOAT16, BFLOAT16 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16
INT32, INT64, BOOL = TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL
PRECISIONS = {"fp32": FLOAT, "fp16": FLOAT16, "bf16": BFLOAT16}


class GraphBuilder:
    """Collects nodes in topological order. A value is the string that names it in the graph."""

    def __init__(self, name: str, weights: WeightFile) -> None:
        self.name = name
        self.weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._initializers: dict[str, TensorProto] = {}
        self._scope: list[str] = []
        self._taken: set[str] = set()

    def input(self, name: str, dtype: int, shape: Sequence[int | str]) -> str:
        """Declare a graph input; a string in the shape is a dynamic axis."""
        self._inputs.append(helper.make_tensor_value_info(name, dtype, list(shape)))
        return name

    def output(self, name: str, dtype: int, shape: Sequence[int | str]) -> None:
        """Declare that the value of this name is a graph output."""
        self._outputs.append(helper.make_tensor_value_info(name, dtype, list(shape)))

    def scope(self, name: str) -> _Scope:
        """`with graph.scope("layers.0"):` prefixes the names of the values made inside."""
        return _Scope(self._scope, name)

    def op(self, kind: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """Append a node with one output and return that output's name. `name` is taken literally."""
        return self.ops(kind, 1, *inputs, names=None if name is None else [name], **attributes)[0]

    def ops(
        self, kind: str, count: int, *inputs: str, names: Sequence[str] | None = None, **attributes: Any
    ) -> list[str]:
        """Append a node with `count` outputs and return their names."""
        outputs = list(names) if names is not None else [self._fresh(kind) for _ in range(count)]
        self._taken.update(outputs)
        self._nodes.append(helper.make_node(kind, list(inputs), outputs, name=f"{outputs[0]}:{kind}", **attributes))
        return outputs

    def weight(self, name: str) -> str:
        """Reference a tensor of the external weight file."""
        if name not in self._initializers:
            self._initializers[name] = self.weights.tensor_proto(name)
        return name

    def constant(self, value: Any, dtype: DTypeLike = np.int64) -> str:
        """A small constant held in the graph itself; equal ones are shared."""
        array = np.asarray(value, dtype)
        digest = hashlib.sha256(array.tobytes()).hexdigest()[:16]
        name = f"constant/{array.dtype}/{'x'.join(map(str, array.shape))}/{digest}"
        if name not in self._initializers:
            self._initializers[name] = numpy_helper.from_array(array, name)
        return name

    def cast(self, value: str, to: int, source: int | None = None, name: str | None = None) -> str:
        """Cast, or nothing when the source type is known to be the target."""
        return value if source == to and name is None else self.op("Cast", value, to=to, name=name)

    def dim(self, value: str, axis: int) -> str:
        """The size of one axis as a shape vector of one entry.

        Not by Shape's `start` and `end`: the parser of TensorRT 8.6 takes the node and ignores the two.
        """
        return self.op("Gather", self.op("Shape", value), self.constant([axis]), axis=0)

    def build(self) -> onnx.ModelProto:
        """The finished model. Its external data are those of the weight file."""
        graph = helper.make_graph(
            self._nodes, self.name, self._inputs, self._outputs, list(self._initializers.values())
        )
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="spatiallm-export",
        )

    def _fresh(self, kind: str) -> str:
        stem = "/".join([*self._scope, kind])
        number = 0
        while (name := f"{stem}.{number}" if number else stem) in self._taken:
            number += 1
        self._taken.add(name)
        return name


class _Scope:
    def __init__(self, stack: list[str], name: str) -> None:
        self._stack, self._name = stack, name

    def __enter__(self) -> None:
        self._stack.append(self._name)

    def __exit__(self, *_: object) -> None:
        self._stack.pop()


def constant_array(model: onnx.ModelProto, name: str) -> Array:
    """The value of a constant held in the graph (tests and passes read it)."""
    for tensor in model.graph.initializer:
        if tensor.name == name:
            array: Array = numpy_helper.to_array(tensor)
            return array
    raise KeyError(name)
