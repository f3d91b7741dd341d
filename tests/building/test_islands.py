"""Which layers are asked to stay float32, on a network with the pieces of ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from export.engines.islands import DEFAULTS, ISLANDS, PRODUCT, pin_islands
from runtime.engines.plans import SOURCES
from runtime.engines.record import SHARED, plan_names
from tests.building.conftest import VERSIONS, Bench

FLOAT, HALF, INT32, BOOL = (SimpleNamespace(name=name) for name in ("FLOAT", "HALF", "INT32", "BOOL"))


@dataclass
class Layer:
    """As much of TensorRT's layer as pinning looks at."""

    name: str
    kind: str
    inputs: Sequence[Any]
    outputs: list[Any]
    precision: Any = None
    output_types: dict[int, Any] = field(default_factory=dict)

    type = property(lambda self: SimpleNamespace(name=self.kind))
    num_inputs = property(lambda self: len(self.inputs))
    num_outputs = property(lambda self: len(self.outputs))

    def get_input(self, index: int) -> Any:
        return self.inputs[index]

    def get_output(self, index: int) -> Any:
        return self.outputs[index]

    def set_output_type(self, index: int, dtype: Any) -> None:
        self.output_types[index] = dtype


class Network:
    def __init__(self) -> None:
        self.layers: list[Layer] = []

    num_layers = property(lambda self: len(self.layers))

    def get_layer(self, index: int) -> Layer:
        return self.layers[index]

    def add(self, name: str, kind: str, *inputs: Any, dtypes: Sequence[Any] = (FLOAT,)) -> Any:
        outputs = [SimpleNamespace(name=f"{name}.{place}", dtype=dtype) for place, dtype in enumerate(dtypes)]
        self.layers.append(Layer(name, kind, inputs, outputs))
        return outputs[0] if outputs else None


def network() -> Network:
    """A float16 norm, a rotation, scores with a mask, an activation: each float32 inside, cast to float16 between."""
    net = Network()
    x = net.add("x", "MATRIX_MULTIPLY", dtypes=[HALF])
    x32 = net.add("norm/Cast", "CAST", x)
    power = net.add("norm/Pow", "ELEMENTWISE", x32, net.add("two", "CONSTANT"))
    mean = net.add("norm/ReduceMean", "REDUCE", power)
    root = net.add("norm/Sqrt", "UNARY", net.add("norm/Add", "ELEMENTWISE", mean, net.add("eps", "CONSTANT")))
    normed = net.add("norm/back", "CAST", net.add("norm/Div", "ELEMENTWISE", x32, root), dtypes=[HALF])
    net.add("norm/Mul", "ELEMENTWISE", normed, dtypes=[HALF])
    turned = net.add("turn/Mul", "ELEMENTWISE", net.add("turn/Cast", "CAST", normed), net.add("cos", "CONSTANT"))
    query = net.add("turn/back", "CAST", turned, dtypes=[HALF])
    product = net.add("scores/MatMul", "MATRIX_MULTIPLY", query, dtypes=[HALF])
    scaled = net.add("scores/Mul", "ELEMENTWISE", net.add("scores/Cast", "CAST", product), None)
    valid = net.add("valid", "ELEMENTWISE", dtypes=[BOOL])
    lowest = net.add("lowest", "CONSTANT")
    masked = net.add("scores/Where", "SELECT", valid, scaled, lowest)
    net.add("elsewhere/Where", "SELECT", valid, net.add("elsewhere/Cast", "CAST"), lowest)
    chances = net.add("scores/Softmax", "SOFTMAX", net.add("scores/Concat", "CONCATENATION", masked))
    past = net.add("scores/Slice", "SLICE", chances)
    net.add("scores/back", "CAST", past, dtypes=[HALF])
    gate = net.add("gate/Cast", "CAST", normed)
    net.add("gate/Sigmoid", "ACTIVATION", gate)
    net.add("count", "ELEMENTWISE", dtypes=[INT32])
    net.add("halves", "SLICE", gate, dtypes=[FLOAT, HALF])
    net.add("body/MatMul", "MATRIX_MULTIPLY", gate)
    net.add("body/Norm", "NORMALIZATION", gate)
    net.add("nothing", "ASSERTION", dtypes=[])
    return net


NORM_NODES = ["Pow", "ReduceMean", "Add", "Sqrt", "Div"]
NORM = {"norm/Pow", "norm/ReduceMean", "norm/Add", "norm/Sqrt", "norm/Div", "body/Norm"}
SOFTMAX = {"scores/Mul", "scores/Where", "scores/Concat", "scores/Softmax", "scores/Slice"}
ELEMENTWISE = {"norm/Pow", "norm/Add", "norm/Sqrt", "norm/Div", "turn/Mul", "scores/Mul", "gate/Sigmoid"}


@pytest.mark.parametrize(
    ("islands", "names"),
    [
        ([], set()),
        (["norm"], NORM),
        (["softmax"], SOFTMAX),
        (["elementwise"], ELEMENTWISE),
        (["all"], set()),  # float16 is not allowed then, so there is nothing to ask for
        ([island for island in ISLANDS if island != PRODUCT], NORM | SOFTMAX | ELEMENTWISE),
    ],
    ids=["none", "norm", "softmax", "elementwise", "whole", "every"],
)
def test_members_of_the_islands(islands: Sequence[str], names: set[str]) -> None:
    net = network()
    assert set(pin_islands(net, islands)) == names
    for layer in net.layers:
        pinned = layer.name in names
        assert (layer.precision is FLOAT) == pinned, layer.name
        assert layer.output_types == ({0: FLOAT} if pinned else {}), layer.name


def test_the_defaults(bench: Bench) -> None:
    assert DEFAULTS.keys() == SOURCES.keys()
    assert DEFAULTS["prefill"] == DEFAULTS["decode"] == DEFAULTS["language_model"]
    assert all(set(islands) <= set(ISLANDS) for islands in DEFAULTS.values())
    bench.facts()
    encoder, language_model = (bench.plan_facts(graph) for graph in plan_names(SHARED))
    assert (encoder["flags"], encoder["pinned"]) == ([], 0), "its body is float32"
    assert sorted(language_model["flags"]) == ["FP16", "PREFER_PRECISION_CONSTRAINTS"]
    assert language_model["pinned"] == 5 * len(NORM_NODES)


def test_the_real_graph(bench: Bench) -> None:
    """Two layers: five norms; in each layer one softmax with what is around it."""
    bench.facts("--islands", "norm")
    assert bench.plan_facts("language_model")["pinned"] == 5 * len(NORM_NODES)
    bench.facts("--islands", "softmax")
    around = ["Mul", "Mul", "Where", "Where", "Concat", "Softmax", "Slice", "Slice"]  # past and new
    assert bench.plan_facts("language_model")["pinned"] == 2 * len(around)


@pytest.mark.parametrize("version", VERSIONS[1:])
def test_strong_types_need_no_pins(bench: Bench, version: str) -> None:
    bench.facts("--islands", "norm", "softmax", version=version)
    for graph in plan_names(SHARED):
        facts = bench.plan_facts(graph, version)
        assert (facts["flags"], facts["pinned"]) == ([], 0)
