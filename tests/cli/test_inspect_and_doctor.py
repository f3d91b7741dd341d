"""--inspect and --doctor: what is in a bundle, and what is installed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from plugins.decode_step.models import QWEN
from plugins.library import VARIABLE, VERSION
from tests.blocked import run_without
from tests.cli.conftest import Command
from tests.plugins.library import make_library

INSPECT = "import sys; from runtime.cli import main; sys.exit(main(['--inspect', sys.argv[1]]))"
DOCTOR = "import sys; from runtime.cli import main; sys.exit(main(['--doctor', '--json']))"


def test_inspect_says_what_is_in_a_bundle(run_engine: Command, bundle: Path) -> None:
    said = run_engine("--inspect", bundle)
    assert said.code == 0
    assert "all digests right" in said.out
    for fact in ("qwen, 2 layers", "3D_RoPE, 3D_only (PE-A)", "1024 positions, layout MBKD", "encoder.onnx"):
        assert fact in said.out


def test_inspect_as_json_is_the_manifest(run_engine: Command, bundle: Path) -> None:
    said = run_engine("--inspect", bundle, "--json")
    written = json.loads((bundle / "manifest.json").read_text())
    assert written.pop("sha256")
    assert json.loads(said.out) == written | {"engines": {}}


def test_inspect_goes_on_where_a_record_of_engines_cannot_be_read(
    run_engine: Command, bundle: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    (copy / "engines" / "old").mkdir(parents=True)
    (copy / "engines" / "old" / "engine.json").write_text("{}")
    said = run_engine("--inspect", copy)
    assert said.code == 0
    reason = f"{copy}/engines/old/engine.json: not a usable record of engines (its schema is not 1). Build them: "
    assert f"old: cannot be used: {reason}" in said.out
    facts = json.loads(run_engine("--inspect", copy, "--json").out)
    assert facts["engines"]["old"]["error"].startswith(reason)


def test_inspect_needs_no_engine_library(bundle: Path) -> None:
    result = run_without(("onnxruntime", "tensorrt", "torch", "onnx"), INSPECT, bundle)
    assert result.returncode == 0, result.stderr


def test_inspect_names_an_altered_file(run_engine: Command, bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    path = copy / "decode.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"\\x00")
    said = run_engine("--inspect", copy)
    assert said.code == 2
    assert "decode.onnx" in said.err


def test_doctor_runs_where_everything_is_missing() -> None:
    packages = ("numpy", "scipy", "plyfile", "tokenizers", "jinja2", "tqdm", "onnxruntime", "torch")
    result = run_without(packages, DOCTOR)
    assert result.returncode == 0, result.stderr
    findings = json.loads(result.stdout)
    assert findings["packages"]["numpy"], "the doctor reads what is installed, it imports nothing"
    assert any("onnxruntime" in sentence for sentence in findings["advice"])


@pytest.mark.parametrize("missing", ["shapely", "matplotlib", "rerun-sdk"])
def test_doctor_says_how_to_get_pictures_and_scores(
    run_engine: Command, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setattr("runtime.commands.doctor._version", lambda name: None if name == missing else "1.0")
    advice = {"shapely": "For scores: pip install '.[eval]'", "matplotlib": "For --plot: pip install '.[plot]'"}
    out = run_engine("--doctor").out
    assert advice.get(missing, "For --rerun: pip install '.[rerun]'") in out
    assert out.count("\n- For ") == 1


def test_doctor_names_what_is_missing(run_engine: Command) -> None:
    said = run_engine("--doctor")
    assert said.code == 0
    assert "tensorrt" in said.out
    assert "GPU: " in said.out


@pytest.mark.parametrize("built", [False, True])
def test_doctor_looks_for_our_kernels_where_engines_can_be_built(
    run_engine: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, built: bool
) -> None:
    monkeypatch.setattr("runtime.commands.doctor._version", lambda _: "8.6.0")
    monkeypatch.setattr("runtime.commands.doctor._gpus", lambda: ["NVIDIA H100, 580, 81559 MiB"])
    monkeypatch.setenv(VARIABLE, str(path := tmp_path / "library.so"))
    if built:
        make_library(path, QWEN, "8.6.0")
        wanted = f"- Our own kernels for sm_90: {path}, version {VERSION};"
    else:
        wanted = f"- Engines without our own kernels: the plugin library {path} is not there. Build it: make plugins"
    assert wanted in run_engine("--doctor").out


def test_a_missing_package_is_named_when_running() -> None:
    code = "import sys; from runtime.cli import main; sys.exit(main(['-m', 'b', '-p', 'p.ply', '-o', 'o.txt']))"
    result = run_without(("tokenizers",), code)
    assert result.returncode == 2
    assert "tokenizers" in result.stderr
    assert "Traceback" not in result.stderr
