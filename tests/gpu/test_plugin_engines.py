"""Prefill and decode by our kernels inside TensorRT, against TensorRT's own engines of the same bundle.

Needs bundles in half precision with engines of their own for prefill and decode, and the library of `make plugins`.
The engines with the plugins are built here, in a copy of the bundle.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.engines.plugins import find_plugins
from plugins.library import library_path
from runtime.bundle import Bundle
from runtime.engines.cuda.gpu import Gpu
from runtime.engines.plans import PLUGINS, find_plans
from runtime.engines.record import SHARED
from runtime.pipeline import Pipeline
from tests.compare import EXACT, assert_close
from tests.gpu.cases import Case, decode_steps, greedy, smallest_cosine, start

pytestmark = pytest.mark.gpu
COSINE = 0.9999  # of half precision
TOKENS = 256


@pytest.fixture(scope="session")
def folder(case: Case, gpu: Gpu, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the bundle whose prefill and decode engines are the plugins'."""
    if importlib.util.find_spec("tensorrt") is None:
        pytest.skip("tensorrt is not installed")
    import tensorrt

    from export.build import main

    bundle, version = Bundle.open(case.folder, verify=False), str(tensorrt.__version__)
    if not bundle.manifest.graphs.keys() >= set(PLUGINS.values()):
        pytest.skip(f"{case.folder.name} has no graphs for the plugins")
    if gpu.compute_capability != "9.0":
        pytest.skip(f"the plugin is compiled for compute capability 9.0, and this GPU has {gpu.compute_capability}")
    if not library_path().is_file():
        pytest.skip(f"{library_path()} is not built: make plugins")
    find_plugins(version, gpu)  # a library that is there but does not fit is a failure, no reason to skip
    if find_plans(bundle, gpu, version).record.language_model == SHARED:
        pytest.skip(f"{case.folder.name} has one engine for prefill and decode")
    copy = Path(shutil.copytree(case.folder, tmp_path_factory.mktemp("plugins") / case.folder.name))
    assert main(["--bundle", str(copy), "--graphs", "prefill", "decode", "--plugins"]) == 0
    plans = find_plans(Bundle.open(copy, verify=False), gpu, version).record.plans
    assert plans["prefill"].plugins and plans["decode"].plugins
    return copy


@pytest.fixture(scope="session")
def both(case: Case, folder: Path) -> Iterator[list[Pipeline]]:
    """The portable engines and those with the plugin."""
    options: dict[str, Any] = {"backend": "tensorrt", "device": "cuda:0", "verify": False}
    with Pipeline.load(case.folder, **options) as portable, Pipeline.load(folder, **options) as plugin:
        yield [portable, plugin]


def test_it_looks_like_the_portable_engine(both: list[Pipeline]) -> None:
    portable, plugin = (pipeline.engines.decode for pipeline in both)
    assert dict(plugin.inputs) == dict(portable.inputs)
    assert dict(plugin.outputs) == dict(portable.outputs)


def test_logits_along_recorded_tokens(both: list[Pipeline], recorded: dict[str, Any]) -> None:
    """Each engine over its own cache, so that rows are compared too."""
    found = []
    for pipeline in both:
        with pipeline.engines.backend.exclusive():
            decoder, _, cache = start(pipeline, recorded)
            tokens = [recorded[f"decode.{step}.input_ids"] for step in range(decode_steps(recorded))]
            logits = np.stack([decoder.step(token, cache) for token in tokens])
            found.append((logits, cache.download_rows(max(cache.lengths))))
    for got, want in zip(*reversed(found), strict=True):
        assert np.isfinite(got).all() and smallest_cosine(got, want) > COSINE


def test_the_loop_on_the_device_gives_the_plain_loops_tokens(both: list[Pipeline], recorded: dict[str, Any]) -> None:
    """Captured into CUDA graphs or not, past the border of a prefix size, and twice the same."""
    plain, first, second = (
        greedy(both[1], recorded, TOKENS, stays=stays, stops=False) for stays in (False, True, True)
    )
    assert len(first) == TOKENS and plain == first == second


def test_two_runs_are_equal_to_the_bit(both: list[Pipeline], recorded: dict[str, Any]) -> None:
    found = []
    for _ in range(2):
        with both[1].engines.backend.exclusive():
            decoder, _, cache = start(both[1], recorded)
            found.append(decoder.step(recorded["decode.0.input_ids"], cache))
    assert_close("logits", found[0], found[1], EXACT)
