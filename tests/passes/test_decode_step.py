"""The decode graph as one node: its form, its numbers by the kernel's definition, and what is refused."""

from __future__ import annotations

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
from export.passes.decode_step import DOMAIN, OPERATOR, to_decode_step, weight_names
from export.passes.stack_cache import stack_cache
from plugins.decode_step.sizes import KERNEL
from runtime.arrays import Array
from runtime.bundle import PAST, ROWS, Bundle
from runtime.engines.plans import PLUGIN
from runtime.manifest import LanguageModelSpec
from tests.compare import Tol, assert_close
from tests.exported import FAMILIES
from tests.passes.decode_step_op import SpatialLMDecodeStep

EXACT = Tol(2e-4, 2e-4, why="float32 against float64")
HALF = Tol(3e-2, 3e-2, why="vectors in products are float16")
CHOICES = [(family, tied) for family in FAMILIES for tied in (True, False)]
Made = Callable[..., Bundle]


@pytest.fixture(scope="module")
def made(tiny_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """`made(family, precision, tied)`: a bundle, each written once."""
    bundles: dict[tuple[str, str, bool], Bundle] = {}

    def make(family: str = "qwen", precision: str = "fp16", tied: bool = True, norm: str = "plain") -> Bundle:
        key = (family, precision, tied)
        if key not in bundles or norm != "plain":
            folder = tmp_path_factory.mktemp("bundle")
            options = ExportOptions(precision=precision, max_length=1024, tensorrt_norm=norm)
            write_bundle(open_checkpoint(tiny_checkpoint(family, tied=tied)), folder / "b", options)
            bundles[key] = Bundle.open(folder / "b")
        return bundles[key]

    yield make


def feeds(spec: LanguageModelSpec, length: int, dtype: type = np.float16) -> dict[str, Array]:
    """One token over `length` rows; behind them is what no attention may touch."""
    rng = np.random.default_rng(length)
    past = rng.uniform(-1, 1, (16, 1, 2 * spec.layers * spec.kv_heads, spec.head_dim)).astype(dtype)
    past[length:] = 6e4
    angles = rng.uniform(0, 6, (1, 1, spec.head_dim)).astype(np.float32)
    return {
        "input_ids": rng.integers(0, spec.vocab_size, (1, 1)).astype(np.int32),
        "cos": np.cos(angles),
        "sin": np.sin(angles),
        "past_length": np.array([length], np.int32),
        PAST: past,
    }


def plugin(bundle: Bundle) -> ReferenceEvaluator:
    return ReferenceEvaluator(onnx.load(bundle.graph(PLUGIN)), new_ops=[SpatialLMDecodeStep])


@pytest.mark.parametrize("length", [0, 7, 16])
@pytest.mark.parametrize(("family", "tied"), CHOICES)
def test_the_same_numbers_before_and_after(made: Made, family: str, tied: bool, length: int) -> None:
    """Before: ONNX Runtime, on the same values in float32 and in the half precision of the bundle."""
    bundle = made(family, "fp16", tied)
    spec = bundle.manifest.language_model
    given = feeds(spec, length)
    logits, rows = plugin(bundle).run(["logits", ROWS], given)
    before = onnxruntime.InferenceSession(bundle.graph("decode.stacked"), providers=["CPUExecutionProvider"])
    for name, got, want in zip(("logits", ROWS), (logits, rows), before.run(["logits", ROWS], given), strict=True):
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        assert_close(name, got.astype(np.float32), want.astype(np.float32), HALF)
    wide = onnx.load(bundle.graph("decode.stacked"))
    to_float32(wide)
    session = onnxruntime.InferenceSession(wide.SerializeToString(), providers=["CPUExecutionProvider"])
    given |= {PAST: given[PAST].astype(np.float32)}  # so that the newest row is not rounded either
    logits, rows = plugin(bundle).run(["logits", ROWS], given)
    want = session.run(["logits", ROWS], given)
    assert_close("logits", logits, want[0], EXACT)
    assert_close(ROWS, rows, want[1], EXACT)


def to_float32(model: onnx.ModelProto) -> None:
    """The graph with all that is half in float32."""
    graph = model.graph
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype(np.float32), tensor.name)
            )
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize(("family", "tied"), CHOICES)
def test_the_form(made: Made, family: str, tied: bool, precision: str) -> None:
    bundle = made(family, precision, tied)
    before, after = (onnx.load(bundle.graph(name), load_external_data=False) for name in ("decode.stacked", PLUGIN))
    assert list(after.graph.input) == list(before.graph.input)
    assert list(after.graph.output) == list(before.graph.output)
    (node,) = after.graph.node
    spec, facts = bundle.manifest.language_model, {a.name: helper.get_attribute_value(a) for a in node.attribute}
    assert (node.op_type, node.domain, list(node.output)) == (OPERATOR, DOMAIN, ["logits", ROWS])
    assert facts["tied"] == spec.tie_word_embeddings == tied
    assert (facts["bf16"], facts["qkv_bias"]) == (precision == "bf16", family == "qwen")
    assert facts["epsilon"] == pytest.approx(spec.rms_norm_eps)
    assert (facts["plugin_version"], facts["plugin_namespace"]) == (b"1", b"")
    weights = {tensor.name: tensor for tensor in before.graph.initializer}
    assert list(node.input[5:]) == [tensor.name for tensor in after.graph.initializer] == list(weight_names(spec))
    assert all(tensor == weights[tensor.name] for tensor in after.graph.initializer), "one weight file serves both"
    stored = {name for name, tensor in weights.items() if tensor.data_location == TensorProto.EXTERNAL}
    assert stored == set(node.input[5:]), "no weight is left behind"
    onnx.checker.check_model(bundle.graph(PLUGIN))
    assert bundle.manifest.weights[PLUGIN] == bundle.manifest.weights["decode"]


def test_the_names_are_those_of_the_library() -> None:
    """Of the plugin, and of its fields in the order in which it has them."""
    folder = KERNEL.parent
    assert (
        f'PLUGIN_NAME[] = "{OPERATOR}", PLUGIN_VERSION[] = "1", PLUGIN_NAMESPACE[] = ""'
        in (folder / "plugin.h").read_text()
    )
    listed = (folder / "plugin.cpp").read_text().partition("NAMES[FIELDS] = {")[2].partition("}")[0]
    fields = [name.strip().strip('"') for name in listed.split(",")]
    from export.passes.decode_step import _attributes
    from plugins.decode_step.models import QWEN

    spec = type("Spec", (), {"tie_word_embeddings": True})()
    assert sorted(fields) == sorted(_attributes(QWEN, spec).keys() - {"plugin_version", "plugin_namespace"})


def test_both_forms_of_the_norm_are_one_node(made: Made) -> None:
    plain = onnx.load(made().graph(PLUGIN), load_external_data=False)
    scaled = onnx.load(made(norm="scaled").graph(PLUGIN), load_external_data=False)
    assert plain == scaled


def test_models_that_are_not_for_the_kernel_have_no_such_graph(made: Made) -> None:
    bundle = made("qwen", "fp32")
    assert PLUGIN not in bundle.manifest.graphs and "decode.stacked" in bundle.manifest.graphs
    model = onnx.load(bundle.graph("decode.stacked"), load_external_data=False)
    with pytest.raises(ValueError, match="the model is in fp32, but fp16 or bf16 was expected"):
        to_decode_step(model, bundle.manifest.language_model, "fp32")


def test_other_graphs_are_refused_with_the_reason_and_left_as_they_are(made: Made) -> None:
    bundle = made()
    spec = bundle.manifest.language_model

    def loaded(graph: str = "decode.stacked") -> onnx.ModelProto:
        return onnx.load(bundle.graph(graph), load_external_data=False)

    def refuse(model: onnx.ModelProto, reason: str) -> None:
        before = model.SerializeToString()
        with pytest.raises(ValueError, match=reason):
            to_decode_step(model, spec, "fp16")
        assert model.SerializeToString() == before

    refuse(
        loaded("decode"), "the graph's inputs are not those of a decode graph with its cache in one tensor: input_ids"
    )
    refuse(loaded("prefill.stacked"), "inputs are not those of a decode graph")
    refuse(loaded(PLUGIN), "the graph has no weight|is not what a decode graph has there")
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


def test_the_stacked_graph_is_what_is_rewritten(made: Made) -> None:
    bundle = made()
    model = onnx.load(bundle.graph("decode"), load_external_data=False)
    stack_cache(model, bundle.manifest.language_model)
    to_decode_step(model, bundle.manifest.language_model, "fp16")
    assert model == onnx.load(bundle.graph(PLUGIN), load_external_data=False)
