"""Graphs whose cache is one tensor compute what the graphs with a tensor for each layer compute."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from export.graph.language_model import shared_graph
from export.graph.weights import WeightFile
from export.passes.stack_cache import stack_cache
from export.quantization.options import quantization_spec
from export.tensorrt_graphs import SHARED, STACKED
from runtime.arrays import Array
from runtime.bundle import PAST, ROWS, Bundle
from runtime.manifest import FILE_NAME, LanguageModelSpec, Manifest
from runtime.pipeline import Pipeline
from runtime.scene import Request
from tests.compare import Tol, assert_close
from tests.exported import FAMILIES, MODES, Export
from tests.graphs.test_form import axes
from tests.scenes import room

TOL = Tol(1e-6, 1e-6, why="the same products; only copies of the cache differ")


def run(bundle: Bundle, graph: str, arrays: dict[str, Array], *, stacked: bool = False) -> dict[str, Array]:
    """What a graph of the bundle computes, as it is or after the pass."""
    model = onnx.load(bundle.graph(graph))
    if stacked:
        stack_cache(model, bundle.manifest.language_model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    outputs = [output.name for output in session.get_outputs()]
    return dict(zip(outputs, session.run(outputs, arrays), strict=True))


def names(spec: LanguageModelSpec) -> list[str]:
    return [f"{kind}.{layer}" for kind in ("key", "value") for layer in range(spec.layers)]


def stacked(tensors: dict[str, Array], spec: LanguageModelSpec, prefix: str = "") -> Array:
    """One tensor [X, B, 2L*K, D] of the tensors of all layers [X, B, K, D], written without the pass."""
    first = tensors[f"{prefix}key.0"]
    whole = np.empty((*first.shape[:2], 2 * spec.layers, *first.shape[2:]), first.dtype)
    for place, name in enumerate(names(spec)):
        whole[:, :, place] = tensors[prefix + name]
    return whole.reshape(*first.shape[:2], -1, first.shape[3])


def uniform(rng: np.random.Generator, *shape: int) -> Array:
    return rng.uniform(-1, 1, shape).astype(np.float32)


def prefill_arrays(spec: LanguageModelSpec, batch: int, positions: int) -> dict[str, Array]:
    rng = np.random.default_rng(3)
    tables = ("cos_3d", "sin_3d", "cos_1d", "sin_1d")
    return {
        "input_ids": rng.integers(0, spec.vocab_size, (batch, positions)).astype(np.int32),
        "point_embeds": uniform(rng, batch, positions, spec.hidden_size),
        "point_mask": rng.random((batch, positions)) < 0.5,
        **{name: uniform(rng, batch, positions, spec.head_dim) for name in tables},
        "lengths": np.asarray([positions, positions - 3][:batch], np.int32),
    }


def decode_arrays(spec: LanguageModelSpec, batch: int, new: int, rows: int) -> dict[str, Array]:
    """The rows at and beyond `past_length` hold what no attention may touch."""
    rng = np.random.default_rng(5)
    lengths = np.asarray([rows - 4, 2][:batch], np.int32)
    past = {f"past_{name}": uniform(rng, rows, batch, spec.kv_heads, spec.head_dim) for name in names(spec)}
    for sequence, length in enumerate(lengths):
        for array in past.values():
            array[length:, sequence] = 1e4
    return {
        "input_ids": rng.integers(0, spec.vocab_size, (batch, new)).astype(np.int32),
        "cos": uniform(rng, batch, new, spec.head_dim),
        "sin": uniform(rng, batch, new, spec.head_dim),
        "past_length": lengths,
        **past,
    }


def stack_past(arrays: dict[str, Array], spec: LanguageModelSpec) -> dict[str, Array]:
    kept = {name: array for name, array in arrays.items() if not name.startswith("past_") or name == "past_length"}
    return kept | {PAST: stacked(arrays, spec, "past_")}


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("mode", [MODES[0], MODES[2]], ids=["causal", "full"])
@pytest.mark.parametrize("family", FAMILIES)
def test_prefill(exported: Export, family: str, mode: tuple[str | None, str | None, str], batch: int) -> None:
    bundle = exported(family, *mode).bundle
    spec = bundle.manifest.language_model
    arrays = prefill_arrays(spec, batch, 17)
    want, got = run(bundle, "prefill", arrays), run(bundle, "prefill", arrays, stacked=True)
    assert sorted(got) == ["logits", ROWS]
    assert_close("logits", got["logits"], want["logits"], TOL)
    assert_close(ROWS, got[ROWS], stacked(want, spec), TOL)


@pytest.mark.parametrize(("batch", "new"), [(1, 1), (2, 1), (2, 3)])
@pytest.mark.parametrize("family", FAMILIES)
def test_decode_over_dirty_rows(exported: Export, family: str, batch: int, new: int) -> None:
    bundle = exported(family).bundle
    spec = bundle.manifest.language_model
    arrays = decode_arrays(spec, batch, new, rows=11)
    want, got = run(bundle, "decode", arrays), run(bundle, "decode", stack_past(arrays, spec), stacked=True)
    assert sorted(got) == ["logits", ROWS]
    assert_close("logits", got["logits"], want["logits"], TOL)
    assert_close(ROWS, got[ROWS], stacked(want, spec), TOL)
    clean = {name: np.where(array == 1e4, array.dtype.type(0), array) for name, array in arrays.items()}
    again = run(bundle, "decode", stack_past(clean, spec), stacked=True)
    assert_close("logits over clean rows", again["logits"], got["logits"], Tol(0.0))


def unstacked(graph: str, bundle: Bundle, tmp_path: Path) -> onnx.ModelProto:
    """A graph with a cache tensor for each layer. The shared one is not in the bundle, so it is made anew."""
    if graph != SHARED:
        return onnx.load(bundle.graph(graph), load_external_data=False)
    manifest = bundle.manifest
    weights = WeightFile(tmp_path / manifest.weights["decode"])
    for name, array in bundle.weights("decode").items():
        weights.add(name, torch.from_numpy(np.array(array)))
    weights.close()
    return shared_graph(manifest.language_model, weights, manifest.precision, "causal")


@pytest.mark.parametrize("graph", ["prefill", "decode", SHARED])
def test_the_form(exported: Export, graph: str, tmp_path: Path) -> None:
    bundle = exported("qwen").bundle
    spec = bundle.manifest.language_model
    plain, model = unstacked(graph, bundle, tmp_path), onnx.ModelProto()
    model.CopyFrom(plain)
    stack_cache(model, spec)
    before, after = (axes([*each.graph.input, *each.graph.output]) for each in (plain, model))
    heads = [2 * spec.layers * spec.kv_heads, spec.head_dim]
    assert after.pop(ROWS) == ["S" if graph == "prefill" else "T", "B", *heads]
    assert after.pop(PAST, None) == (None if graph == "prefill" else ["M", "B", *heads])
    of_layers = [name for name in before if name.startswith(("key.", "value.", "past_key.", "past_value."))]
    assert len(of_layers) == spec.layers * (2 if graph == "prefill" else 4)
    assert after == {name: sizes for name, sizes in before.items() if name not in of_layers}
    assert model.graph.initializer == plain.graph.initializer, "one weight file serves both dialects"
    assert len(model.graph.node) == len(plain.graph.node) + (1 if graph == "prefill" else 2)
    path = tmp_path / "stacked.onnx"
    onnx.save(model, path)
    if graph != SHARED:
        shutil.copy(bundle.folder / bundle.manifest.weights[graph], tmp_path)
    onnx.checker.check_model(str(path), full_check=True)
    written = graph if graph == SHARED else f"{graph}.stacked"
    assert model.graph == onnx.load(bundle.graph(written), load_external_data=False).graph, "what the bundle has"
    assert bundle.manifest.weights[written] == bundle.manifest.weights["decode"]


def test_graphs_without_the_cache_tensors_are_refused(exported: Export) -> None:
    bundle = exported("qwen").bundle
    spec = bundle.manifest.language_model
    model = onnx.load(bundle.graph("decode"), load_external_data=False)
    model.graph.output.remove(next(tensor for tensor in model.graph.output if tensor.name == "value.1"))
    with pytest.raises(ValueError, match=r"no tensor 'value\.1', but one for each of 2 layers is needed"):
        stack_cache(model, spec)
    model = onnx.load(bundle.graph("decode"), load_external_data=False)
    model.graph.input.remove(next(tensor for tensor in model.graph.input if tensor.name == "past_value.0"))
    with pytest.raises(ValueError, match=r"no tensor 'past_value\.0', but one for each"):
        stack_cache(model, spec)
    with pytest.raises(ValueError, match=r"no tensor 'key\.0'"):
        stack_cache(onnx.load(bundle.graph("encoder"), load_external_data=False), spec)


def test_a_quantized_bundle_has_no_stacked_graph(exported: Export) -> None:
    manifest = exported("qwen", quantization=quantization_spec("int8")).bundle.manifest
    assert sorted(manifest.graphs) == sorted(manifest.weights) == ["decode", "encoder", "prefill"]
    assert not [name for name in manifest.files if "stacked" in name]


def test_a_bundle_from_before_still_runs(exported: Export, tmp_path: Path) -> None:
    case = exported("qwen")
    folder = Path(shutil.copytree(case.bundle.folder, tmp_path / "bundle"))
    without_stacked_graph(folder)
    cloud, request = room(1, 300), Request(max_new_tokens=4)
    results = [Pipeline.load(each, threads=1)(cloud, request) for each in (folder, case.bundle.folder)]
    assert results[0].tokens == results[1].tokens


def without_stacked_graph(folder: Path) -> None:
    """Make a bundle what it was before the stacked graphs came."""
    manifest = Manifest.read(folder)
    for name in STACKED:
        file = manifest.graphs.pop(name)
        manifest.weights.pop(name)
        manifest.files.pop(file)
        (folder / file).unlink()
    manifest.write(folder)
    assert "stacked" not in json.dumps((folder / FILE_NAME).read_text())
