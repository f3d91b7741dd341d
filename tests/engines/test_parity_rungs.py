"""The rungs of the parity ladder that run on a GPU: ONNX Runtime on CUDA and TensorRT, on a GPU that is none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.parity.cli import main as parity
from runtime.commands.record import main as record
from runtime.rung import Recording
from tests.engines.built import CLOUDS, Place, build
from tests.engines.test_ort_cuda import PLACES, gpu
from tests.exported import Export, Exported
from tests.fake_gpu_fixture import FakeGpu

__all__ = ["gpu"]

SHORT = ("--forced_steps", "3", "--free_tokens", "5", "--no_cleanup")


@pytest.fixture
def case(exported: Export) -> Exported:
    return exported("qwen", "3D_RoPE", "3D_only")


@pytest.fixture
def cloud(tmp_path: Path) -> Path:
    path = tmp_path / "scene.npy"
    np.save(path, CLOUDS[0].points)
    return path


@pytest.fixture
def cuda_sessions(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    """What the fake needs to know of a back end that the ladder opens by itself."""
    import runtime.engines.ort_cuda as module

    class Host:
        def synchronize(self) -> None:
            """A session on the CPU waits for nobody."""

    class Known(module.OrtCudaBackend):
        def __init__(self, device: int = 0) -> None:
            super().__init__(device)
            PLACES[:] = [self]

        def close(self) -> None:
            super().close()
            PLACES[:] = [Host()]

    monkeypatch.setattr(module, "OrtCudaBackend", Known)
    PLACES[:] = [Host()]
    yield gpu
    PLACES.clear()


def rungs_of(report: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(report.read_text())["scenes"][0]["rungs"]
    return found


def test_onnx_runtime_on_cuda_is_a_rung_of_its_own(
    case: Exported, cloud: Path, cuda_sessions: FakeGpu, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "parity.json"
    code = parity([
        "--bundle", str(case.bundle.folder), "--model", str(case.checkpoint.folder), "--point_cloud", str(cloud),
        "--backends", "onnxruntime-cuda", "torch", "onnxruntime", "--device", "cuda:1", *SHORT, "--report", str(report),
        "--taps", "all",
    ])  # fmt: skip
    assert code == 0
    said = capsys.readouterr().out
    assert "onnxruntime cuda: equal; all 5 greedy tokens are equal" in said
    assert "checkpoints of onnxruntime cuda: equal; checkpoints 1, 2, 3, 4, 5, 6, 7, 8, 9 agree in 2 layers." in said
    rungs = rungs_of(report)
    assert [rung["rung"] for rung in rungs] == ["reference", "torch modules", "onnxruntime cpu", "onnxruntime cuda"]
    assert rungs[3]["below"]["against"] == "onnxruntime cpu"
    assert rungs[3]["facts"]["device"] == "NVIDIA Fake 9000"
    assert rungs[3]["facts"]["library"].startswith("onnxruntime ")
    assert {"cuda", "driver"} <= rungs[3]["facts"].keys()
    counts = cuda_sessions.device.counts
    assert counts["ran:append_rows"] > 0
    assert cuda_sessions.device.live(1) == 0, "the rung was closed"


@pytest.mark.parametrize("version", ["8.6.0", "10.16.1", "11.4.0"])
def test_an_engine_is_recorded_there_and_compared_here(
    place: Callable[..., Place],
    case: Exported,
    cloud: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    version: str,
) -> None:
    here, rung, report = place(version), tmp_path / "rung.npz", tmp_path / "parity.json"
    there = ["--bundle", str(here.folder), "--point_cloud", str(cloud), "--output", str(rung), *SHORT]
    assert record([*there, "--backend", "tensorrt", "--quiet"]) == 0
    assert Recording.load(rung).facts["library"] == f"tensorrt {version}"
    desk = ["--bundle", str(case.bundle.folder), "--model", str(case.checkpoint.folder), "--point_cloud", str(cloud)]
    assert parity([*desk, *SHORT, "--against", str(rung), "--report", str(report)]) == 0
    assert "tensorrt cuda: equal; all 5 greedy tokens are equal" in capsys.readouterr().out
    assert rungs_of(report)[3]["facts"]["device"] == "NVIDIA Fake 9000"


def test_all_rungs_where_torch_and_tensorrt_live_together(
    case: Exported, cloud: Path, cuda_sessions: FakeGpu, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(case.bundle.folder, tmp_path / "bundle"))
    build(folder)
    code = parity([
        "--bundle", str(folder), "--model", str(case.checkpoint.folder), "--point_cloud", str(cloud), *SHORT,
        "--backends", "torch", "onnxruntime", "onnxruntime-cuda", "tensorrt",
    ])  # fmt: skip
    assert code == 0
    said = capsys.readouterr().out
    names = ["reference", "torch modules", "onnxruntime cpu", "onnxruntime cuda", "tensorrt cuda"]
    places = [said.index(f"  {name}: ") for name in names]
    assert places == sorted(places)
    assert "    against onnxruntime cuda: equal;" in said


def test_without_a_gpu_the_rung_is_a_sentence(case: Exported, cloud: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rungs = ["--backends", "onnxruntime", "onnxruntime-cuda", "--forced_steps", "1", "--free_tokens", "1"]
    code = parity(["--bundle", str(case.bundle.folder), "--point_cloud", str(cloud), *rungs])
    assert code == 2
    said = capsys.readouterr().err
    assert "back end 'onnxruntime'" in said or "onnxruntime " in said
    assert "'.[onnxruntime-gpu]'" in said
