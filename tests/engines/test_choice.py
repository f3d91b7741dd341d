"""Which back end runs a bundle, and what the user is told about it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from export.quantization.options import quantization_spec
from runtime.bundle import Bundle
from runtime.engines import open_backend
from runtime.engines.choice import Choice, choose
from runtime.errors import EngineError
from runtime.pipeline import Pipeline
from tests.engines.shop import HERE, Shop, rebuild
from tests.exported import Export
from tests.fake_gpu_fixture import FakeGpu

GPU = dataclasses.replace(HERE, name="NVIDIA Fake 9000")
CPU = Choice("onnxruntime", "cpu")


def with_note(choice: Choice, device: str = "cpu") -> str:
    assert (choice.backend, choice.device) == ("onnxruntime", device)
    assert choice.note is not None
    return choice.note


def test_an_unknown_back_end(shop: Shop) -> None:
    with pytest.raises(EngineError) as caught:
        choose(shop.bundle, "tensorflow")
    assert str(caught.value) == "back end 'tensorflow' is unknown. Known: auto, tensorrt, onnxruntime."


@pytest.mark.parametrize("device", ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "cuda:1.0", "cuda 1", "CPU", "cpu:0", "1"])
@pytest.mark.parametrize("backend", ["auto", "tensorrt", "onnxruntime"])
def test_a_device_that_is_none(shop: Shop, backend: str, device: str) -> None:
    with pytest.raises(EngineError) as caught:
        choose(shop.bundle, backend, device)
    assert str(caught.value) == f"--device is {device!r}, but cpu, cuda or cuda:N (such as cuda:0) was expected."


@pytest.mark.parametrize(
    ("backend", "device", "want"),
    [
        ("onnxruntime", None, CPU),
        ("onnxruntime", "cuda:1", Choice("onnxruntime", "cuda:1")),
        ("auto", "cpu", CPU),
        ("tensorrt", None, Choice("tensorrt", "cuda:0")),
        ("tensorrt", "cuda", Choice("tensorrt", "cuda")),
        ("tensorrt", "cuda:1", Choice("tensorrt", "cuda:1")),
    ],
)
def test_what_was_named_is_taken(shop: Shop, backend: str, device: str | None, want: Choice) -> None:
    shop.build(gpu=GPU)
    assert choose(shop.bundle, backend, device) == want


def test_tensorrt_on_the_cpu(shop: Shop) -> None:
    with pytest.raises(EngineError, match=r"TensorRT runs on a GPU, but --device is cpu\. Leave --device out, or use"):
        choose(shop.bundle, "tensorrt", "cpu")


def test_without_tensorrt(shop: Shop) -> None:
    """Nothing to say about engines that are not there; engines that lie idle are worth a note."""
    assert choose(shop.bundle) == CPU
    (shop.bundle.folder / "engines").mkdir()
    assert choose(shop.bundle) == CPU
    shop.build(gpu=GPU)
    assert with_note(choose(shop.bundle)) == (
        "running on ONNX Runtime, the bundle's engines are not used: tensorrt is not installed "
        "(pip install '.[tensorrt]')."
    )
    with pytest.raises(EngineError) as caught:
        open_backend("tensorrt", "cuda:0")
    assert re.fullmatch(
        r"back end 'tensorrt' needs the package '(tensorrt|cuda)(\.\w+)?', which is not installed\. "
        r"Install it: pip install '\.\[tensorrt\]'",
        str(caught.value),
    )


@pytest.mark.parametrize("kind", ["ImportError", "OSError"])
def test_tensorrt_that_does_not_load(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_gpu: Callable[..., FakeGpu], kind: str
) -> None:
    """Installed, but a shared library of it is missing: before the fake in the search path, so that it is found."""
    (tmp_path / "tensorrt.py").write_text(f"raise {kind}('libnvinfer.so.10: cannot open shared object file')")
    monkeypatch.syspath_prepend(str(tmp_path))
    words = r"\(libnvinfer\.so\.10: cannot open shared object file\)"
    assert re.fullmatch(
        rf"running on ONNX Runtime, the bundle's engines are not used: TensorRT cannot be loaded {words}\.",
        with_note(choose(shop.bundle)),
    )
    with pytest.raises(EngineError, match=rf"back end 'tensorrt' is installed but cannot be loaded {words}\."):
        open_backend("tensorrt", "cuda:0")


@pytest.mark.parametrize("version", ["8.6.0", "10.16.1", "11.4.0"])
def test_auto_takes_engines_that_fit(shop: Shop, version: str, fake_gpu: Callable[..., FakeGpu]) -> None:
    fake_gpu(version)
    assert with_note(choose(shop.bundle)) == (
        f"running on ONNX Runtime: {shop.bundle.folder}: has no engines for NVIDIA Fake 9000 with TensorRT {version}. "
        f"{rebuild(shop.bundle)}"
    )
    folder = shop.build(gpu=GPU, tensorrt="10.0.0")
    assert with_note(choose(shop.bundle)) == (
        f"running on ONNX Runtime: {shop.bundle.folder}: none of its engines can run here. {folder.name}: "
        f"built with TensorRT 10.0.0, but {version} is installed. {rebuild(shop.bundle)}"
    )
    shop.build(gpu=GPU, tensorrt=version)
    assert choose(shop.bundle) == Choice("tensorrt", "cuda:0")
    assert choose(shop.bundle, "auto", "cuda:1") == Choice("tensorrt", "cuda:1")


def test_auto_without_a_gpu(shop: Shop, fake_gpu: Callable[..., FakeGpu]) -> None:
    fake_gpu("10.16.1", FAKE_GPU_NAMES="")
    shop.build(gpu=GPU)
    note = with_note(choose(shop.bundle))
    assert note.startswith("running on ONNX Runtime: no GPU can be used here (")
    assert note.endswith("Engines are built and run on an NVIDIA GPU; see `nvidia-smi`.")


def test_auto_on_a_gpu_that_is_not_there(shop: Shop, fake_gpu: Callable[..., FakeGpu]) -> None:
    """The sentence about ONNX Runtime alone would send the user the wrong way."""
    fake_gpu("10.16.1")
    shop.build(gpu=GPU)
    note = with_note(choose(shop.bundle, "auto", "cuda:7"), "cuda:7")
    assert note == (
        "running on ONNX Runtime: there is no device cuda:7, only devices cuda:0 to cuda:1. Choose another --device."
    )
    with pytest.raises(EngineError) as caught:
        Pipeline.load(shop.bundle.folder, device="cuda:7")
    assert re.fullmatch(
        r"onnxruntime [\d.]+ is installed without CUDA\. For --device cuda install onnxruntime-gpu in its place: "
        r"pip uninstall onnxruntime; pip install '\.\[onnxruntime-gpu\]' \(" + re.escape(note) + r"\)",
        str(caught.value),
    )


def test_quantized_bundles_have_no_engines(exported: Export, fake_gpu: Callable[..., FakeGpu]) -> None:
    fake_gpu("10.16.1")
    bundle: Bundle = exported("qwen", quantization=quantization_spec("int8")).bundle
    assert choose(bundle) == CPU, "no note: there is nothing to build"
