"""The commands where Python is all that is installed: one sentence says what is missing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.blocked import run_without

PACKAGES = ["numpy", "scipy", "plyfile", "tokenizers", "jinja2", "tqdm", "torch", "onnx", "safetensors", "onnxruntime"]
MODULE = "import runpy, sys; runpy.run_module({!r}, run_name='__main__', alter_sys=True)"


@pytest.mark.parametrize("options", [["--help"], ["--nonsense"]], ids=str)
@pytest.mark.parametrize(
    ("program", "module", "extras"),
    [
        ("export_model.py", "export_model", "export"),
        ("python -m export.parity", "export.parity", "onnxruntime,export,reference,eval"),
        ("python -m export.build", "export.build", "tensorrt"),
        ("python -m runtime.record", "runtime.record", "onnxruntime"),
        ("python -m runtime.evaluate", "runtime.evaluate", "eval"),
        ("python -m runtime.plot", "runtime.plot", "plot"),
    ],
)
def test_what_is_missing_is_one_sentence(program: str, module: str, extras: str, options: list[str]) -> None:
    said = run_without(PACKAGES, MODULE.format(module), *options)
    assert said.returncode == 2
    sentence = r"{}: needs the package '\w+', which is not installed\. Install it: pip install '\.\[{}\]'\n"
    assert re.fullmatch(sentence.format(re.escape(program), extras), said.stderr), said.stderr


def test_making_a_checkpoint(tmp_path: Path) -> None:
    program = "python -m export.make_checkpoint"
    said = run_without(PACKAGES, MODULE.format("export.make_checkpoint"), "--output", str(tmp_path / "checkpoint"))
    assert said.returncode == 2
    assert said.stderr == (
        f"{program}: needs the package 'torch', which is not installed. Install it: pip install '.[export]'\n"
    )
    assert run_without(PACKAGES, MODULE.format("export.make_checkpoint"), "--help").returncode == 0


def test_the_demo(tmp_path: Path) -> None:
    """It leaves what is missing to the commands that it runs."""
    assert run_without(PACKAGES, MODULE.format("demo.run"), "--help").returncode == 0
    said = run_without(PACKAGES, MODULE.format("demo.run"), "--scenes", str(tmp_path))
    assert (said.returncode, said.stderr.count("\n")) == (2, 1)
    assert said.stderr.startswith(f"python -m demo.run: {tmp_path}: holds no .ply.")
