"""fp16 and bf16 bundles: typed as designed, finite where half precision would overflow, right within its error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from export.bundle import ExportOptions, write_bundle
from export.checkpoint import Checkpoint
from runtime.arrays import Array
from runtime.bundle import Bundle
from runtime.engines import open_backend
from runtime.errors import EngineError
from runtime.pipeline import Pipeline
from runtime.prompt import batch_prompts, merge_prompt, user_content
from runtime.run import Run
from runtime.scene import Request
from tests.exported import FAMILIES, Export
from tests.scenes import room

HALF = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
FLOAT32_ISLANDS = {"Softmax", "ReduceMean", "Pow", "Sqrt", "Erf", "LayerNormalization", "Sin", "Cos"}
PRODUCTS = {"Gemm", "MatMul"}
COSINE = 0.9999
COSINE_LARGE = (
    0.98  # a score of 10^5 comes out of a half-precision product in steps of 64: few digits, but no more lost
)


class Amplified:
    """A checkpoint whose queries and keys reach `size` after their projection."""

    def __init__(self, checkpoint: Checkpoint, size: float) -> None:
        self.checkpoint, self.config, self.size = checkpoint, checkpoint.config, size

    def __getattr__(self, name: str) -> object:
        return getattr(self.checkpoint, name)

    def float_tensor(self, name: str) -> torch.Tensor:
        tensor = self.checkpoint.float_tensor(name)
        if name.endswith(("q_proj.bias", "k_proj.bias")):
            tensor = torch.sign(torch.sin(torch.arange(tensor.numel()) + 1.0)) * self.size
        return tensor.half().float()  # what a half-precision bundle holds


def write(checkpoint: object, folder: Path, precision: str) -> Bundle:
    write_bundle(checkpoint, folder, ExportOptions(precision=precision, max_length=1024))  # type: ignore[arg-type]
    return Bundle.open(folder)


def typed_nodes(path: Path) -> Iterator[tuple[onnx.NodeProto, set[int]]]:
    """Every node with the types of its floating-point inputs."""
    model = onnx.load(path, load_external_data=False)
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True).graph
    types = {tensor.name: tensor.data_type for tensor in inferred.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        types[value.name] = value.type.tensor_type.elem_type
    floats = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16}
    for node in model.graph.node:
        yield node, {types[name] for name in node.input} & floats


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_strongly_typed_with_float32_islands(exported: Export, tmp_path: Path, family: str, precision: str) -> None:
    bundle = write(exported(family).checkpoint, tmp_path / "bundle", precision)
    for graph in ("encoder", "prefill", "decode"):
        path = bundle.graph(graph)
        onnx.checker.check_model(str(path), full_check=True)
        for node, inputs in typed_nodes(path):
            if node.op_type in FLOAT32_ISLANDS:
                assert inputs == {TensorProto.FLOAT}, f"{graph}: {node.name} computes in {inputs}"
            elif node.op_type in PRODUCTS and (graph != "encoder" or "point_proj" in "".join(node.input)):
                assert inputs == {HALF[precision]}, f"{graph}: {node.name} computes in {inputs}"


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_cache_and_hidden_states_have_the_bundles_type(exported: Export, tmp_path: Path, precision: str) -> None:
    bundle = write(exported("qwen").checkpoint, tmp_path / "bundle", precision)
    for graph in ("prefill", "decode"):
        model = onnx.load(bundle.graph(graph), load_external_data=False).graph
        types = {value.name: value.type.tensor_type.elem_type for value in (*model.input, *model.output)}
        rows = {kind for name, kind in types.items() if "key" in name or "value" in name or name == "point_embeds"}
        assert rows == {HALF[precision]}
        assert types["logits"] == TensorProto.FLOAT
        assert {types[name] for name in types if name.startswith(("cos", "sin"))} == {TensorProto.FLOAT}


def prefill_and_steps(bundle: Bundle, forced: Array) -> tuple[list[Array], dict[str, Array]]:
    """Logits after the prompt and after each forced token, and prefill's feeds."""
    pipeline = Pipeline(bundle, open_backend("onnxruntime", threads=1))
    scene = pipeline.prepare(room(1), Request(clean_up=False))
    ids = pipeline.tokenizer.encode_prompt(user_content("all"))
    prompt = batch_prompts([merge_prompt(ids, len(scene.patch_coords), bundle.manifest.prompt)])
    run = Run(pipeline.engines)
    embeds = run.encode([scene], prompt)
    logits, cache = run.start([scene], prompt, embeds)
    feeds = {
        "input_ids": prompt.input_ids,
        "point_mask": prompt.point_mask,
        "lengths": prompt.lengths,
        "point_embeds": pipeline.engines.backend.download(embeds),
        **run.tables([scene], prompt),
    }
    steps = [run.decoder.step(np.array([[token]]), cache)[0, -1].copy() for token in forced]
    return [logits[0].copy(), *steps], feeds


def cosine(one: Array, other: Array) -> float:
    one, other = one.astype(np.float64).ravel(), other.astype(np.float64).ravel()
    return float(one @ other / np.sqrt((one @ one) * (other @ other)))


def assert_within_half(got: list[Array], want: list[Array], least: float = COSINE) -> None:
    """Close in direction, and the same token wherever the margin exceeds twice the measured error."""
    for step, (half, full) in enumerate(zip(got, want, strict=True)):
        assert np.isfinite(half).all(), f"step {step}"
        assert cosine(half, full) >= least, f"step {step}: cosine {cosine(half, full)}"
        first, second = np.sort(full)[-1], np.sort(full)[-2]
        if first - second > 2 * np.abs(half - full).max():
            assert half.argmax() == full.argmax(), f"step {step}"


@pytest.mark.parametrize("size", [0.5, 130.0])
def test_fp16_through_onnxruntime_is_right_up_to_its_error(exported: Export, tmp_path: Path, size: float) -> None:
    """Queries and keys of 130 make scores near 10^6; half precision ends at 65504."""
    checkpoint = Amplified(exported("qwen", "3D_RoPE", "3D_only").checkpoint, size)
    forced = np.random.default_rng(0).integers(0, 600, 12)
    got, _ = prefill_and_steps(write(checkpoint, tmp_path / "fp16", "fp16"), forced)
    want, _ = prefill_and_steps(write(checkpoint, tmp_path / "fp32", "fp32"), forced)
    assert_within_half(got, want)


def evaluate_prefill(checkpoint: Amplified, folder: Path) -> tuple[dict[str, Array], list[Array]]:
    """Prefill of the fp16 bundle by onnx's own evaluator, and the fp32 logits to compare with.

    ONNX Runtime widens half-precision products on the CPU; the evaluator rounds each of them.
    """
    half = write(checkpoint, folder / "fp16", "fp16")
    want, _ = prefill_and_steps(write(checkpoint, folder / "fp32", "fp32"), np.array([], np.int32))
    _, feeds = prefill_and_steps(half, np.array([], np.int32))
    evaluator = ReferenceEvaluator(onnx.load(half.graph("prefill")))
    return dict(zip(evaluator.output_names, evaluator.run(None, feeds), strict=True)), want


@pytest.mark.parametrize(("size", "least"), [(0.5, COSINE), (130.0, COSINE_LARGE)])
def test_fp16_through_the_reference_evaluator(exported: Export, tmp_path: Path, size: float, least: float) -> None:
    checkpoint = Amplified(exported("qwen", "3D_RoPE", "3D_only").checkpoint, size)
    results, want = evaluate_prefill(checkpoint, tmp_path)
    assert results["key.0"].dtype == np.float16
    assert size < 100 or np.abs(results["key.0"].astype(np.float32)).max() > 130
    assert_within_half([results["logits"][0]], want, least)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_without_the_scaling_of_queries_fp16_overflows(
    exported: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guard is needed: the same case without it is not finite."""
    monkeypatch.setattr("export.graph.attention.Q_SCALE", 1.0)
    results, _ = evaluate_prefill(Amplified(exported("qwen", "3D_RoPE", "3D_only").checkpoint, 130.0), tmp_path)
    assert not np.isfinite(results["logits"]).all()


def test_bf16_on_the_cpu_is_refused_with_advice(exported: Export, tmp_path: Path) -> None:
    bundle = write(exported("qwen").checkpoint, tmp_path / "bundle", "bf16")
    with pytest.raises(EngineError, match=r"bf16.*--precision fp32"):
        Pipeline(bundle, open_backend("onnxruntime"))
