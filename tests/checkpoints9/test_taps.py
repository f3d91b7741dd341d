"""The pass that makes queries, keys and tables outputs, and the export that writes its graph."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from export.parity.tapping import with_taps
from export.passes.taps import add_taps
from export.quantization.options import quantization_spec
from export.tensorrt_graphs import SHARED
from runtime.arrays import Array
from runtime.bundle import TAPS, Bundle
from runtime.errors import BundleError, EngineError, SceneError
from runtime.prompt import batch_prompts
from runtime.recording import Recorder
from runtime.run import Run
from runtime.rung.taps import record_taps
from tests.blocked import run_without
from tests.checkpoints9.conftest import Tapped
from tests.checkpoints9.scene import prepared
from tests.compare import EXACT, assert_close
from tests.exported import FAMILIES, MODES, Export
from tests.graphs.test_form import axes

TABLES = ["tap2.cos", "tap2.sin", "tap6.cos", "tap6.sin"]


def names(*layers: int) -> set[str]:
    return {*TABLES, *(f"tap{tap}.{kind}.{layer}" for tap in (1, 9) for kind in ("query", "key") for layer in layers)}


def loaded(bundle: Bundle, graph: str) -> onnx.ModelProto:
    return onnx.load(bundle.graph(graph), load_external_data=False)


def outputs(bundle: Bundle, graph: str) -> dict[str, Array]:
    """What a graph gives in the place of prefill."""
    pipeline, scene = prepared(bundle)
    engine, prompt = pipeline.engines.backend.load(bundle, graph), batch_prompts([scene.prompt] * 2)
    recorder = Recorder(pipeline.engines.backend, 0)
    run = Run(dataclasses.replace(pipeline.engines, prefill=engine), recorder)
    run.start([scene] * 2, prompt, run.encode([scene] * 2, prompt))
    return {name: recorder.arrays[f"{graph}.{name}"] for name in engine.outputs}


@pytest.mark.parametrize(
    "options",
    [{}, {"precision": "fp16"}, {"quantization": quantization_spec("int8")}],
    ids=["fp32", "fp16", "int8"],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_other_outputs_keep_every_bit(tapped: Tapped, family: str, options: dict[str, object]) -> None:
    bundle = tapped(family, **options).bundle
    plain, got = outputs(bundle, "prefill"), outputs(bundle, TAPS)
    assert got.keys() - plain.keys() == names(0, 1)
    for name, want in plain.items():
        assert got[name].dtype == want.dtype
        assert_close(name, got[name], want, EXACT)
    for layer in (0, 1):
        rows = got[f"tap9.key.{layer}"].swapaxes(0, 1)
        assert_close("the key rows are what the tap shows", rows, plain[f"key.{layer}"], EXACT)


@pytest.mark.parametrize("mode", [MODES[0], MODES[2]], ids=["causal", "full"])
@pytest.mark.parametrize("family", FAMILIES)
def test_form(tapped: Tapped, family: str, mode: tuple[str | None, str | None, str]) -> None:
    bundle = tapped(family, *mode).bundle
    spec = bundle.manifest.language_model
    model, plain = loaded(bundle, TAPS), loaded(bundle, "prefill")
    onnx.checker.check_model(str(bundle.graph(TAPS)), full_check=True)
    shapes = axes(model.graph.output)
    assert [shapes[name] for name in TABLES] == [["B", "S", spec.head_dim]] * 4
    for tap in (1, 9):
        assert shapes[f"tap{tap}.query.1"] == ["B", "S", spec.heads, spec.head_dim]
        assert shapes[f"tap{tap}.key.0"] == ["B", "S", spec.kv_heads, spec.head_dim]
    assert model.graph.input == plain.graph.input
    assert model.graph.initializer == plain.graph.initializer, "one weight file serves both"
    count = len(plain.graph.node)
    assert model.graph.node[:count] == plain.graph.node[:]
    assert {node.op_type for node in model.graph.node[count:]} == {"Split", "Identity"}


def test_taps_have_the_graphs_own_type(tapped: Tapped) -> None:
    model = loaded(tapped("qwen", precision="fp16").bundle, TAPS)
    types = {tensor.name: tensor.type.tensor_type.elem_type for tensor in model.graph.output}
    assert {types[name] for name in TABLES} == {onnx.TensorProto.FLOAT}
    assert {types[name] for name in names(0, 1) - {*TABLES}} == {onnx.TensorProto.FLOAT16}


def test_graph_that_prefill_and_decode_share_can_be_tapped(tapped: Tapped) -> None:
    bundle = tapped("qwen").bundle
    model = loaded(bundle, SHARED)
    add_taps(model, bundle.manifest.language_model, [1])
    assert names(1) <= axes(model.graph.output).keys()
    assert axes(model.graph.output)["tap1.query.1"][:2] == ["B", "T"]


def test_graphs_made_otherwise_are_refused(tapped: Tapped) -> None:
    bundle = tapped("qwen").bundle
    spec = bundle.manifest.language_model
    with pytest.raises(ValueError, match=r"layer 0: 'key\.0' is an input or a constant, but Transpose was expected"):
        add_taps(loaded(bundle, "encoder"), spec, [0])
    model = loaded(bundle, "prefill")
    add = next(node for node in model.graph.node if node.output[0] == turned(model, 1))
    add.op_type = "Sub"
    with pytest.raises(ValueError, match=r"layer 1: .* is made by Sub, but Add was expected"):
        add_taps(model, spec, [0, 1])
    model = loaded(bundle, "prefill")
    (cos,) = (node for node in model.graph.node if "cos_1d" in node.input)
    model.graph.node.append(onnx.helper.make_node("Unsqueeze", ["cos_1d", "axis"], ["other"]))
    add = next(node for node in model.graph.node if node.output[0] == turned(model, 1))
    by_cos = next(node for node in model.graph.node if node.output[0] == add.input[0])
    assert cos.op_type == "Where"
    by_cos.input[1] = "other"
    with pytest.raises(ValueError, match=r"layers \[0, 1\] turn by different tables"):
        add_taps(model, spec, [0, 1])


def turned(model: onnx.ModelProto, layer: int) -> str:
    """What a layer splits into queries and keys."""
    makers = {output: node for node in model.graph.node for output in node.output}
    value: str = makers[makers[f"key.{layer}"].input[0]].input[0]
    return value


def test_without_the_option_nothing_changes(tapped: Tapped, exported: Export) -> None:
    with_taps, without = tapped("llama").bundle, exported("llama", "3D_RoPE", "3D_only").bundle
    assert with_taps.manifest.graphs.keys() - without.manifest.graphs.keys() == {TAPS}
    assert TAPS not in without.manifest.weights
    assert with_taps.manifest.weights[TAPS] == without.manifest.weights["prefill"]
    files = with_taps.manifest.files
    assert files.keys() - without.manifest.files.keys() == {"prefill.taps.onnx"}
    assert {name: files[name] for name in without.manifest.files} == without.manifest.files
    pipeline, scene = prepared(without)
    with pytest.raises(BundleError, match=r"has no graph 'prefill.taps'.* again with --taps all"):
        record_taps(pipeline, scene)


@pytest.mark.parametrize("quantization", [None, quantization_spec("int8")], ids=["fp32", "int8"])
def test_a_bundle_without_taps_is_tapped_for_a_while(tapped: Tapped, exported: Export, quantization: object) -> None:
    plain = exported("qwen", "3D_RoPE", "3D_only", quantization=quantization).bundle
    files = {path.name: path.stat().st_mtime_ns for path in plain.folder.iterdir()}
    with with_taps(plain, [0, 1]) as bundle:
        path = bundle.graph(TAPS)
        got = outputs(bundle, TAPS)
    assert not path.exists()
    assert files == {path.name: path.stat().st_mtime_ns for path in plain.folder.iterdir()}
    want = outputs(tapped("qwen", quantization=quantization).bundle, TAPS)
    assert got.keys() == want.keys()
    for name, array in want.items():
        assert_close(name, got[name], array, EXACT)


def test_other_layers_than_exported_can_be_tapped(tapped: Tapped) -> None:
    with with_taps(tapped("llama").bundle, [1]) as bundle:
        found = {tensor.name for tensor in loaded(bundle, TAPS).graph.output if tensor.name.startswith("tap")}
    assert found == names(1)


@pytest.mark.parametrize("call", ["tempfile.mkdtemp", "shutil.copyfile"])
def test_a_disk_without_room_is_told(
    tapped: Tapped, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, call: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    bundle = tapped().bundle
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("os.link", full)
    monkeypatch.setattr(call, full)
    with pytest.raises(SceneError, match=r"No space left on device.*Set TMPDIR"), with_taps(bundle, [0]):
        pass
    assert not list(tmp_path.iterdir())


def test_on_another_disk_the_weights_are_copied(tapped: Tapped, monkeypatch: pytest.MonkeyPatch) -> None:
    def other_disk(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    plain = tapped().bundle
    monkeypatch.setattr("os.link", other_disk)
    with with_taps(plain, [0, 1]) as bundle:
        got = outputs(bundle, TAPS)
    assert_close("tap9.key.1", got["tap9.key.1"], outputs(plain, TAPS)["tap9.key.1"], EXACT)


def test_a_back_end_that_has_compiled_graphs_is_refused(tapped: Tapped, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline, scene = prepared(tapped().bundle)
    monkeypatch.setattr(pipeline.engines.backend, "name", "tensorrt")
    with pytest.raises(EngineError, match="'tensorrt' cannot show queries and keys"):
        record_taps(pipeline, scene)


@pytest.mark.parametrize(("option", "layers"), [("all", (0, 1)), ("1", (1,)), ("1, 0,1", (0, 1))])
def test_the_command_taps_the_layers_named(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, option: str, layers: tuple[int, ...]
) -> None:
    from export.cli import main

    folder = tmp_path / "bundle"
    assert main(["-m", str(tiny_checkpoint("qwen")), "-o", str(folder), "--quiet", "--taps", option]) == 0
    bundle = Bundle.open(folder)
    found = {tensor.name for tensor in loaded(bundle, TAPS).graph.output if tensor.name.startswith("tap")}
    assert found == names(*layers)


@pytest.mark.parametrize(("option", "named"), [("2", "'2'"), ("0,-1", "'-1'"), ("", "''"), ("first", "'first'")])
def test_layers_that_do_not_exist_are_refused(
    tiny_checkpoint: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    option: str,
    named: str,
) -> None:
    from export.cli import main

    folder = tmp_path / "bundle"
    assert main(["-m", str(tiny_checkpoint("qwen")), "-o", str(folder), "--quiet", f"--taps={option}"]) == 2
    error = capsys.readouterr().err
    assert f"--taps names layer {named}, but the model has layers 0 to 1; or give: all." in error
    assert not folder.exists()


def test_taps_are_recorded_without_torch_and_onnx(tapped: Tapped) -> None:
    bundle = tapped("qwen").bundle
    code = f"""
import json
from runtime.bundle import Bundle
from runtime.engines import open_backend
from runtime.pipeline import Pipeline
from runtime.points import PointCloud
from runtime.rung.taps import record_taps
from runtime.scene import Request
import numpy as np
pipeline = Pipeline(Bundle.open({str(bundle.folder)!r}), open_backend("onnxruntime", threads=1))
points = np.random.default_rng(0).uniform(0, 3, (500, 3))
scene = pipeline.prepare(PointCloud(points, np.full((500, 3), 0.5)), Request(clean_up=False))
print(json.dumps(sorted(record_taps(pipeline, scene))))
"""
    said = run_without(["torch", "onnx", "transformers"], code)
    assert said.returncode == 0, said.stderr
    assert set(json.loads(said.stdout)) == {*names(0, 1), "taps.point_mask"}
