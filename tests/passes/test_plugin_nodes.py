"""Decode and prefill as one node each: their form, their numbers by the operators' definition, and what is refused."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from export.bundle import ExportOptions, write_bundle
from export.checkpoint import open_checkpoint
from export.engines.plugins import model_sizes, why_no_plugins
from export.passes.plugin_nodes import (
    DECODE,
    DECODE_INPUTS,
    DOMAIN,
    PREFILL,
    PREFILL_INPUTS,
    VERSION,
    to_decode_step,
    to_prefill,
    weight_names,
)
from export.passes.stack_cache import stack_cache
from plugins.build import HERE
from plugins.language_model.arguments import LAYER_TENSORS
from plugins.language_model.sizes import FIRST_TENSORS, OFFSET_BYTES, tensor_values
from runtime.arrays import Array
from runtime.bundle import PAST, ROWS, WEIGHTS, Bundle
from runtime.engines.plans import PLUGINS
from runtime.manifest import LanguageModelSpec
from tests.compare import Tol, assert_close
from tests.exported import FAMILIES
from tests.passes.plugin_ops import OPERATORS

EXACT = Tol(2e-4, 2e-4, why="float32 against float64")
HALF = Tol(3e-2, 3e-2, why="vectors in products are float16")
CHOICES = [(family, tied) for family in FAMILIES for tied in (True, False)]
OUTPUTS = ["logits", ROWS]
Made = Callable[..., Bundle]


@pytest.fixture(scope="module")
def made(tiny_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """`made(family, precision, tied, attention)`: a bundle, each written once."""
    bundles: dict[tuple[str, str, bool, str], Bundle] = {}

    def make(
        family: str = "qwen", precision: str = "fp16", tied: bool = True, attention: str = "causal", norm: str = "plain"
    ) -> Bundle:
        key = (family, precision, tied, attention)
        if key not in bundles or norm != "plain":
            folder = tmp_path_factory.mktemp("bundle")
            options = ExportOptions(
                precision=precision, max_length=1024, tensorrt_norm=norm, prefill_attention=attention
            )
            encoding = {"vlm_pe": "3D_RoPE", "merge_rule": "3D_only"} if attention == "full" else {}
            checkpoint = open_checkpoint(tiny_checkpoint(family, tied=tied), **encoding)
            write_bundle(checkpoint, folder / "b", options)
            bundles[key] = Bundle.open(folder / "b")
        return bundles[key]

    yield make


def weight_file(bundle: Bundle, graph: str) -> Array:
    return np.fromfile(bundle.folder / bundle.manifest.weights[graph], np.float16)


def decode_feeds(spec: LanguageModelSpec, batch: int, count: int, dtype: type = np.float16) -> dict[str, Array]:
    """New tokens over prefixes of several lengths; behind them is what no attention may touch."""
    rng = np.random.default_rng(batch)
    lengths = np.array([7, 0, 16][:batch], np.int32)
    past = rng.uniform(-1, 1, (16, batch, 2 * spec.layers * spec.kv_heads, spec.head_dim)).astype(dtype)
    for sequence, length in enumerate(lengths):
        past[length:, sequence] = 6e4
    angles = rng.uniform(0, 6, (batch, count, spec.head_dim)).astype(np.float32)
    return {
        "input_ids": rng.integers(0, spec.vocab_size, (batch, count)).astype(np.int32),
        "cos": np.cos(angles),
        "sin": np.sin(angles),
        "past_length": lengths,
        PAST: past,
    }


def prefill_feeds(spec: LanguageModelSpec, dtype: type = np.float16) -> dict[str, Array]:
    """Prompts of several lengths with point tokens among them."""
    rng = np.random.default_rng(5)
    batch, rows, lengths = 3, 9, np.array([9, 4, 1], np.int32)
    angles = rng.uniform(0, 6, (2, batch, rows, spec.head_dim)).astype(np.float32)
    return {
        "input_ids": rng.integers(0, spec.vocab_size, (batch, rows)).astype(np.int32),
        "point_embeds": rng.normal(0, 1, (batch, rows, spec.hidden_size)).astype(dtype),
        "point_mask": rng.random((batch, rows)) < 0.5,
        "cos_3d": np.cos(angles[0]),
        "sin_3d": np.sin(angles[0]),
        "cos_1d": np.cos(angles[1]),
        "sin_1d": np.sin(angles[1]),
        "lengths": lengths,
    }


def after(bundle: Bundle, graph: str, feeds: dict[str, Array]) -> list[Array]:
    name = PLUGINS[graph]
    plugin = ReferenceEvaluator(onnx.load(bundle.graph(name)), new_ops=OPERATORS)
    masks = {mask: array.astype(np.int32) for mask, array in feeds.items() if array.dtype == bool}
    found: list[Array] = plugin.run(OUTPUTS, feeds | masks | {WEIGHTS: weight_file(bundle, name)})
    return found


def before(bundle: Bundle, graph: str, feeds: dict[str, Array]) -> list[Array]:
    session = onnxruntime.InferenceSession(bundle.graph(f"{graph}.stacked"), providers=["CPUExecutionProvider"])
    found: list[Array] = session.run(OUTPUTS, feeds)
    return found


def before_wide(bundle: Bundle, graph: str, feeds: dict[str, Array]) -> list[Array]:
    """In float32, over the same values."""
    model = onnx.load(bundle.graph(f"{graph}.stacked"))
    to_float32(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: list[Array] = session.run(OUTPUTS, feeds)
    return found


def to_float32(model: onnx.ModelProto) -> None:
    """The graph with all that is half in float32."""
    graph = model.graph
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            wide = onnx.numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(wide, tensor.name))
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT


@pytest.mark.parametrize(("batch", "count"), [(1, 1), (3, 2)])
@pytest.mark.parametrize(("family", "tied"), CHOICES)
def test_decode_has_the_same_numbers_before_and_after(
    made: Made, family: str, tied: bool, batch: int, count: int
) -> None:
    """Before: ONNX Runtime, on the same values in float32 and in the half precision of the bundle."""
    bundle = made(family, "fp16", tied)
    given = decode_feeds(bundle.manifest.language_model, batch, count)
    pairs = zip(OUTPUTS, after(bundle, "decode", given), before(bundle, "decode", given), strict=True)
    for name, got, want in pairs:
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        assert_close(name, got.astype(np.float32), want.astype(np.float32), HALF)
    given |= {PAST: given[PAST].astype(np.float32)}  # so that the newest rows are not rounded either
    pairs = zip(OUTPUTS, after(bundle, "decode", given), before_wide(bundle, "decode", given), strict=True)
    for name, got, want in pairs:
        assert_close(name, got, want, EXACT)


@pytest.mark.parametrize("attention", ["causal", "full"])
@pytest.mark.parametrize(("family", "tied"), CHOICES)
def test_prefill_has_the_same_numbers_before_and_after(made: Made, family: str, tied: bool, attention: str) -> None:
    bundle = made(family, "fp16", tied, attention)
    given = prefill_feeds(bundle.manifest.language_model)
    wide = given | {"point_embeds": given["point_embeds"].astype(np.float32)}
    for feeds, first, limit in ((given, before, HALF), (wide, before_wide, EXACT)):
        (logits, rows), (wanted, wanted_rows) = after(bundle, "prefill", feeds), first(bundle, "prefill", feeds)
        assert (logits.dtype, rows.dtype, rows.shape) == (wanted.dtype, wanted_rows.dtype, wanted_rows.shape)
        assert_close("logits", logits, wanted, limit)
        for sequence, length in enumerate(given["lengths"]):
            assert_close(ROWS, rows[:length, sequence], wanted_rows[:length, sequence], limit)


@pytest.mark.parametrize("graph", PLUGINS)
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize(("family", "tied"), CHOICES)
def test_the_form(made: Made, family: str, tied: bool, precision: str, graph: str) -> None:
    bundle = made(family, precision, tied)
    spec, name = bundle.manifest.language_model, PLUGINS[graph]
    old, new = (onnx.load(bundle.graph(n), load_external_data=False) for n in (f"{graph}.stacked", name))
    *same, weights = new.graph.input
    for value in old.graph.input:
        if value.name == "point_mask":
            assert value.type.tensor_type.elem_type == TensorProto.BOOL
            value.type.tensor_type.elem_type = TensorProto.INT32  # TensorRT gives plugins no booleans
    assert same == list(old.graph.input) and list(new.graph.output) == list(old.graph.output)
    file = bundle.manifest.files[bundle.manifest.weights[name]]
    kind = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}[precision]
    assert weights == helper.make_tensor_value_info(WEIGHTS, kind, [file.bytes // 2])
    assert not new.graph.initializer, "the weights come as an input"
    (node,) = new.graph.node
    facts = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    operator, inputs = {"decode": (DECODE, DECODE_INPUTS), "prefill": (PREFILL, PREFILL_INPUTS)}[graph]
    fed, given = list(node.input), list(node.output)
    assert (node.op_type, node.domain, fed, given) == (operator, DOMAIN, [*inputs, WEIGHTS], OUTPUTS)
    assert facts["tied"] == spec.tie_word_embeddings == tied
    assert (facts["bf16"], facts["qkv_bias"]) == (precision == "bf16", family == "qwen")
    assert facts["epsilon"] == pytest.approx(spec.rms_norm_eps)
    assert facts.get("causal") == (1 if graph == "prefill" else None)
    assert (facts["plugin_version"], facts["plugin_namespace"]) == (VERSION.encode(), b"")
    index = bundle.weights(name)
    starts = {n: array.__array_interface__["data"][0] for n, array in index.items()}
    base = min(starts.values())
    wanted = [-1 if n is None else (starts[n] - base) // OFFSET_BYTES for n in weight_names(spec)]
    assert facts["offsets"] == wanted
    stored = {t.name for t in old.graph.initializer if t.data_location == TensorProto.EXTERNAL}
    assert stored == index.keys() == set(weight_names(spec)) - {None}, "no weight is left behind"
    sizes = [0 if n is None else index[n].size for n in weight_names(spec)]
    assert sizes == list(tensor_values(model_sizes(spec, precision)))
    onnx.checker.check_model(bundle.graph(name))
    assert bundle.manifest.weights[name] == bundle.manifest.weights["decode"]


def test_full_attention_is_an_attribute(made: Made) -> None:
    node = onnx.load(made(attention="full").graph(PLUGINS["prefill"])).graph.node[-1]
    assert {a.name: a.i for a in node.attribute}["causal"] == 0


def test_the_names_are_those_of_the_library(made: Made) -> None:
    """Of the plugins, of their version and fields, and of the order of the tensors."""
    shell = (HERE / "shell" / "facts.h").read_text()
    assert f'PLUGIN_VERSION[] = "{VERSION}", PLUGIN_NAMESPACE[] = ""' in shell
    assert f"OFFSET_BYTES = {OFFSET_BYTES};" in shell and f"ENDS = {len(FIRST_TENSORS)};" in shell
    assert ", ".join(FIRST_TENSORS) in shell
    assert (
        f"LAYER_TENSORS = {len(LAYER_TENSORS)};  // of each layer: {', '.join(LAYER_TENSORS)}"
        in (HERE / "common" / "model.h").read_text()
    )
    listed = (HERE / "shell" / "facts.cpp").read_text().partition("NAMES[MAX_FIELDS] = {")[2].partition("}")[0]
    fields = re.findall(r'"(\w+)"', listed)
    for graph, folder, operator in (("decode", "decode_step", DECODE), ("prefill", "language_model", PREFILL)):
        assert f'NAME[] = "{operator}"' in (HERE / folder / "plugin.h").read_text()
        node = onnx.load(made().graph(PLUGINS[graph])).graph.node[-1]
        told = {a.name for a in node.attribute} - {"plugin_version", "plugin_namespace"}
        assert told == set(fields if graph == "prefill" else fields[:-1])


@pytest.mark.parametrize("graph", PLUGINS.values())
def test_both_forms_of_the_norm_are_one_node(made: Made, graph: str) -> None:
    plain = onnx.load(made().graph(graph), load_external_data=False)
    scaled = onnx.load(made(norm="scaled").graph(graph), load_external_data=False)
    assert plain == scaled


def test_models_that_are_not_for_the_kernels_have_no_such_graphs(made: Made) -> None:
    bundle = made("qwen", "fp32")
    assert not bundle.manifest.graphs.keys() & PLUGINS.values() and "decode.stacked" in bundle.manifest.graphs
    model = onnx.load(bundle.graph("decode.stacked"), load_external_data=False)
    with pytest.raises(ValueError, match="the model is in fp32, but fp16 or bf16 was expected"):
        to_decode_step(model, bundle.manifest.language_model, "fp32", 0)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"mlp_bias": True}, "its output or MLP products have biases"),
        ({"head_dim": 80}, "heads have 80 channels, but 64 were expected"),
        ({"heads": 3}, "3 query heads share 2 key heads, but a multiple of these was expected"),
        ({"hidden_size": 4104}, "the hidden state has 4104 channels, but a multiple of 8 up to 4096 was expected"),
        ({"intermediate_size": 100}, "the inner size is 100, but a multiple of 8 up to 262144 was expected"),
        ({"heads": 512}, "there are 512 query heads, but at most 256 were expected"),
        ({"layers": 65}, "there are 65 layers, but 1 to 64 were expected"),
        ({"vocab_size": 1 << 20}, "its weight file has 2,1.* values, but TensorRT 8.6 takes 2,147,483,647 in a tensor"),
    ],
)
def test_why_a_model_is_not_for_the_kernels(made: Made, changed: dict[str, int], reason: str) -> None:
    spec = dataclasses.replace(made().manifest.language_model, hidden_size=2048, layers=2, heads=4)
    if "vocab_size" in changed:
        spec = dataclasses.replace(spec, tie_word_embeddings=True)
    assert why_no_plugins(spec, "fp16") is None
    assert re.match(reason, why_no_plugins(dataclasses.replace(spec, **changed), "fp16") or "none") is not None


def test_other_graphs_are_refused_with_the_reason_and_left_as_they_are(made: Made) -> None:
    bundle = made()
    spec, size = bundle.manifest.language_model, weight_file(bundle, "decode").nbytes

    def loaded(graph: str = "decode.stacked") -> onnx.ModelProto:
        return onnx.load(bundle.graph(graph), load_external_data=False)

    def refuse(model: onnx.ModelProto, reason: str, weight_bytes: int = size, prefill: str = "") -> None:
        before = model.SerializeToString()
        with pytest.raises(ValueError, match=reason):
            if prefill:
                to_prefill(model, spec, "fp16", prefill, weight_bytes)
            else:
                to_decode_step(model, spec, "fp16", weight_bytes)
        assert model.SerializeToString() == before

    refuse(
        loaded("decode"), "the graph's inputs are not those of a decode graph with its cache in one tensor: input_ids"
    )
    refuse(loaded("prefill.stacked"), "inputs are not those of a decode graph")
    refuse(loaded(), "inputs are not those of a prefill graph", prefill="causal")
    refuse(loaded("prefill.stacked"), r"node '.*' is not what a prefill graph has there", prefill="full")
    refuse(loaded(PLUGINS["decode"]), "the graph has no weight|is not what a decode graph has there")
    model = loaded()
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
    softmax.attribute[0].i = 1
    refuse(model, f"node '{softmax.name}' is not what a decode graph has there")
    model = loaded()
    model.graph.node.append(helper.make_node("Identity", ["logits"], ["more"]))
    refuse(model, r"there are \d+ nodes, but a decode graph has \d+")
    model = loaded()
    constant = next(t for t in model.graph.initializer if t.name.startswith("constant/float32"))
    constant.raw_data = constant.raw_data[::-1]
    refuse(model, f"tensor '{constant.name}' is not what a decode graph has")
    model = loaded()
    kept = [tensor for tensor in model.graph.initializer if "o_proj" not in tensor.name]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    refuse(model, r"the graph has no weight 'model\.layers\.0\.self_attn\.o_proj\.weight'")
    lies = r"is not [\d,]+ values in half precision within the weight file"
    refuse(loaded(), lies, weight_bytes=size - 2)
    refuse(loaded(), "no 2,147,483,647 values or fewer", weight_bytes=size + 1)
    refuse(loaded(), "no 2,147,483,647 values or fewer", weight_bytes=1 << 32)
    for key, value in (("offset", "8"), ("length", "64"), ("offset", str(size))):
        model = loaded()
        norm = next(tensor for tensor in model.graph.initializer if tensor.name == "model.norm.weight")
        next(entry for entry in norm.external_data if entry.key == key).value = value
        refuse(model, f"tensor 'model.norm.weight' {lies}")


def test_the_stacked_graph_is_what_is_rewritten(made: Made) -> None:
    bundle = made()
    spec, size = bundle.manifest.language_model, weight_file(bundle, "decode").nbytes
    for graph, name in PLUGINS.items():
        model = onnx.load(bundle.graph(graph), load_external_data=False)
        stack_cache(model, spec)
        if graph == "decode":
            to_decode_step(model, spec, "fp16", size)
        else:
            to_prefill(model, spec, "fp16", "causal", size)
        assert model == onnx.load(bundle.graph(name), load_external_data=False)
