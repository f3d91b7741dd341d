"""Prefill and decode by our kernels inside TensorRT, against TensorRT's own engines of a bundle and ONNX Runtime.

Needs bundles in half precision with engines, and the library of `make plugins`. The engines with our kernels are built
here, in a copy of the bundle, for several sequences at a time.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plugins.library import VARIABLE, library_path
from runtime.arrays import Array
from runtime.bundle import Bundle
from runtime.engines.cuda.gpu import Gpu, free_memory
from runtime.engines.plans import PLUGINS, find_plans
from runtime.pipeline import Pipeline
from tests.compare import EXACT, assert_close
from tests.gpu.cases import Case, cache_rows, decode_steps, feeds, greedy, part, smallest_cosine, start

pytestmark = pytest.mark.gpu
COSINES = {"fp16": 0.9999, "bf16": 0.995}
TOKENS, BATCH = 256, 4
GRAPHS = tuple(PLUGINS)  # prefill and decode
ROOM = 384 << 20  # bytes beside weights, scratch memory and cache: kernels and cuBLAS, which the driver rounds


@pytest.fixture(scope="session")
def folder(case: Case, gpu: Gpu, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the bundle whose engines for prefill and decode are the plugin's."""
    if importlib.util.find_spec("tensorrt") is None:
        pytest.skip("tensorrt is not installed")
    import tensorrt

    from export.build import main

    bundle, version = Bundle.open(case.folder, verify=False), str(tensorrt.__version__)
    if not set(PLUGINS.values()) <= set(bundle.manifest.graphs):
        pytest.skip(f"{case.folder.name} has no graphs for the plugins")
    if float(gpu.compute_capability) < 8:
        pytest.skip(f"the kernels are for compute capability 8.0 or more, and this GPU has {gpu.compute_capability}")
    if not library_path().is_file() and VARIABLE not in os.environ:  # one that is named must be there
        pytest.skip(f"{library_path()} is not built: make plugins")
    copy = Path(shutil.copytree(case.folder, tmp_path_factory.mktemp("plugins") / case.folder.name))
    options = ["--graphs", *GRAPHS, "--plugins", "--max_batch", str(BATCH)]
    assert main(["--bundle", str(copy), *options]) == 0, "a library that is there but does not fit is a failure"
    record = find_plans(Bundle.open(copy, verify=False), gpu, version).record
    assert [record.plans[graph].plugins > 0 for graph in ("encoder", *GRAPHS)] == [False, True, True]
    return copy


@pytest.fixture(scope="session")
def both(case: Case, folder: Path) -> Iterator[list[Pipeline]]:
    """The portable engines and those with our kernels."""
    options: dict[str, Any] = {"backend": "tensorrt", "device": "cuda:0", "verify": False}
    with Pipeline.load(case.folder, **options) as portable, Pipeline.load(folder, **options) as plugin:
        yield [portable, plugin]
    gc.collect()


def assert_near(case: Case, name: str, got: Array, *wanted: Array) -> None:
    """To each of `wanted`, by direction."""
    assert np.isfinite(got).all(), f"{name}: {(~np.isfinite(got)).sum()} of {got.size} values are not finite"
    cosines = [smallest_cosine(got, want) for want in wanted]
    assert min(cosines) > COSINES[case.manifest.precision], f"{name}: cosines {cosines}"


@pytest.mark.parametrize("graph", GRAPHS)
def test_they_look_like_the_portable_engines(both: list[Pipeline], graph: str) -> None:
    """Weights are no input that anybody feeds; the mask is int32, for TensorRT gives plugins no booleans."""
    portable, plugin = (getattr(pipeline.engines, graph) for pipeline in both)
    wide = {name: replace(spec, dtype="int32") for name, spec in portable.inputs.items() if spec.dtype == "bool"}
    assert dict(plugin.inputs) == dict(portable.inputs) | wide
    shapes = [  # an axis that was built for one size is shown as that
        {name: (spec.dtype, len(spec.shape), spec.shape[-1]) for name, spec in engine.outputs.items()}
        for engine in (plugin, portable)
    ]
    assert shapes[0] == shapes[1]


def test_prefill(case: Case, both: list[Pipeline], recorded: dict[str, Array]) -> None:
    """Logits and cache rows against the portable engine and ONNX Runtime."""
    layers, found = case.manifest.language_model.layers, [part(recorded, "prefill.")]
    for pipeline in both:
        engine, backend = pipeline.engines.prefill, pipeline.engines.backend
        with backend.exclusive():
            results = engine.run(feeds(pipeline, engine, recorded))
            found.append({name: backend.download(tensor) for name, tensor in results.items()})
    onnx_runtime, portable, plugin = found
    assert_near(case, "logits", plugin["logits"], portable["logits"], onnx_runtime["logits"])
    assert_near(case, "rows", *(cache_rows(each, layers) for each in (plugin, portable, onnx_runtime)))


def test_logits_along_recorded_tokens(case: Case, both: list[Pipeline], recorded: dict[str, Array]) -> None:
    """Each engine over its own cache, so that rows are compared too."""
    found = []
    for pipeline in both:
        with pipeline.engines.backend.exclusive():
            decoder, _, cache = start(pipeline, recorded)
            tokens = [recorded[f"decode.{step}.input_ids"] for step in range(decode_steps(recorded))]
            logits = np.stack([decoder.step(token, cache) for token in tokens])
            found.append((logits, cache.download_rows(max(cache.lengths))))
    (wanted, wanted_rows), (logits, rows) = found
    onnx_runtime = np.stack([recorded[f"decode.{step}.logits"] for step in range(decode_steps(recorded))])
    assert_near(case, "logits", logits, wanted, onnx_runtime)
    assert_near(case, "rows", rows, wanted_rows)


def test_the_loop_on_the_device_gives_the_plain_loops_tokens(both: list[Pipeline], recorded: dict[str, Array]) -> None:
    """Captured into CUDA graphs or not, past the border of a prefix size, and twice the same."""
    limit = min(TOKENS, both[1].manifest.cache.capacity - int(recorded["prefill.lengths"].max()))
    plain, first, second = (greedy(both[1], recorded, limit, stays=stays, stops=False) for stays in (False, True, True))
    assert len(first) == limit and plain == first == second
    assert both[1].engines.backend.steps.graphs.refused is None  # type: ignore[union-attr]


def test_two_runs_are_equal_to_the_bit(both: list[Pipeline], recorded: dict[str, Array]) -> None:
    found = []
    for _ in range(2):
        with both[1].engines.backend.exclusive():
            decoder, logits, cache = start(both[1], recorded)
            found.append((logits.copy(), decoder.step(recorded["decode.0.input_ids"], cache)))
    for got, want in zip(*found, strict=True):
        assert_close("logits", got, want, EXACT)


def prompts(recorded: Mapping[str, Array], lengths: list[int]) -> dict[str, Array]:
    """The recorded prompt once for each length, cut there; what is behind stays as padding."""
    rows = max(lengths)
    given = {name: array for name, array in part(dict(recorded), "prefill.").items() if array.ndim > 1}
    many = {f"prefill.{name}": np.repeat(array[:, :rows], len(lengths), axis=0) for name, array in given.items()}
    return many | {"prefill.lengths": np.array(lengths, np.int32)}


def test_several_sequences_are_as_each_alone(case: Case, both: list[Pipeline], recorded: dict[str, Array]) -> None:
    """Prompts of different lengths and different tokens behind them, and the rows that they leave in the cache."""
    pipeline, whole = both[1], int(recorded["prefill.lengths"][0])
    lengths = [whole, whole // 2, 2, whole - 1][:BATCH]
    tokens = np.random.default_rng(0).integers(0, case.manifest.language_model.vocab_size, (5, len(lengths), 1))

    def along(chosen: list[int]) -> tuple[Array, Array]:
        """Logits [steps, B, V] of these sequences together, and their caches."""
        with pipeline.engines.backend.exclusive():
            decoder, logits, cache = start(pipeline, prompts(recorded, [lengths[i] for i in chosen]))
            given = [np.ascontiguousarray(ids[chosen]) for ids in tokens.astype(np.int32)]
            steps = [np.array(logits), *(np.array(decoder.step(ids, cache))[:, -1] for ids in given)]
            return np.stack(steps), cache.download_rows(max(cache.lengths))

    together, rows = along(list(range(len(lengths))))
    for index, length in enumerate(lengths):
        alone, own = along([index])
        assert_near(case, f"logits of sequence {index}", together[:, index], alone[:, 0])
        kept = length + len(tokens)
        assert_near(case, f"rows of sequence {index}", rows[:kept, index], own[:kept, 0])


def test_the_weights_are_on_the_device_once(folder: Path, gpu: Gpu) -> None:
    """No plan has them, and loading takes no second copy."""
    import tensorrt

    bundle = Bundle.open(folder, verify=False)
    plans = find_plans(bundle, gpu, str(tensorrt.__version__)).record.plans
    [name] = {bundle.manifest.weights[graph] for graph in PLUGINS.values()}
    weights = bundle.manifest.files[name].bytes
    assert sum(plans[graph].bytes for graph in GRAPHS) < weights / 2
    gc.collect()
    before = free_memory()[0]
    with Pipeline.load(folder, backend="tensorrt", device="cuda:0", verify=False) as pipeline:
        taken = before - free_memory()[0]
        taken -= plans["encoder"].bytes + pipeline.engines.backend.scratch.bytes  # type: ignore[attr-defined]
    assert taken < 1.5 * weights + ROOM
