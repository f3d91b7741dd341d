"""The network and the ONNX parser of the fake."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fake_device import device

from tensorrt import _onnx, _plugins
from tensorrt._common import ENUMS, MAJOR, DataType, Dims, Logged, Native, check_logger, native

KINDS = {
    "ELEMENTWISE": "Add Sub Mul Div Pow Min Max Less LessOrEqual Greater GreaterOrEqual Equal And Or Mod Xor",
    "MATRIX_MULTIPLY": "MatMul Gemm", "CAST": "Cast", "GATHER": "Gather GatherElements GatherND", "SELECT": "Where",
    "SHUFFLE": "Reshape Transpose Squeeze Unsqueeze Flatten", "CONCATENATION": "Concat", "SHAPE": "Shape",
    "FILL": "Range ConstantOfShape", "REDUCE": "ReduceMean ReduceMax ReduceSum ReduceMin", "SOFTMAX": "Softmax",
    "UNARY": "Sqrt Exp Log Cos Sin Erf Neg Not Abs Reciprocal Floor Ceil Round", "ACTIVATION": "Sigmoid Tanh Relu",
    "SLICE": "Slice Split Expand Tile Pad", "NORMALIZATION": "LayerNormalization", "TOPK": "ArgMax TopK",
    "SCATTER": "ScatterND ScatterElements", "CONSTANT": "Constant", "ONE_HOT": "OneHot", "EINSUM": "Einsum",
    "QUANTIZE": "QuantizeLinear", "DEQUANTIZE": "DequantizeLinear", "NON_ZERO": "NonZero",
}  # fmt: skip
LAYERS = {op: kind for kind, ops in KINDS.items() for op in ops.split()}
TYPES = {1: "FLOAT", 2: "UINT8", 3: "INT8", 6: "INT32", 7: "INT64", 9: "BOOL", 10: "HALF", 16: "BF16"}


def data_type(onnx_type: int | None) -> Any:
    """None where this version has no such type; version 8 narrows 64-bit integers."""
    name = TYPES.get(onnx_type or 0, "")
    if MAJOR < 10 and name == "INT64":
        name = "INT32"
    return DataType.__members__.get(name)


@native
class ITensor(Native):
    """A tensor of the network. Inner tensors have no known shape."""

    name: Any = ""
    dtype: Any = None
    shape: Any = None
    allowed_formats: Any = (1 << len(ENUMS["TensorFormat"])) - 1
    is_network_input: Any = False
    is_network_output: Any = False
    is_shape_tensor: Any = False
    is_execution_tensor: Any = True
    location: Any = None

    def __init__(self, name: str, onnx_type: int | None, axes: tuple[int | str, ...] | None) -> None:
        self.name, self.dtype, self._axes = name, data_type(onnx_type), list(axes or ())
        self.location = ENUMS["TensorLocation"].DEVICE
        self.shape = Dims(None if axes is None else [-1 if isinstance(axis, str) else axis for axis in axes])

    def get_dimension_name(self, index: int) -> str:
        return self._axes[index] if isinstance(self._axes[index], str) else ""

    def set_dimension_name(self, index: int, name: str) -> None:
        self._axes[index] = name


@native
class ILayer(Native):
    """One node of the ONNX graph, or one constant."""

    name: Any = ""
    type: Any = None
    precision_is_set: Any = False
    metadata: Any = ""
    num_inputs: Any = 0
    num_outputs: Any = 0

    def __init__(self, name: str, kind: str, inputs: list[ITensor], outputs: list[ITensor]) -> None:
        self.name, self.type, self.metadata = name, ENUMS["LayerType"].__members__[kind], f"[ONNX Layer: {name}]"
        self._inputs, self._outputs = inputs, outputs
        self._output_types: dict[int, Any] = {}
        self.num_inputs, self.num_outputs = len(inputs), len(outputs)

    @property
    def precision(self) -> Any:
        return getattr(self, "_precision", DataType.FLOAT)

    @precision.setter
    def precision(self, dtype: Any) -> None:
        self._precision, self.precision_is_set = DataType(dtype), True

    def reset_precision(self) -> None:
        self.precision_is_set = False

    def get_input(self, index: int) -> ITensor:
        return self._inputs[index]

    def get_output(self, index: int) -> ITensor:
        return self._outputs[index]

    def get_output_type(self, index: int) -> Any:
        return self._output_types.get(index, self._outputs[index].dtype)

    def set_output_type(self, index: int, dtype: Any) -> None:
        if not 0 <= index < len(self._outputs):
            raise IndexError(index)
        self._output_types[index] = DataType(dtype)

    def output_type_is_set(self, index: int) -> bool:
        return index in self._output_types

    def reset_output_type(self, index: int) -> None:
        self._output_types.pop(index, None)


@native
class INetworkDefinition(Logged):
    name: Any = ""
    flags: Any = 0

    def __init__(self, builder: Any, flags: int) -> None:
        self._builder, self.name, self._flags = builder, "Unnamed Network 0", flags
        self._inputs: list[ITensor] = []
        self._outputs: list[ITensor] = []
        self._layers: list[ILayer] = []
        self._model: dict[str, bytes] = {}  # file name -> content; "model.onnx" and what it refers to
        self._source = ""
        self._plugins: list[str] = []  # names of those that its nodes are
        if MAJOR > 8:
            self.flags = flags

    def _flag(self, name: str) -> bool:
        flag = ENUMS["NetworkDefinitionCreationFlag"].__members__.get(name)
        return flag is not None and bool(self._flags >> int(flag) & 1)

    def get_flag(self, flag: Any) -> bool:
        return self._flag(flag.name)

    builder = property(lambda self: self._builder)
    num_inputs = property(lambda self: len(self._inputs))
    num_outputs = property(lambda self: len(self._outputs))
    num_layers = property(lambda self: len(self._layers))
    has_implicit_batch_dimension = property(lambda self: MAJOR < 10 and not self._flag("EXPLICIT_BATCH"))

    def get_input(self, index: int) -> ITensor:
        return self._inputs[index]

    def get_output(self, index: int) -> ITensor:
        return self._outputs[index]

    def get_layer(self, index: int) -> ILayer:
        return self._layers[index]


@dataclass
class _Error:
    text: str
    node: int = -1
    name: str = ""
    op: str = ""


@native
class ParserError(Native):
    def __init__(self, error: _Error) -> None:
        self._error = error

    def code(self) -> Any:
        return ENUMS["ErrorCode"].UNSUPPORTED_NODE

    def desc(self) -> str:
        return self._error.text

    def file(self) -> str:
        return "ModelImporter.cpp"

    def line(self) -> int:
        return 1

    def func(self) -> str:
        return "parse"

    def node(self) -> int:
        return self._error.node

    def node_name(self) -> str:
        return self._error.name

    def node_operator(self) -> str:
        return self._error.op

    def __str__(self) -> str:
        error = self._error
        return f"In node {error.node} with name: {error.name} and operator: {error.op}: {error.text}"


@native
class OnnxParser(Logged):
    def __init__(self, network: INetworkDefinition, logger: Any) -> None:
        check_logger(logger)
        self._network, self._logger = network, logger
        self._errors: list[_Error] = []

    def _error(self, *facts: Any) -> bool:
        self._errors.append(_Error(*facts))
        self._fail(str(ParserError(self._errors[-1])))
        return False

    num_errors = property(lambda self: len(self._errors))

    def get_error(self, index: int) -> ParserError:
        return ParserError(self._errors[index])

    def clear_errors(self) -> None:
        self._errors.clear()

    def parse_from_file(self, model: str) -> bool:
        if not isinstance(model, str):
            raise TypeError(f"parse_from_file(): incompatible function arguments: {type(model).__name__}")
        if not Path(model).is_file():
            return self._error(f"Failed to open file: {model}")
        return self.parse(Path(model).read_bytes(), model)

    def parse(self, model: bytes, path: str | None = None) -> bool:
        data = bytes(model)
        try:
            graph = _onnx.read_graph(data)
        except ValueError:
            return self._error("Failed to parse the ONNX model")
        files = {name: Path(path or "").parent / name for name in sorted(graph.files)}
        if absent := [str(file) for file in files.values() if not file.is_file()]:
            return self._error(f"Failed to open file: {absent[0]}")
        if device.fault("parse", Path(path or "").name) or self._network.has_implicit_batch_dimension:
            return self._error(
                "This version of the ONNX parser only supports networks with an explicit batch dimension"
            )
        network = self._network
        network._model = {"model.onnx": data} | {name: file.read_bytes() for name, file in files.items()}
        network._source = str(path or "")
        return self._import(graph)

    def _import(self, graph: _onnx.Graph) -> bool:
        for index, node in enumerate(graph.nodes):
            if _plugins.has(node.op):
                continue
            if node.domain not in ("", "ai.onnx") or (node.op not in LAYERS and node.op != "Identity"):
                return self._error(f"No importer registered for op: {node.op}", index, node.name, node.op)
        if any(data_type(value.type) is None for value in graph.inputs + graph.outputs):
            return self._error("Unsupported data type of an input or output")
        if MAJOR < 10 and _onnx.INT64 in graph.constants.values():
            self._log("WARNING", "Your ONNX model has been generated with INT64 weights, "
                      "while TensorRT does not natively support INT64. Attempting to cast down to INT32.")  # fmt: skip
        _fill(self._network, graph)
        return True


def _fill(network: INetworkDefinition, graph: _onnx.Graph) -> None:
    network._plugins = sorted({node.op for node in graph.nodes if _plugins.has(node.op)})
    types = graph.types()
    border = {value.name: ITensor(value.name, value.type, value.axes) for value in graph.inputs + graph.outputs}
    network._inputs = [border[value.name] for value in graph.inputs]
    network._outputs = [border[value.name] for value in graph.outputs]
    for tensor in network._inputs:
        tensor.is_network_input = True
    for tensor in network._outputs:
        tensor.is_network_output = True

    def tensors(names: list[str]) -> list[ITensor]:
        return [border.setdefault(name, ITensor(name, types.get(name), None)) for name in names if name]

    network._layers = [ILayer(name, "CONSTANT", [], tensors([name])) for name in graph.constants]
    kinds = LAYERS | dict.fromkeys(network._plugins, "PLUGIN_V2")
    network._layers += [
        ILayer(node.name, kinds.get(node.op, "IDENTITY"), tensors(node.inputs), tensors(node.outputs))
        for node in graph.nodes
    ]
