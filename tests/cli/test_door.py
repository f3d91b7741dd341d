"""What ends a run early: one sentence and an exit code, and nothing of the user's is harmed."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from runtime.errors import EngineError
from runtime.pipeline import Pipeline
from tests.blocked import ROOT
from tests.cli.conftest import Command, Said

TinyCheckpoint = Callable[..., Path]


def assert_sentence(said: Said, program: str, sentence: str, code: int = 2) -> None:
    assert said.code == code
    assert said.err.startswith(f"{program}: ")
    assert sentence in said.err
    assert said.err.count("\n") == 1, said.err


@pytest.fixture
def own_signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("own_signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_end_a_run_as_ctrl_c_does(
    engine: Command, scene: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    monkeypatch.setattr(Pipeline, "run", lambda *_, **__: os.kill(os.getpid(), number))
    said = engine("-o", scene.parent / "out.txt")
    assert_sentence(said, "run_engine.py", "interrupted; the scene under way left no layout.", code=130)


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_streams_may_be_closed(bundle: Path, scene: Path, tmp_path: Path, closed: str) -> None:
    words = [sys.executable, "run_engine.py", "-m", bundle, "-p", scene, "-o", tmp_path / "a.txt"]
    command = f"{shlex.join(map(str, words))} --max_new_tokens 3 {closed}"
    result = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "a.txt").exists()


@pytest.mark.parametrize("wrapped", [False, True])
def test_an_interrupt_while_a_library_loads(
    engine: Command, scene: Path, monkeypatch: pytest.MonkeyPatch, wrapped: bool
) -> None:
    """Extension modules make an ImportError of it, and back ends a sentence of that."""

    def load(*_: object, **__: object) -> None:
        try:
            raise ImportError("initialization failed") from KeyboardInterrupt()
        except ImportError as error:
            if wrapped:
                raise EngineError("back end 'onnxruntime' is installed but cannot be loaded") from error
            raise

    monkeypatch.setattr(Pipeline, "load", load)
    said = engine("-o", scene.parent / "out.txt")
    assert_sentence(said, "run_engine.py", "interrupted; the scene under way left no layout.", code=130)


@pytest.mark.usefixtures("own_signals")
def test_nohup_is_respected(engine: Command, scene: Path) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert engine("-o", scene.parent / "out.txt").code == 0
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_what_the_system_refuses_is_a_sentence(engine: Command, tmp_path: Path) -> None:
    said = engine("-o", tmp_path / ("x" * 300 + ".txt"))
    assert said.code == 2
    assert "Traceback" not in said.err
    assert said.err.count("\n") == 1


@pytest.mark.parametrize("option", ["-o", "--save_tensors"])
def test_a_bundle_is_no_place_for_outputs(engine: Command, bundle: Path, tmp_path: Path, option: str) -> None:
    target = bundle / ("new.txt" if option == "-o" else "new.npz")
    options = ["-o", target] if option == "-o" else ["-o", tmp_path / "out.txt", option, target]
    assert_sentence(engine(*options), "run_engine.py", "lies inside the bundle")
    assert not target.exists()


def test_a_device_is_no_output(engine: Command, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "out.txt")
    assert_sentence(engine("-o", tmp_path / "out.txt"), "run_engine.py", "it is no ordinary file")
    assert (tmp_path / "out.txt").is_fifo()


def test_too_many_threads(engine: Command, tmp_path: Path) -> None:
    assert_sentence(engine("-o", tmp_path / "o.txt", "--threads", 100000), "run_engine.py", "--threads is 100000")


def test_a_folder_run_keeps_files_it_did_not_write(run_engine: Command, bundle: Path, scene: Path) -> None:
    (scene.parent / "scene.txt").write_text("mine")
    options = ("-m", bundle, "-p", scene.parent, "-o", scene.parent, "--threads", 1, "--max_new_tokens", 3)
    said = run_engine(*options, "--quiet")
    assert_sentence(said, "run_engine.py", "scene.txt: exists, and no run here wrote it.", code=1)
    assert (scene.parent / "scene.txt").read_text() == "mine"
    assert run_engine(*options, "--quiet", "--overwrite").code == 0
    assert (scene.parent / "scene.txt").read_text() != "mine"


def copy_of(checkpoint: Path, folder: Path) -> Path:
    shutil.copytree(checkpoint, folder)
    return folder


def test_a_tokenizer_that_makes_no_prompt_is_refused(
    export_model: Command, tiny_checkpoint: TinyCheckpoint, tmp_path: Path
) -> None:
    model = copy_of(tiny_checkpoint("qwen"), tmp_path / "model")
    (model / "tokenizer.json").write_text("{}")
    said = export_model("-m", model, "-o", tmp_path / "bundle", "--quiet")
    assert_sentence(said, "export_model.py", "its tokenizer or chat template makes no usable prompt")
    assert not (tmp_path / "bundle").exists()


def test_a_template_without_the_content_is_refused(
    export_model: Command, tiny_checkpoint: TinyCheckpoint, tmp_path: Path
) -> None:
    model = copy_of(tiny_checkpoint("qwen"), tmp_path / "model")
    settings = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": "hello"}))
    said = export_model("-m", model, "-o", tmp_path / "bundle", "--quiet")
    assert_sentence(said, "export_model.py", "holds 0 point_start tokens")


@pytest.mark.parametrize(("value", "precision"), [(float("nan"), "fp32"), (1e30, "fp16")])
def test_weights_that_are_no_numbers_are_refused(
    export_model: Command, tiny_checkpoint: TinyCheckpoint, tmp_path: Path, value: float, precision: str
) -> None:
    model = copy_of(tiny_checkpoint("qwen"), tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    tensors["model.norm.weight"] = torch.full_like(tensors["model.norm.weight"], value)
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    said = export_model("-m", model, "-o", tmp_path / "bundle", "--precision", precision, "--quiet")
    assert_sentence(said, "export_model.py", "model.norm.weight holds values that are no finite")
    assert [path.name for path in tmp_path.iterdir()] == ["model"], "nothing half-written"


def test_a_forged_manifest_does_not_make_a_folder_a_bundle(
    export_model: Command, tiny_checkpoint: TinyCheckpoint, tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    (tmp_path / "manifest.json").write_text(json.dumps({"files": {"thesis.txt": 1}}))
    said = export_model("-m", tiny_checkpoint("qwen"), "-o", tmp_path, "--quiet")
    assert_sentence(said, "export_model.py", "which is no part of a bundle")
    assert (tmp_path / "thesis.txt").exists()


def test_the_folder_one_stands_in_is_no_bundle(export_model: Command, tiny_checkpoint: TinyCheckpoint) -> None:
    assert_sentence(
        export_model("-m", tiny_checkpoint("qwen"), "-o", ""), "export_model.py", "--output names the folder"
    )
