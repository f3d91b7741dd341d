"""The graphs' form: operators, names, axes, weights."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

from export.tensorrt_graphs import SHARED, STACKED
from runtime.bundle import PAST, ROWS
from tests.exported import FAMILIES, Export

# Standard operators of opset 17 that the graphs may use: TensorRT 8.6 parses all of them (its docs/operators.md).
OPERATORS = """
Add Cast Concat Cos Div Erf Expand Gather Gemm LayerNormalization Less LessOrEqual MatMul Mul Pow Range ReduceMax
ReduceMean Reshape Shape Sigmoid Sin Slice Softmax Split Sqrt Squeeze Sub Transpose Unsqueeze Where
"""
PORTABLE = frozenset(OPERATORS.split())
GRAPHS = ["encoder", "prefill", "decode", *STACKED]


def axes(values: object) -> dict[str, list[int | str]]:
    return {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in values  # type: ignore[attr-defined]
    }


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("family", FAMILIES)
def test_opset_17_standard_operators_only(exported: Export, family: str, graph: str) -> None:
    model = onnx.load(exported(family).bundle.graph(graph), load_external_data=False)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 17)]
    assert {node.domain for node in model.graph.node} == {""}
    assert {node.op_type for node in model.graph.node} <= PORTABLE
    # TensorRT 8.6 parses these attributes and ignores them: the graph would compute something else there.
    assert not [node.name for node in model.graph.node if node.op_type == "Shape" and node.attribute]


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("family", FAMILIES)
def test_checker_and_full_shape_inference_pass(exported: Export, family: str, graph: str) -> None:
    path = exported(family).bundle.graph(graph)
    onnx.checker.check_model(str(path), full_check=True)
    model = onnx.load(path, load_external_data=False)
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    typed = {value.name for value in inferred.graph.value_info} | {value.name for value in inferred.graph.output}
    made = {name for node in model.graph.node for name in node.output}
    assert made <= typed, f"no type for {sorted(made - typed)[:5]}"


def test_encoder_has_the_names_and_axes_of_the_design(exported: Export) -> None:
    case = exported("qwen")
    spec = case.bundle.manifest.encoder
    graph = onnx.load(case.bundle.graph("encoder"), load_external_data=False).graph
    want: dict[str, list[int | str]] = {"features": ["N0", 6], "grid": ["P", 3]}
    for stage in range(spec.stages):
        rows = "P" if stage == spec.stages - 1 else f"N{stage}"
        want[f"neighbours.{stage}"] = [rows, 27]
        for slot in range(min(spec.depths[stage], 4)):
            want[f"order.{stage}.{slot}"] = [f"G{stage}", f"W{stage}"]
            want[f"inverse.{stage}.{slot}"] = [rows]
        if stage + 1 < spec.stages:
            want[f"children.{stage}"] = ["P" if stage + 1 == spec.stages - 1 else f"N{stage + 1}", 8]
    assert axes(graph.input) == want
    assert axes(graph.output) == {"point_tokens": ["P", case.bundle.manifest.language_model.hidden_size]}


@pytest.mark.parametrize("family", FAMILIES)
def test_language_model_graphs_have_the_names_and_axes_of_the_design(exported: Export, family: str) -> None:
    bundle = exported(family).bundle
    spec = bundle.manifest.language_model
    row = [spec.kv_heads, spec.head_dim]
    layers = range(spec.layers)
    prefill = onnx.load(bundle.graph("prefill"), load_external_data=False).graph
    assert axes(prefill.input) == {
        "input_ids": ["B", "S"],
        "point_embeds": ["B", "S", spec.hidden_size],
        "point_mask": ["B", "S"],
        **{name: ["B", "S", spec.head_dim] for name in ("cos_3d", "sin_3d", "cos_1d", "sin_1d")},
        "lengths": ["B"],
    }
    rows = {f"{kind}.{layer}": ["S", "B", *row] for kind in ("key", "value") for layer in layers}
    assert axes(prefill.output) == {**rows, "logits": ["B", spec.vocab_size]}
    decode = onnx.load(bundle.graph("decode"), load_external_data=False).graph
    assert axes(decode.input) == {
        "input_ids": ["B", "T"],
        **{name: ["B", "T", spec.head_dim] for name in ("cos", "sin")},
        "past_length": ["B"],
        **{f"past_{kind}.{layer}": ["M", "B", *row] for kind in ("key", "value") for layer in layers},
    }
    rows = {f"{kind}.{layer}": ["T", "B", *row] for kind in ("key", "value") for layer in layers}
    assert axes(decode.output) == {**rows, "logits": ["B", "T", spec.vocab_size]}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_shared_graph_takes_what_both_take(exported: Export, family: str) -> None:
    bundle = exported(family).bundle
    spec = bundle.manifest.language_model
    heads = [2 * spec.layers * spec.kv_heads, spec.head_dim]
    shared = onnx.load(bundle.graph(SHARED), load_external_data=False).graph
    assert axes(shared.input) == {
        "input_ids": ["B", "T"],
        "point_embeds": ["B", "T", spec.hidden_size],
        "point_mask": ["B", "T"],
        **{name: ["B", "T", spec.head_dim] for name in ("cos_3d", "sin_3d", "cos_1d", "sin_1d")},
        "lengths": ["B"],
        "past_length": ["B"],
        PAST: ["M", "B", *heads],
    }
    assert axes(shared.output) == {ROWS: ["T", "B", *heads], "logits": ["B", spec.vocab_size]}
    plain = {}
    for graph in ("prefill", "decode"):
        model = onnx.load(bundle.graph(graph), load_external_data=False).graph
        plain |= {value.name: value.type.tensor_type.elem_type for value in (*model.input, *model.output)}
    types = {value.name: value.type.tensor_type.elem_type for value in (*shared.input, *shared.output)}
    plain |= {PAST: plain["past_key.0"], ROWS: plain["key.0"]}
    assert types == {name: plain[name] for name in types}


def test_the_language_models_graphs_share_one_weight_file(exported: Export) -> None:
    bundle = exported("qwen").bundle
    external = {}
    for graph in ("prefill", "decode", *STACKED):
        model = onnx.load(bundle.graph(graph), load_external_data=False)
        external[graph] = {
            tensor.name: {entry.key: entry.value for entry in tensor.external_data}
            for tensor in model.graph.initializer
            if tensor.data_location == onnx.TensorProto.EXTERNAL
        }
        inline = [tensor for tensor in model.graph.initializer if tensor.data_location != onnx.TensorProto.EXTERNAL]
        assert sum(len(tensor.raw_data) for tensor in inline) < 4096, "weights belong into the external file"
    assert all(each == external["prefill"] for each in external.values())
    assert {record["location"] for record in external["prefill"].values()} == {"language_model.weights"}
    index = json.loads((bundle.folder / "language_model.weights.index.json").read_text())
    assert {name: str(record["offset"]) for name, record in index.items()} == {
        name: record["offset"] for name, record in external["prefill"].items()
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_the_checkpoints_bits(exported: Export, family: str) -> None:
    case = exported(family)
    weights = case.bundle.weights("prefill")
    prefix = "model.layers.1.self_attn"
    stacked = np.concatenate([case.checkpoint.float_tensor(f"{prefix}.{part}_proj.weight") for part in "qkv"])
    np.testing.assert_array_equal(weights[f"{prefix}.qkv_proj.weight"], stacked)
    embed = case.checkpoint.float_tensor("model.embed_tokens.weight").numpy()
    np.testing.assert_array_equal(weights["model.embed_tokens.weight"], embed)
