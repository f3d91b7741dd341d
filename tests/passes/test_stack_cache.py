"""Graphs whose cache is one tensor compute what the graphs with a tensor for each layer compute."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from export.passes.stack_cache import stack_cache
from export.quantization.options import quantization_spec
from runtime.arrays import Array
from runtime.bundle import PAST, ROWS, Bundle
from runtime.engines import open_backend
from runtime.engines.host import host_array
from runtime.manifest import FILE_NAME, LanguageModelSpec, Manifest
from runtime.pipeline import Pipeline
from runtime.scene import Request
from tests.compare import Tol, assert_close
from tests.exported import FAMILIES, MODES, Export
from tests.scenes import room

TOL = Tol(1e-6, 1e-6, why="the same products; only copies of the cache differ")


def run(bundle: Bundle, graph: str, arrays: dict[str, Array]) -> dict[str, Array]:
    backend = open_backend("onnxruntime", threads=1)
    results = backend.load(bundle, graph).run({name: backend.upload(array) for name, array in arrays.items()})
    return {name: host_array(tensor) for name, tensor in results.items()}


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
    want, got = run(bundle, "prefill", arrays), run(bundle, "prefill.stacked", arrays)
    assert sorted(got) == ["logits", ROWS]
    assert_close("logits", got["logits"], want["logits"], TOL)
    assert_close(ROWS, got[ROWS], stacked(want, spec), TOL)


@pytest.mark.parametrize(("batch", "new"), [(1, 1), (2, 1), (2, 3)])
@pytest.mark.parametrize("family", FAMILIES)
def test_decode_over_dirty_rows(exported: Export, family: str, batch: int, new: int) -> None:
    bundle = exported(family).bundle
    spec = bundle.manifest.language_model
    arrays = decode_arrays(spec, batch, new, rows=11)
    want, got = run(bundle, "decode", arrays), run(bundle, "decode.stacked", stack_past(arrays, spec))
    assert sorted(got) == ["logits", ROWS]
    assert_close("logits", got["logits"], want["logits"], TOL)
    assert_close(ROWS, got[ROWS], stacked(want, spec), TOL)
    clean = {name: np.where(array == 1e4, array.dtype.type(0), array) for name, array in arrays.items()}
    again = run(bundle, "decode.stacked", stack_past(clean, spec))
    assert_close("logits over clean rows", again["logits"], got["logits"], Tol(0.0))


@pytest.mark.parametrize("graph", ["prefill", "decode"])
def test_the_form_of_the_stacked_graphs(exported: Export, graph: str) -> None:
    bundle = exported("qwen").bundle
    spec = bundle.manifest.language_model
    path = bundle.graph(f"{graph}.stacked")
    onnx.checker.check_model(str(path), full_check=True)
    plain, model = (onnx.load(each, load_external_data=False) for each in (bundle.graph(graph), path))
    axes = {
        tensor.name: [axis.dim_param or axis.dim_value for axis in tensor.type.tensor_type.shape.dim]
        for tensor in (*model.graph.input, *model.graph.output)
    }
    heads = [2 * spec.layers * spec.kv_heads, spec.head_dim]
    assert axes[ROWS] == ["S" if graph == "prefill" else "T", "B", *heads]
    assert axes.get(PAST) == (["M", "B", *heads] if graph == "decode" else None)
    assert not [name for name in axes if name.startswith(("key.", "value.", "past_key.", "past_value."))]
    assert model.graph.initializer == plain.graph.initializer, "one weight file serves both dialects"
    assert len(model.graph.node) == len(plain.graph.node) + (2 if graph == "decode" else 1)
    assert bundle.manifest.weights[f"{graph}.stacked"] == bundle.manifest.weights[graph]


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


def test_a_quantized_bundle_has_no_stacked_graphs(exported: Export) -> None:
    manifest = exported("qwen", quantization=quantization_spec("int8")).bundle.manifest
    assert sorted(manifest.graphs) == sorted(manifest.weights) == ["decode", "encoder", "prefill"]
    assert not [name for name in manifest.files if "stacked" in name]


def test_a_bundle_from_before_still_runs(exported: Export, tmp_path: Path) -> None:
    case = exported("qwen")
    folder = Path(shutil.copytree(case.bundle.folder, tmp_path / "bundle"))
    without_stacked_graphs(folder)
    cloud, request = room(1, 300), Request(max_new_tokens=4)
    results = [Pipeline.load(each, threads=1)(cloud, request) for each in (folder, case.bundle.folder)]
    assert results[0].tokens == results[1].tokens


def without_stacked_graphs(folder: Path) -> None:
    """Make a bundle what it was before the stacked graphs came."""
    manifest = Manifest.read(folder)
    for name in ("prefill.stacked", "decode.stacked"):
        file = manifest.graphs.pop(name)
        manifest.weights.pop(name)
        manifest.files.pop(file)
        (folder / file).unlink()
    manifest.write(folder)
    assert "stacked" not in json.dumps((folder / FILE_NAME).read_text())
