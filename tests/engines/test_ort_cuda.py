"""ONNX Runtime as a GPU back end: its sessions run on the CPU here, in the memory of a GPU that is none.

What is ours is checked: addresses, the stream's order, the cache, the loop. `tests/gpu` has the same on a GPU.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from typing import Any

import onnxruntime as ort
import pytest

from export.quantization.options import quantization_spec
from runtime.bundle import Bundle
from runtime.engines import open_backend
from runtime.errors import EngineError
from runtime.pipeline import Pipeline
from runtime.recording import Recorder
from tests.engines.built import CLOUDS, run, tokens_of
from tests.exported import FAMILIES, Export
from tests.fake_gpu_fixture import FakeGpu

Start = Callable[..., FakeGpu]
CPU = "CPUExecutionProvider"


@pytest.fixture
def gpu(fake_gpu: Start, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    started = fake_gpu("10.16.1", XDG_CACHE_HOME=str(tmp_path))
    monkeypatch.delitem(sys.modules, "runtime.engines.ort_cuda", raising=False)
    import runtime.engines.ort_cuda as module

    monkeypatch.setattr(module, "PROVIDER", CPU)
    monkeypatch.setattr(module.CudaPlace, "kind", "cpu")
    monkeypatch.setattr(module.CudaPlace, "fresh", copied)
    monkeypatch.setattr(module.OrtEngine, "run", in_order(module.OrtEngine.run))
    yield started
    sys.modules.pop("runtime.engines.ort_cuda", None)


def copied(place: Any, value: Any, dtype: str) -> Any:
    """The CPU's session makes its fresh outputs in memory that the fake does not know."""
    assert PLACES, "no back end is open"
    return PLACES[-1].upload(value.numpy())


def in_order(run: Any) -> Any:
    """A session on the user's stream runs behind what was asked for before."""

    def after(self: Any, *arguments: Any) -> Any:
        PLACES[-1].synchronize()
        return run(self, *arguments)

    return after


PLACES: list[Any] = []


@pytest.fixture
def backend(gpu: FakeGpu) -> Iterator[Any]:
    opened = open_backend("onnxruntime", "cuda:0")
    PLACES.append(opened)
    yield opened
    PLACES.clear()
    opened.close()


@pytest.mark.parametrize("deferred", [False, True], ids=["at once", "deferred"])
@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_are_those_of_the_cpu(exported: Export, gpu: FakeGpu, backend: Any, family: str, deferred: bool) -> None:
    gpu.device.deferred = deferred
    bundle = exported(family, "3D_RoPE", "3D_only").bundle
    pipeline = Pipeline(bundle, backend)
    reference = Pipeline(bundle, open_backend("onnxruntime", threads=1))
    for clouds in ([CLOUDS[0]], CLOUDS, [CLOUDS[0]]):
        assert tokens_of(run(pipeline, clouds)) == tokens_of(run(reference, clouds))
    assert gpu.device.counts["ran:next_tokens"] == 3 * 64, "steps stayed on the device"
    assert gpu.device.counts["cudaStreamBeginCapture"] == 0, "a session's run is not ours to capture"
    recorder = Recorder(backend, 2)
    assert tokens_of(run(pipeline, recorder=recorder)) == tokens_of(run(reference))
    assert gpu.device.counts["ran:next_tokens"] == 3 * 64, "recorded, the plain loop runs"


def test_a_step_copies_nothing_and_allocates_nothing(exported: Export, gpu: FakeGpu, backend: Any) -> None:
    pipeline = Pipeline(exported("qwen").bundle, backend)
    run(pipeline, tokens=57)
    counts = []
    for tokens in (17, 57):
        before = gpu.device.counts.copy()
        run(pipeline, tokens=tokens)
        after = gpu.device.counts - before
        counts.append([after[name] for name in ("cudaMalloc", "HostToDevice", "DeviceToHost", "DeviceToDevice")])
    assert counts[0] == counts[1]


def test_a_closed_back_end_has_given_all_back(exported: Export, gpu: FakeGpu) -> None:
    for _ in range(3):
        backend = open_backend("onnxruntime", "cuda:1")
        PLACES.append(backend)
        pipeline = Pipeline(exported("qwen").bundle, backend)
        run(pipeline, tokens=12)
        assert gpu.device.bytes_allocated(1) > 0 == gpu.device.bytes_allocated(0)
        pipeline.close()
        pipeline.close()
        PLACES.clear()
        del pipeline, backend
        gc.collect()
        assert gpu.device.live(1) == gpu.device.live(None) == 0


def test_quantized_bundles_are_refused(exported: Export, backend: Any) -> None:
    bundle = exported("qwen", quantization=quantization_spec("int8")).bundle
    with pytest.raises(EngineError) as caught:
        Pipeline(bundle, backend)
    assert str(caught.value) == (
        f"{bundle.folder}: quantized bundles run on the CPU. Use --device cpu, or export without --quantization."
    )


def test_a_package_without_cuda_is_refused(fake_gpu: Start) -> None:
    fake_gpu("10.16.1")
    with pytest.raises(EngineError) as caught:
        open_backend("onnxruntime", "cuda:0")
    assert str(caught.value) == (
        f"onnxruntime {ort.__version__} is installed without CUDA. For --device cuda install onnxruntime-gpu in its "
        f"place: pip uninstall onnxruntime; pip install '.[onnxruntime-gpu]'"
    )


def test_a_session_that_fell_back_to_the_cpu_is_refused(
    exported: Export, gpu: FakeGpu, backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime does so without a word where CUDA's libraries do not load."""
    import runtime.engines.ort_cuda as module

    monkeypatch.setattr(module, "PROVIDER", "CUDAExecutionProvider")
    monkeypatch.setattr(module, "open_session", lambda *args: real(*args[:3], [CPU]))
    from runtime.engines.ort import open_session as real

    bundle: Bundle = exported("qwen").bundle
    with pytest.raises(EngineError, match=r"cannot use the GPU: its CUDA or cuDNN libraries do not load\. Install the"):
        backend.load(bundle, "decode")


def test_no_such_gpu(gpu: FakeGpu) -> None:
    with pytest.raises(EngineError, match=r"there is no device cuda:5, only devices cuda:0 to cuda:1\."):
        open_backend("onnxruntime", "cuda:5")
