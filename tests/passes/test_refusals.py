"""What cannot be quantized, or not run, is refused with a sentence; what was chosen stands in the manifest."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from export.bundle import ExportOptions, check_export
from export.checkpoint import open_checkpoint
from export.cli import main
from export.quantization.options import check_quantization, quantization_spec
from runtime.bundle import Bundle
from runtime.engines import open_backend
from runtime.errors import BundleError, EngineError, SceneError
from runtime.manifest import FILE_NAME, SIGNATURE, QuantizationSpec, signature
from runtime.run import Engines
from tests.exported import Export
from tests.fakes import CountingBackend


def test_the_choice_stands_in_the_manifest(exported: Export) -> None:
    manifest = exported("qwen", quantization=quantization_spec("int4", 64, "int8", "none")).bundle.manifest
    assert manifest.dialect == "onnxruntime"
    assert manifest.quantization == QuantizationSpec(bits=4, block_size=64, symmetric=False, head=8, embeddings=None)
    plain = exported("qwen").bundle.manifest
    assert (plain.dialect, plain.quantization) == ("portable", None)


def test_embeddings_follow_the_head_unless_told() -> None:
    assert quantization_spec("int4").embeddings == quantization_spec("int4").head == 8
    assert quantization_spec("int8", head="int4").embeddings == 4
    assert quantization_spec("int8", head="none").embeddings is None
    assert quantization_spec("int8", head="none", embeddings="int8").embeddings == 8


def test_another_back_end_refuses_the_dialect(exported: Export) -> None:
    bundle = exported("qwen", quantization=quantization_spec("int8")).bundle
    with pytest.raises(
        EngineError, match=r"use operators of onnxruntime, which the back end 'counting' does not have\. Run"
    ):
        Engines.load(bundle, CountingBackend())


def test_an_onnxruntime_that_refuses_the_operators_may_be_too_old(exported: Export, tmp_path: Path) -> None:
    """Stood in for by a graph whose operator has an attribute that no version knows."""
    folder = tmp_path / "bundle"
    shutil.copytree(exported("qwen", quantization=quantization_spec("int8")).bundle.folder, folder)
    bundle = Bundle.open(folder)
    model = onnx.load(bundle.graph("decode"), load_external_data=False)
    for node in model.graph.node:
        if node.op_type == "GatherBlockQuantized":
            node.attribute.append(onnx.helper.make_attribute("of_the_future", 1))
    bundle.graph("decode").write_bytes(model.SerializeToString())
    with pytest.raises(EngineError, match=r"refuses the graph: .*of_the_future.*need version 1\.23 or newer\."):
        open_backend(threads=1).load(bundle, "decode")


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a manifest and sign it again."""
    facts = json.loads((folder / FILE_NAME).read_text())
    facts.pop(SIGNATURE)
    change(facts)
    (folder / FILE_NAME).write_text(json.dumps(facts | {SIGNATURE: signature(facts)}))


def test_an_unknown_dialect_is_refused(exported: Export, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(exported("qwen").bundle.folder, folder)
    rewrite(folder, lambda facts: facts.update(dialect="openvino"))
    with pytest.raises(BundleError, match="the dialect is 'openvino', but this runtime knows portable and onnxruntime"):
        Bundle.open(folder)


def test_a_bundle_from_before_quantization_still_opens(exported: Export, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(exported("qwen").bundle.folder, folder)
    rewrite(folder, lambda facts: (facts.pop("dialect"), facts.pop("quantization")))
    assert Bundle.open(folder).manifest.quantization is None


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_is_refused(tiny_checkpoint: Callable[..., Path], tmp_path: Path, precision: str) -> None:
    checkpoint = open_checkpoint(tiny_checkpoint("qwen"))
    options = ExportOptions(precision=precision, quantization=quantization_spec("int8"))
    with pytest.raises(SceneError, match=f"--quantization works on --precision fp32, but {precision} was asked for"):
        check_export(checkpoint, tmp_path / "bundle", options)


def test_block_sizes_are_refused(tiny_checkpoint: Callable[..., Path]) -> None:
    spec = open_checkpoint(tiny_checkpoint("qwen")).config.language_model
    with pytest.raises(SceneError, match=r"--block_size is 48, but it is one of 16, 32, 64, 128, 256\."):
        check_quantization(quantization_spec("int8", 48), spec, "fp32")
    odd = dataclasses.replace(spec, intermediate_size=96)
    check_quantization(quantization_spec("int8", 32), odd, "fp32")
    with pytest.raises(
        SceneError, match=r"--block_size 64 does not divide the model's intermediate size, 96\. Choose from 16, 32\."
    ):
        check_quantization(quantization_spec("int8", 64), odd, "fp32")
    with pytest.raises(SceneError, match=r"intermediate size, 100\. This model cannot be quantized\."):
        check_quantization(quantization_spec("int8", 64), dataclasses.replace(spec, intermediate_size=100), "fp32")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--quantize_head", "int8"], "--quantize_head says how to quantize, but not that: add --quantization"),
        (["--quantization", "int8", "--precision", "fp16"], "--quantization works on --precision fp32"),
        (["--quantization", "int4", "--block_size", "24"], "--block_size is 24, but it is one of"),
    ],
)
def test_the_command_line_refuses(
    tiny_checkpoint: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    sentence: str,
) -> None:
    output = tmp_path / "bundle"
    assert main(["--model", str(tiny_checkpoint("qwen")), "--output", str(output), "--quiet", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"export_model.py: {sentence}")
    assert not output.exists()


def test_the_command_line_quantizes(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    arguments = ["--quantization", "int4", "--block_size", "128", "--quantize_head", "int4"]
    assert main(["-m", str(tiny_checkpoint("qwen")), "-o", str(output), "--quiet", *arguments]) == 0
    want = QuantizationSpec(bits=4, block_size=128, symmetric=False, head=4, embeddings=4)
    assert Bundle.open(output).manifest.quantization == want
