"""`export_model.py --engine tensorrt`: the build as the last step of an export."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.bundle import Bundle
from tests.blocked import ROOT
from tests.building.conftest import VERSIONS, Bench, wait_for

HEAVY = "without:torch,onnx,transformers,safetensors,huggingface_hub,tensorrt,cuda,onnxruntime"


@pytest.fixture
def export(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """`export(*arguments, version=..., **environment)`: start an export into `tmp_path / "bundle"`."""
    bench = Bench(tmp_path / "bundle", tmp_path / "cache")

    def start(*arguments: object, version: str = "8.6.0", **more: str) -> subprocess.Popen[str]:
        command = ["export_model.py", "-m", tiny_checkpoint("qwen"), "-o", bench.bundle, *arguments]
        environment, pipe = bench.environment(version, **more), subprocess.PIPE
        arguments = [sys.executable, *map(str, command)]  # type: ignore[assignment]
        return subprocess.Popen(arguments, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)  # type: ignore[call-overload, no-any-return]

    return start


Export = Callable[..., subprocess.Popen[str]]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_bundle_with_engines(export: Export, tmp_path: Path, version: str) -> None:
    out, err = (process := export("--engine", "tensorrt", "--max_voxels", 9000, version=version)).communicate()
    assert process.returncode == 0, err
    record = Bench(tmp_path / "bundle", tmp_path).record(version)
    assert record.plans["encoder"].profiles["encoder"]["N0"][2] == 9000
    capacity = Bundle.open(tmp_path / "bundle").manifest.cache.capacity
    assert record.plans["decode"].profiles["decode"]["M"][2] == capacity
    assert out.count("Next: ") == 1
    assert out.rstrip().splitlines()[-1].startswith(f"Next: python run_engine.py --bundle {tmp_path}/bundle --backend")


def test_one_line_of_json(export: Export, tmp_path: Path) -> None:
    out, err = (process := export("--engine", "tensorrt", "--json")).communicate()
    assert (process.returncode, err, out.count("\n")) == (0, "", 1)
    facts = json.loads(out)
    assert facts["bundle"] == str(tmp_path / "bundle")
    assert facts["notes"] == ["[Config] VLM_PE = None (default)"]
    assert set(facts["engines"]["graphs"]) == {"encoder", "prefill", "decode"}


@pytest.mark.parametrize(
    ("arguments", "environment", "sentence"),
    [
        (
            ["--max_voxels", 9000],
            {},
            "--opt_level and --language_model are about engines: add --engine.",
        ),
        (["--engine", "tensorrt", "--quantization", "int8"], {}, "--quantization is for ONNX Runtime on the CPU"),
        (["--engine", "tensorrt", "--opt_level", 7], {}, "--opt_level is 7, but 0 to 5 were expected."),
        (["--engine", "tensorrt", "--max_voxels", 0], {}, "--max_voxels is 0, but 1 to"),
        (["--engine", "tensorrt", "--precision", "bf16"], {}, "in bf16, which TensorRT 8.6.0 does not have."),
        (["--engine", "tensorrt"], {"TROUBLE": "without:tensorrt"}, "needs the package 'tensorrt', which is not inst"),
        (["--engine", "tensorrt"], {"FAKE_GPU_NAMES": ""}, "no GPU can be used here"),
    ],
    ids=["alone", "quantized", "level", "limits", "bf16", "no tensorrt", "no gpu"],
)
def test_refused_before_anything_is_written(
    export: Export, tmp_path: Path, arguments: list[object], environment: dict[str, str], sentence: str
) -> None:
    out, err = (process := export("--quiet", *arguments, **environment)).communicate()
    assert (process.returncode, out, err.count("\n")) == (2, "", 1)
    assert sentence in err
    assert not (tmp_path / "bundle").exists()


def test_a_failing_build_leaves_the_bundle(export: Export, tmp_path: Path) -> None:
    process = export("--quiet", "--engine", "tensorrt", FAKE_GPU_FAULTS="build:decode")
    _, err = process.communicate()
    assert process.returncode == 2
    assert "decode: TensorRT 8.6.0 could not build the engine" in err
    assert "(The bundle stands; only its engines are missing.)" in err
    assert not (tmp_path / "bundle" / "engines").exists()
    Bundle.open(tmp_path / "bundle")


def test_an_interrupted_build_leaves_the_bundle(export: Export, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    trouble = {"TROUBLE": "sleep", "TROUBLE_GRAPH": "encoder", "TROUBLE_MARK": str(mark)}
    process = export("--quiet", "--engine", "tensorrt", **trouble)
    wait_for(mark)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (
        130,
        "export_model.py: interrupted; the bundle stands, its engines were not built.\n",
    )
    assert not (tmp_path / "bundle" / "engines").exists()
    Bundle.open(tmp_path / "bundle")


@pytest.mark.parametrize("door", [["export_model.py"], ["-m", "export.build"]])
def test_help_needs_nothing_heavy(tmp_path: Path, door: list[str]) -> None:
    environment = Bench(tmp_path, tmp_path).environment(TROUBLE=HEAVY)
    command = [sys.executable, *door, "--help"]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "--max_point_tokens" in ran.stdout and "examples:" in ran.stdout
