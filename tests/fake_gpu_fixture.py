"""The fixture `fake_gpu`: `tensorrt` and `cuda.bindings` without a GPU, in this process and in those it starts.

    from tests.fake_gpu_fixture import fake_gpu  # noqa: F401

    def test_something(fake_gpu):
        gpu = fake_gpu("10.16.1")      # a TensorRT version; once more in the same test for another
        gpu.device.faults.add("execute:decode")
        gpu.kernels.register("append_rows", twin)

What can be set and asked is documented in tests/fake_gpu/fake_device.py.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).with_name("fake_gpu")
FAKES = ("tensorrt", "cuda", "fake_device", "fake_streams", "fake_kernels", "fake_twins", "tensorrt_names")
OURS = (
    "runtime.engines.trt",
    "runtime.engines.cuda",
    "runtime.decode.device",
    "export.engines",
    "export.build",
    "benchmarks.gpu.build",
    "benchmarks.gpu.matrix",
)


@dataclass(frozen=True)
class FakeGpu:
    """The modules of the fake."""

    device: Any  # fake_device.device
    kernels: Any  # fake_kernels
    tensorrt: Any
    cudart: Any


def _touches(name: str) -> bool:
    """A fake, or a module of ours that imports one."""
    package = any(name == fake or name.startswith(fake + ".") for fake in FAKES)
    return package or name.startswith(OURS)


def _forget() -> dict[str, Any]:
    """Take the modules out, also from the packages they hang on."""
    gone = {name: sys.modules.pop(name) for name in list(sys.modules) if _touches(name)}
    for name in gone:
        package, _, module = name.rpartition(".")
        if package in sys.modules:
            vars(sys.modules[package]).pop(module, None)
    return gone


def _restore(modules: dict[str, Any]) -> None:
    sys.modules.update(modules)
    for name, module in modules.items():
        package, _, short = name.rpartition(".")
        if package:
            setattr(sys.modules[package], short, module)


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., FakeGpu]]:
    """`fake_gpu(version="8.6.0", **environment)`, e.g. `fake_gpu("11.4.0", FAKE_GPU_NAMES="")`: no GPU."""
    before = _forget()
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setenv("PYTHONPATH", str(FOLDER), prepend=os.pathsep)

    def start(version: str = "8.6.0", **environment: str) -> FakeGpu:
        _forget()
        for name, value in {"FAKE_TENSORRT": version, **environment}.items():
            monkeypatch.setenv(name, value)
        load = importlib.import_module
        kernels, cudart = load("fake_kernels"), load("cuda.bindings.runtime")
        return FakeGpu(load("fake_device").device, kernels, load("tensorrt"), cudart)

    yield start
    _forget()
    _restore(before)
