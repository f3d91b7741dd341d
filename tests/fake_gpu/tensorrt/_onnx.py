"""The few parts of an ONNX file that the fake needs, read without the onnx package."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

FLOAT, INT32, INT64, BOOL, BFLOAT16 = 1, 6, 7, 9, 16


@dataclass
class Value:
    """A tensor at the border; an axis is a size, or a letter where dynamic."""

    name: str
    type: int
    axes: tuple[int | str, ...]


@dataclass
class Node:
    name: str
    op: str
    domain: str
    inputs: list[str]
    outputs: list[str]
    type: int | None = None  # of the attribute "to", or of a constant


@dataclass
class Graph:
    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, int] = field(default_factory=dict)  # initializers -> element type
    files: set[str] = field(default_factory=set)  # of external data

    def types(self) -> dict[str, int]:
        """Element types of all tensors that simple rules can tell."""
        known = {value.name: value.type for value in self.inputs} | self.constants
        for node in self.nodes:
            if (found := _result(node, known)) is not None:
                known.update(dict.fromkeys(node.outputs, found))
        return known | {value.name: value.type for value in self.outputs}


def _result(node: Node, known: dict[str, int]) -> int | None:
    if node.type is not None:
        return node.type
    if node.op in {"Shape", "Size", "ArgMax", "ArgMin", "NonZero"}:
        return INT64
    if node.op in {"Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal", "And", "Or", "Not", "Xor", "IsNaN"}:
        return BOOL
    if node.op == "ConstantOfShape":
        return FLOAT
    source = 1 if node.op == "Where" else 0
    return known.get(node.inputs[source]) if len(node.inputs) > source else None


def read_graph(data: bytes) -> Graph:
    """Raises ValueError where the bytes are no ONNX model."""
    try:
        parts = dict(_fields(data))
        graph = _graph(parts[7])  # type: ignore[arg-type]
    except (IndexError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ValueError("no ONNX model") from error
    return graph


def _graph(data: bytes) -> Graph:
    graph = Graph()
    for number, value in _fields(data):
        if number == 1:
            graph.nodes.append(_node(_bytes(value)))
        elif number == 5:
            _initializer(_bytes(value), graph)
        elif number in {11, 12}:
            (graph.inputs if number == 11 else graph.outputs).append(_value(_bytes(value)))
    graph.inputs = [value for value in graph.inputs if value.name not in graph.constants]
    return graph


def _node(data: bytes) -> Node:
    texts: dict[int, list[str]] = {1: [], 2: [], 3: [""], 4: [""], 7: [""]}
    kind = None
    for number, value in _fields(data):
        if number in texts:
            texts[number].append(_bytes(value).decode())
        elif number == 5:
            kind = _attribute_type(_bytes(value)) or kind
    return Node(texts[3][-1], texts[4][-1], texts[7][-1], texts[1], texts[2], kind)


def _attribute_type(data: bytes) -> int | None:
    parts = dict(_fields(data))
    if parts.get(1) == b"to":
        return int(parts[3])  # type: ignore[arg-type]
    return int(dict(_fields(_bytes(parts[5])))[2]) if 5 in parts else None  # type: ignore[arg-type]


def _initializer(data: bytes, graph: Graph) -> None:
    parts = dict(_fields(data))
    graph.constants[_bytes(parts[8]).decode()] = int(parts[2])  # type: ignore[arg-type]
    for number, value in _fields(data):
        entry = dict(_fields(_bytes(value))) if number == 13 else {}
        if entry.get(1) == b"location":
            graph.files.add(_bytes(entry[2]).decode())


def _value(data: bytes) -> Value:
    parts = dict(_fields(data))
    tensor = dict(_fields(_bytes(dict(_fields(_bytes(parts[2])))[1])))
    axes = tuple(_axis(_bytes(value)) for number, value in _fields(_bytes(tensor.get(2, b""))) if number == 1)
    return Value(_bytes(parts[1]).decode(), int(tensor[1]), axes)  # type: ignore[arg-type]


def _axis(data: bytes) -> int | str:
    parts = dict(_fields(data))
    return int(parts[1]) if 1 in parts else _bytes(parts.get(2, b"")).decode()  # type: ignore[arg-type]


def _bytes(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError("a number where a message was expected")
    return value


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers and values of a protocol buffers message."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        size, at = _varint(data, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
        if at + size > len(data):
            raise IndexError("truncated")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            return value, at
