"""A GPU or a reason why not; each pipeline loaded once."""

from __future__ import annotations

import gc
import importlib.util
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from runtime.arrays import Array
from runtime.engines import open_backend
from runtime.engines.cuda.gpu import Gpu, read_gpu
from runtime.errors import EngineError
from runtime.pipeline import Pipeline
from tests.gpu.cases import VARIABLE, Case, all_cases

BACKENDS = ("tensorrt", "onnxruntime")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`case` is each bundle, `smallest` the one with the least weights."""
    cases = sorted(all_cases(), key=lambda case: case.bytes)
    for name, chosen in (("case", cases), ("smallest", cases[:1])):
        if name in metafunc.fixturenames:
            missing = pytest.param(None, marks=pytest.mark.skip(reason=f"{VARIABLE} names no bundles with tensors"))
            ids = [case.folder.name for case in chosen] or ["no bundle"]
            metafunc.parametrize(name, chosen or [missing], ids=ids, scope="session")
    if "backend" in metafunc.fixturenames:
        metafunc.parametrize("backend", BACKENDS, scope="session")


@pytest.fixture(scope="session")
def gpu() -> Gpu:
    try:
        return read_gpu(0)
    except EngineError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def backend_here(gpu: Gpu, backend: str) -> str:
    """A back end that can compute on this GPU."""
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    if backend == "onnxruntime":
        try:
            open_backend(backend, "cuda:0").close()
        except EngineError as error:
            pytest.skip(str(error))
    return backend


@pytest.fixture(scope="session")
def recorded(case: Case) -> dict[str, Array]:
    return case.recorded()


@pytest.fixture(scope="session")
def pipeline(case: Case, backend_here: str) -> Iterator[Pipeline]:
    """A bundle on a back end, until the next one comes."""
    with Pipeline.load(case.folder, backend=backend_here, device="cuda:0", verify=False) as loaded:
        yield loaded
    gc.collect()


@pytest.fixture
def memory(gpu: Gpu) -> Iterator[Any]:
    from runtime.engines.cuda.memory import CudaMemory

    opened = CudaMemory(0)
    yield opened
    opened.close()


@pytest.fixture
def steps(memory: Any) -> Iterator[Any]:
    from runtime.engines.cuda.steps import CudaSteps

    opened = CudaSteps(memory, captures=True)
    yield opened
    opened.close()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
