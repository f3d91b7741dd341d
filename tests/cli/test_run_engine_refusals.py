"""`run_engine.py` on a bad day: exit code 2, one sentence on stderr, no file written."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest

from runtime.commands.one import _print_now
from runtime.pipeline import Pipeline
from tests.cli.conftest import Command, Said
from tests.exported import Export

INPUTS = {"scene.ply", "broken.ply", "points.txt", "empty", "empty.npz", "no_manifest"}


def assert_refused(said: Said, sentence: str, folder: Path) -> None:
    assert said.code == 2
    assert said.err.startswith("run_engine.py: ")
    assert sentence in said.err
    assert said.err.count("\n") == 1, "one sentence, no traceback"
    assert said.out == ""
    assert {path.name for path in folder.iterdir()} <= {
        "scene.ply",
        "broken.ply",
        "points.txt",
        "empty",
        "empty.npz",
        "no_manifest",
    }


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["-o", "out.xyz"], "out.xyz: the ending is '.xyz', but .txt or .json was expected."),
        (["--do_sample", "--temperature", "0"], "--do_sample draws tokens, but --temperature 0 chooses the likeliest."),
        (["--repetition_penalty", "0"], "--repetition_penalty is 0.0, but a number above 0 is needed."),
        (["--scale", "-1"], "--scale is -1.0, but a number above 0 is needed."),
        (["-o", "-"], "--output - is not a file. Name one, or read the layout from stdout with --json."),
        (["-o", "scene.ply"], "scene.ply: the ending is '.ply'"),
        (["-p", "points.txt", "-o", "points.txt"], "points.txt: is the scene itself, which the output would replace."),
        (["-p", "points.txt", "-o", "."], "points.txt: is the scene itself, which the output would replace."),
        (["--save_tensors", "t.npy"], "t.npy: --save_tensors writes an .npz file; give it that ending."),
        (["-c", "beds"], "--category beds is none of the 59 categories. Did you mean bed?"),
        (["--batch_size", "0"], "--batch_size is 0, but at least 1 is needed."),
        (["--max_new_tokens", "0"], "--max_new_tokens is 0, but at least 1 is needed."),
        (["--temperature", "-0.1"], "--temperature is -0.1, but at least 0.0 is needed."),
        (["--temperature", "nan"], "--temperature is nan, but at least 0.0 is needed."),
        (["--temperature", "inf"], "--temperature is inf, but at least 0.0 is needed."),
        (["--top_p", "0"], "--top_p is 0.0, but it is a share of probability: above 0, at most 1."),
        (["--top_p", "1.01"], "--top_p is 1.01, but"),
        (["--top_p", "nan"], "--top_p is nan, but"),
        (["--top_k", "-1"], "--top_k is -1, but at least 0 is needed."),
        (["--seed", "-1"], "--seed is -1, but at least 0 is needed."),
        (["--threads", "0"], "--threads is 0, but at least 1 is needed."),
        (["--save_steps", "-1"], "--save_steps is -1, but at least 0 is needed."),
        (["-o", "nowhere/out.txt"], "nowhere/out.txt: cannot be written there. Name a file in a folder that exists"),
        (["--save_tensors", "nowhere/t.npz"], "nowhere/t.npz: cannot be written there."),
        (["-p", "absent.ply"], "absent.ply: no such file."),
        (["-p", "broken.ply"], "broken.ply: not a PLY"),
        (["-p", "empty"], "out.txt: is a file name, but --point_cloud is a folder; --output must be one too."),
        (["-p", "empty", "-o", "layouts"], "empty: holds no scene (.ply, .npy, .npz, .xyz)."),
        (["-p", "empty", "-o", "layouts", "--save_tensors", "t.npz"], "--save_tensors keeps the tensors of one scene"),
        (["-m", "absent"], "absent: no such bundle. Make one: python export_model.py --model CHECKPOINT --output"),
        (["-m", "no_manifest"], "no_manifest: not a bundle, it has no manifest.json."),
        (["-m", "scene.ply"], "scene.ply: no such bundle."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refused(
    engine: Command, scene: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], sentence: str
) -> None:
    folder = scene.parent
    (folder / "broken.ply").write_text("solid cube\n")
    (folder / "points.txt").write_text("0 0 0\n1 2 3\n")
    (folder / "empty").mkdir()
    (folder / "no_manifest").mkdir()
    monkeypatch.chdir(folder)
    assert_refused(engine("-o", "out.txt", *options), sentence, folder)


def test_a_prompt_longer_than_the_capacity(run_engine: Command, exported: Export, scene: Path) -> None:
    bundle = exported("qwen", max_length=100).bundle.folder
    said = run_engine("-m", bundle, "-p", scene, "-o", scene.parent / "out.txt")
    assert_refused(
        said, "but the bundle's cache holds 100. Crop the scene, or export again with --max_length", scene.parent
    )


def test_a_folder_one_may_not_write_to(engine: Command, scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert_refused(engine("-o", scene.parent / "out.txt"), "out.txt: cannot be written there.", scene.parent)


def test_a_folder_is_no_file_for_tensors(engine: Command, scene: Path) -> None:
    (scene.parent / "empty.npz").mkdir()
    said = engine("-o", scene.parent / "out.txt", "--save_tensors", scene.parent / "empty.npz")
    assert_refused(said, "cannot be written there", scene.parent)


@pytest.mark.parametrize(
    "options",
    [["--max_new_tokens", "many"], ["-d", "walls"], ["--backend", "none"], ["--no_such_option"]],
    ids=" ".join,
)
def test_mistyped_options_end_with_2_and_the_usage(engine: Command, scene: Path, options: list[str]) -> None:
    said = engine("-o", scene.parent / "out.txt", *options)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("usage: run_engine.py")
    assert not (scene.parent / "out.txt").exists()


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (KeyboardInterrupt(), 130, "run_engine.py: interrupted; the scene under way left no layout.\n"),
        (
            MemoryError("Unable to allocate 9 TiB"),
            2,
            "run_engine.py: not enough memory (Unable to allocate 9 TiB). Cro",
        ),
    ],
)
def test_stopped_on_the_way(
    engine: Command, scene: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, sentence: str
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Pipeline, "run", stop)
    said = engine("-o", scene.parent / "out.txt")
    assert said.code == code
    assert said.err.startswith(sentence)
    assert said.err.count("\n") == 1
    assert not (scene.parent / "out.txt").exists()


@pytest.mark.parametrize(
    ("options", "missing"),
    [([], "--bundle and --point_cloud and --output"), (["-m", "b"], "--point_cloud and --output")],
)
def test_what_must_be_given(run_engine: Command, options: list[str], missing: str) -> None:
    said = run_engine(*options)
    assert (said.code, said.out) == (2, "")
    assert said.err == f"run_engine.py: {missing} must be given; --help shows examples.\n"


def test_a_terminal_without_unicode_shows_question_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding="ascii"))
    _print_now("caf\u00e9 \u4e2d")
    assert shown.getvalue() == b"caf? ?"
