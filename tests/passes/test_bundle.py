"""Quantized bundles from export to logits, on the tiny models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from export.bundle import ExportOptions, bundle_bytes, write_bundle
from export.checkpoint import open_checkpoint
from export.passes.common import MICROSOFT
from export.quantization.blocks import dequantize, quantize
from export.quantization.options import quantization_spec
from export.quantization.storage import Scheme
from runtime.arrays import Array
from runtime.bundle import Bundle
from runtime.engines import open_backend
from runtime.pipeline import Pipeline
from runtime.prompt import batch_prompts
from runtime.run import Run
from runtime.scene import Request
from tests.compare import EXACT, assert_close
from tests.exported import FAMILIES, Export, Exported
from tests.scenes import room

STEPS = 32
TEXT = np.random.default_rng(0).integers(0, 600, STEPS).astype(np.int32)


def logits_along_the_text(bundle: Bundle) -> Array:
    """Logits [STEPS + 1, V] after the prompt of a small room and after each token of a fixed text."""
    pipeline = Pipeline(bundle, open_backend("onnxruntime", threads=1))
    scene = pipeline.prepare(room(1, 3000), Request(clean_up=False))
    prompt, run = batch_prompts([scene.prompt]), Run(pipeline.engines)
    first, cache = run.start([scene], prompt, run.encode([scene], prompt))
    one_by_one = [run.decoder.step(token[None, None], cache)[0] for token in TEXT[: STEPS // 2]]
    at_once = run.decoder.step(TEXT[None, STEPS // 2 :], cache)[0]
    return np.concatenate([first, *one_by_one, at_once])


def cosines(got: Array, want: Array) -> Array:
    values: Array = (got * want).sum(-1) / np.linalg.norm(got, axis=-1) / np.linalg.norm(want, axis=-1)
    return values


def rounded_bundle(case: Exported, plain: Bundle, folder: Path) -> Bundle:
    """The float32 bundle with every quantized weight replaced by what its codes stand for."""
    quantization = case.bundle.manifest.quantization
    assert quantization is not None
    scheme = Scheme(quantization, case.bundle.manifest.language_model.tie_word_embeddings)
    shutil.copytree(plain.folder, folder)
    file = folder / plain.manifest.weights["decode"]
    index = json.loads(file.with_name(f"{file.name}.index.json").read_text())
    for name, weight in plain.weights("decode").items():
        (bits,) = scheme.forms(name)
        if bits is not None:
            blocks = quantize(torch.from_numpy(weight.copy()), bits, quantization.block_size, quantization.symmetric)
            with file.open("r+b") as opened:
                opened.seek(index[name]["offset"])
                opened.write(dequantize(blocks, bits).numpy().tobytes())
    return Bundle.open(folder, verify=False)


@pytest.mark.parametrize("preset", ["int8", "int4"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_bundle_computes_with_its_rounded_weights(exported: Export, family: str, preset: str, tmp_path: Path) -> None:
    """Against float32 graphs over the same rounded weights: only the rounding of the rows inside products differs."""
    mode = (family, "3D_RoPE", "3D_only")
    case = exported(*mode, quantization=quantization_spec(preset), tied=family == "qwen")
    plain = exported(*mode, tied=family == "qwen").bundle
    got = logits_along_the_text(case.bundle)
    want = logits_along_the_text(rounded_bundle(case, plain, tmp_path / "rounded"))
    assert cosines(got, want).min() > 0.998
    assert cosines(got, want).mean() > 0.9995
    assert (got.argmax(-1) == want.argmax(-1)).mean() >= 0.9
    lost = cosines(want, logits_along_the_text(plain)).min()
    assert 0.5 < lost < (0.9999 if preset == "int8" else 0.99), "what the rounded weights themselves cost"


@pytest.mark.parametrize("tied", [True, False])
def test_eight_bits_keep_most_tokens(exported: Export, tied: bool) -> None:
    want = logits_along_the_text(exported(tied=tied).bundle)
    got = logits_along_the_text(exported(tied=tied, quantization=quantization_spec("int8")).bundle)
    assert cosines(got, want).min() > 0.99
    assert (got.argmax(-1) == want.argmax(-1)).mean() >= 0.8


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("head", "embeddings"), list(product(["int8", "int4", "none"], repeat=2)))
def test_head_and_embeddings_are_by_choice(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, head: str, embeddings: str, tied: bool
) -> None:
    """Each form is stored once, the progress adds up, and the engines compute."""
    checkpoint = open_checkpoint(tiny_checkpoint("qwen", tied=tied))
    options = ExportOptions(quantization=quantization_spec("int4", 64, head, embeddings), max_length=512)
    written: list[int] = []
    write_bundle(checkpoint, tmp_path / "bundle", options, written.append)
    bundle = Bundle.open(tmp_path / "bundle")
    assert sum(written) == bundle_bytes(checkpoint, options)
    table = bundle.manifest.language_model.vocab_size * bundle.manifest.language_model.hidden_size
    big = [record for record in stored(bundle) if record["bytes"] >= table // 2]
    forms = {head, embeddings} if tied else [head, embeddings]
    assert sorted(record["bytes"] for record in big) == sorted(
        {"int8": 1, "int4": 0.5, "none": 4}[f] * table for f in forms
    )
    assert np.isfinite(logits_along_the_text(bundle)).all()


def stored(bundle: Bundle) -> list[dict[str, int]]:
    """One record for each place in the language model's file, however many names it has."""
    path = bundle.folder / (bundle.manifest.weights["decode"] + ".index.json")
    return list({record["offset"]: record for record in json.loads(path.read_text()).values()}.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_graphs_change_only_where_they_must(exported: Export, family: str) -> None:
    quantized, plain = exported(family, quantization=quantization_spec("int4")).bundle, exported(family).bundle
    layers = plain.manifest.language_model.layers
    for graph in ("prefill", "decode"):
        before, after = (onnx.load(b.graph(graph), load_external_data=False) for b in (plain, quantized))
        onnx.checker.check_model(str(quantized.graph(graph)))
        own = [node.op_type for node in after.graph.node if node.domain == MICROSOFT]
        assert sorted(own) == ["GatherBlockQuantized"] + ["MatMulNBits"] * (4 * layers + 1)
        assert "Gemm" not in {node.op_type for node in after.graph.node}
        assert [list(node.output) for node in after.graph.node] == [list(node.output) for node in before.graph.node]
        assert (after.graph.input, after.graph.output) == (before.graph.input, before.graph.output)
    assert quantized.graph("encoder").read_bytes() == plain.graph("encoder").read_bytes()
    for name, weight in plain.weights("encoder").items():
        assert_close(name, quantized.weights("encoder")[name], weight, EXACT)


def test_prefill_and_decode_share_the_quantized_weights(exported: Export) -> None:
    bundle = exported("qwen", quantization=quantization_spec("int8")).bundle
    places = []
    for graph in ("prefill", "decode"):
        model = onnx.load(bundle.graph(graph), load_external_data=False)
        external = [t for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
        places.append({t.name: {entry.key: entry.value for entry in t.external_data} for t in external})
    assert places[0] == places[1]
    assert {place["location"] for place in places[0].values()} == {"language_model.weights"}
