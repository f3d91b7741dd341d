"""`run_engine.py` with engines: the named back end, the chosen one, and what is said about it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import runtime.cli
from tests.blocked import ROOT
from tests.cli.conftest import CLOUD, Said, _command, write_ply
from tests.engines.built import MAX_BATCH, Place
from tests.fake_gpu_fixture import FakeGpu
from tests.scenes import room

Make = Callable[..., Place]
Command = Callable[..., Said]


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return write_ply(tmp_path / "scene.ply", CLOUD)


@pytest.fixture
def engine(capsys: pytest.CaptureFixture[str], scene: Path, tmp_path: Path) -> Command:
    """`engine(bundle, *more)`: the scene, twelve tokens, JSON on stdout."""
    call = _command(runtime.cli.main, capsys)

    def run(bundle: Path, *more: object) -> Said:
        return call("-m", bundle, "-p", scene, "-o", tmp_path / "out.txt", "--max_new_tokens", 12, "--json", *more)

    return run


def layout(said: Said) -> object:
    assert said.code == 0, said.err
    return json.loads(said.out)["layout"]


@pytest.mark.parametrize("version", ["8.6.0", "10.16.1", "11.4.0"])
def test_named_or_chosen_the_engines_run(place: Make, engine: Command, version: str) -> None:
    here = place(version)
    want = engine(here.folder, "--backend", "onnxruntime", "--device", "cpu")
    count = here.gpu.device.counts
    for more in (["--backend", "tensorrt"], [], ["--device", "cuda:1"], ["--backend", "tensorrt", "--no_cuda_graph"]):
        before = count["launch:next_tokens"]
        said = engine(here.folder, *more)
        assert layout(said) == layout(want)
        assert "note:" not in said.err
        assert count["launch:next_tokens"] > before, "it ran on the GPU"


def test_engines_that_do_not_fit_are_a_note(place: Make, fake_gpu: Callable[..., FakeGpu], engine: Command) -> None:
    here = place("10.16.1")
    want = layout(engine(here.folder, "--backend", "onnxruntime"))
    fake_gpu("8.6.0")
    said = engine(here.folder)
    assert layout(said) == want
    assert re.fullmatch(
        rf"note: running on ONNX Runtime: {here.folder}: none of its engines can run here\. "
        r"nvidia-fake-9000-trt10\.16\.1-fp32: built with TensorRT 10\.16\.1, but 8\.6\.0 is installed\. "
        rf"Build them: python -m export\.build --bundle {here.folder}\n(.*\n)*",
        said.err,
    )
    assert "note:" not in engine(here.folder, "--quiet").err
    refused = engine(here.folder, "--backend", "tensorrt")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.startswith(f"run_engine.py: {here.folder}: none of its engines can run here. ")
    assert refused.err.count("\n") == 1


def test_a_gpu_that_is_not_there(place: Make, engine: Command) -> None:
    said = engine(place().folder, "--backend", "tensorrt", "--device", "cuda:9")
    assert (said.code, said.out) == (2, "")
    assert said.err == (
        "run_engine.py: there is no device cuda:9, only devices cuda:0 to cuda:1. Choose another --device.\n"
    )


def test_graphs_and_weights_of_the_bundle_need_not_be_whole(place: Make, engine: Command, tmp_path: Path) -> None:
    """Plans hold the weights: their digests are compared, those of the graphs are not read."""
    here = place().copied(tmp_path / "bundle")
    weights = here.folder / "language_model.weights"
    data = bytearray(weights.read_bytes())
    data[100] ^= 1
    weights.write_bytes(data)
    assert engine(here.folder, "--backend", "tensorrt").code == 0
    refused = engine(here.folder, "--backend", "onnxruntime")
    assert refused.code == 2
    assert "language_model.weights: its SHA-256 is " in refused.err


def test_tensors_are_saved_like_those_of_onnx_runtime(place: Make, engine: Command, tmp_path: Path) -> None:
    import numpy as np

    here = place()
    saved = []
    for backend in ("tensorrt", "onnxruntime"):
        path = tmp_path / f"{backend}.npz"
        assert engine(here.folder, "--backend", backend, "--save_tensors", path, "--save_steps", 2).code == 0
        with np.load(path) as file:
            saved.append(dict(file))
    got, want = saved
    np.testing.assert_array_equal(got["tokens"], want["tokens"])
    np.testing.assert_allclose(got["decode.1.logits"], want["decode.1.logits"], atol=1e-4)
    np.testing.assert_allclose(got["encoder.point_tokens"], want["encoder.point_tokens"], atol=1e-4)
    assert "decode.1.rows" in got
    assert not [name for name in got if name.endswith(".past")]


def test_a_folder_goes_on_after_a_scene_that_is_too_large(
    place: Make, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    here, scenes = place(), tmp_path / "scenes"
    scenes.mkdir()
    write_ply(scenes / "a.ply", CLOUD)
    write_ply(scenes / "b.ply", room(5, 6000, (2.0, 1.5, 1.0)))
    write_ply(scenes / "c.ply", CLOUD)
    call = _command(runtime.cli.main, capsys)
    said = call(
        "-m", here.folder, "-p", scenes, "-o", tmp_path / "out", "--max_new_tokens", 6, "--no_cleanup",
        "--backend", "tensorrt",
    )  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "out").glob("*.txt")) == ["a.txt", "c.txt"]
    assert "Crop the scene, or build the engines again with a larger --max_voxels" in said.out + said.err
    assert (tmp_path / "out" / "a.txt").read_text() == (tmp_path / "out" / "c.txt").read_text()


def test_a_folder_in_batches_larger_than_the_engines_take(
    place: Make, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """It is said once, and no batch is tried in vain."""
    here, scenes, count = place(), tmp_path / "scenes", 4
    scenes.mkdir()
    for index in range(count):
        write_ply(scenes / f"{index}.ply", room(index, 300))
    call = _command(runtime.cli.main, capsys)
    ran: dict[int, int] = {}
    for size in (MAX_BATCH, MAX_BATCH + 1):
        before = here.gpu.device.counts["execute"]
        said = call(
            "-m", here.folder, "-p", scenes, "-o", tmp_path / str(size), "--max_new_tokens", 1, "--no_cleanup",
            "--backend", "tensorrt", "--batch_size", size,
        )  # fmt: skip
        assert said.code == 0
        ran[size] = here.gpu.device.counts["execute"] - before
        warning = (
            f"warning: --batch_size is {size}, but the engines were built for {MAX_BATCH}, so {MAX_BATCH} run "
            f"together. For more, build them again with a larger --max_batch."
        )
        assert said.err.count(warning) == (size > MAX_BATCH)
    assert ran[MAX_BATCH + 1] == ran[MAX_BATCH] == 1 + count + 2, "a trial at load, encoders, prefills"


def test_as_a_process_of_its_own(place: Make, scene: Path, tmp_path: Path) -> None:
    """It ends without a word: what holds device memory goes in any order then."""
    here = place()
    command = [sys.executable, "run_engine.py", "-m", here.folder, "-p", scene, "-o", tmp_path / "out.txt", "--backend",
               "tensorrt", "--max_new_tokens", "12", "--quiet"]  # fmt: skip
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert (tmp_path / "out.txt").exists()


def test_a_bundle_moved_elsewhere_runs_from_its_engines(place: Make, engine: Command, tmp_path: Path) -> None:
    here = place()
    want = layout(engine(here.folder, "--backend", "tensorrt"))
    moved = Path(shutil.copytree(here.folder, tmp_path / "elsewhere" / "under another name"))
    assert layout(engine(moved, "--backend", "tensorrt")) == want
