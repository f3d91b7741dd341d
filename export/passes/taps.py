"""What attention makes of queries and keys becomes extra outputs of a graph, by the numbers of the reference.

    tap1.query.<layer>, tap1.key.<layer>   after projection and head split, not rotated    [B, S, H or K, D]
    tap2.cos, tap2.sin                     the one table that the graph turns by: the rows of point tokens are
                                           checkpoint 2, those of text are a part of checkpoint 6    [B, S, D]
    tap6.cos, tap6.sin                     the 1D table at every position, as it is fed    [B, S, D]
    tap9.query.<layer>, tap9.key.<layer>   as they enter attention    [B, S, H or K, D]

Queries and keys have the graph's own float type, tables float32. Checkpoints 3, 4, 5, 7 and 8 are not in the graph,
which turns every token once; `export.parity.checkpoints` makes them from these. Places are found by walking back from
the key rows, so that what is tapped is what the graph uses. Other outputs keep their values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper

from runtime.errors import SceneError
from runtime.manifest import LanguageModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """The values of one layer, by name."""

    both: str  # [B, S, H+K, D], not rotated
    sizes: str  # the constant [H, K]
    query: str
    key: str
    cos: str
    sin: str


def named_layers(option: str, count: int) -> tuple[int, ...]:
    """Layers to tap, of `count`: "all", or numbers with commas between them. Raises SceneError."""
    if option == "all":
        return tuple(range(count))
    names = [name.strip() for name in option.split(",")]
    if wrong := [name for name in names if not (name.isascii() and name.isdigit() and int(name) < count)]:
        raise SceneError(f"--taps names layer {wrong[0]!r}, but the model has layers 0 to {count - 1}; or give: all.")
    return tuple(sorted({int(name) for name in names}))


def add_taps(model: onnx.ModelProto, spec: LanguageModelSpec, layers: Sequence[int]) -> None:
    """Rewrite a prefill graph in place. Raises ValueError where a layer is not made as `export.graph` makes it."""
    graph = model.graph
    places = {layer: _Walk(graph, layer).place() for layer in layers}
    tables = {(place.cos, place.sin): layer for layer, place in places.items()}
    if len(tables) != 1:
        raise ValueError(f"layers {sorted(tables.values())} turn by different tables, but one for all was expected")
    axes = _axes(graph, "input_ids")
    float_type = next(value for value in graph.input if value.name == "point_embeds").type.tensor_type.elem_type
    for layer, place in places.items():
        _tap_layer(graph, layer, place)
        for tap in (1, 9):
            for kind, heads in (("query", spec.heads), ("key", spec.kv_heads)):
                _declare(graph, f"tap{tap}.{kind}.{layer}", float_type, [*axes, heads, spec.head_dim])
    ((cos, sin),) = tables
    for name, value in {"tap2.cos": cos, "tap2.sin": sin, "tap6.cos": "cos_1d", "tap6.sin": "sin_1d"}.items():
        _copy(graph, value, name)
        _declare(graph, name, TensorProto.FLOAT, [*axes, spec.head_dim])


def _tap_layer(graph: onnx.GraphProto, layer: int, place: _Place) -> None:
    split = [f"tap1.query.{layer}", f"tap1.key.{layer}"]
    graph.node.append(helper.make_node("Split", [place.both, place.sizes], split, name=f"tap1.{layer}:Split", axis=2))
    _copy(graph, place.query, f"tap9.query.{layer}")
    _copy(graph, place.key, f"tap9.key.{layer}")


def _copy(graph: onnx.GraphProto, value: str, name: str) -> None:
    graph.node.append(helper.make_node("Identity", [value], [name], name=f"{name}:Identity"))


def _declare(graph: onnx.GraphProto, name: str, dtype: int, shape: list[int | str]) -> None:
    graph.output.append(helper.make_tensor_value_info(name, dtype, shape))


def _axes(graph: onnx.GraphProto, name: str) -> list[int | str]:
    (tensor,) = (value for value in graph.input if value.name == name)
    return [axis.dim_param or axis.dim_value for axis in tensor.type.tensor_type.shape.dim]


class _Walk:
    """Back from a layer's key rows to the projection and the table."""

    def __init__(self, graph: onnx.GraphProto, layer: int) -> None:
        self._layer = layer
        self._makers = {output: node for node in graph.node for output in node.output}

    def place(self) -> _Place:
        rows = self._maker(f"key.{self._layer}", "Transpose")
        split = self._maker(rows.input[0], "Split")
        query, key = split.output
        add = self._maker(self._before_cast(split.input[0]), "Add")
        by_cos, by_sin = (self._maker(value, "Mul") for value in add.input)
        signed = self._maker(self._maker(by_sin.input[1], "Unsqueeze").input[0], "Mul")
        return _Place(
            both=self._before_cast(by_cos.input[0]),
            sizes=split.input[1],
            query=query,
            key=key,
            cos=self._maker(by_cos.input[1], "Unsqueeze").input[0],
            sin=signed.input[0],
        )

    def _before_cast(self, value: str) -> str:
        """What a value was before it changed its type; graphs in float32 have no such change."""
        node = self._makers.get(value)
        return node.input[0] if node is not None and node.op_type == "Cast" else value

    def _maker(self, value: str, kind: str) -> onnx.NodeProto:
        node = self._makers.get(value)
        if node is None or node.op_type != kind:
            found = "an input or a constant" if node is None else f"made by {node.op_type}"
            raise ValueError(f"layer {self._layer}: {value!r} is {found}, but {kind} was expected")
        return node
