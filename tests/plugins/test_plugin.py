"""The TensorRT side of the plugin on the CPU, over TensorRT's own headers and a kernel that notes what it is given."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from plugins.build import HERE, SHELL

HEADERS = Path(os.environ.get("TENSORRT_INCLUDE", "/nowhere"))
CUDA = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "include"
FOUND = shutil.which("g++") and (HEADERS / "NvInferRuntime.h").is_file() and (CUDA / "cuda_runtime_api.h").is_file()
pytestmark = pytest.mark.skipif(
    not FOUND, reason="g++, CUDA's headers, and TensorRT's headers in TENSORRT_INCLUDE, are needed"
)


@pytest.mark.parametrize(("bias", "tied"), [(True, True), (True, False), (False, True), (False, False)])
def test_every_tensor_reaches_its_place_and_wrong_ones_are_refused(bias: bool, tied: bool, tmp_path: Path) -> None:
    program = tmp_path / "drive"
    options = ["-std=c++17", "-Wno-deprecated-declarations", "-DSPATIALLM_PLUGINS_VERSION=1", f"-I{HERE}"]
    options += [f"-DBIAS={bias:d}", f"-DTIED={tied:d}", "-isystem", str(HEADERS), "-isystem", str(CUDA)]
    sources = [str(Path(__file__).with_name("drive_plugin.cpp")), *(str(HERE / name) for name in SHELL)]
    subprocess.run(["g++", *options, *sources, "-o", str(program)], check=True)
    printed = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    next_place = iter(range(7 if tied else 8, 100))
    layers = [-1 if kind == 2 and not bias else next(next_place) for _ in range(2) for kind in range(7)]
    logits = next(next_place)
    head = 5 if tied else 7
    assert printed.splitlines() == [
        "read 1",
        "read without epsilon 0",
        "read another model 0",
        "inputs 1",
        "supports 1 0 0 0",
        "any prefix 1",
        "run 0",
        f"given 0 1 2 3 4 5 6 {head} {logits} {logits + 1} rows 512 layers {' '.join(map(str, layers))}",
        "two tokens 1",
        "fields come back 1",
    ]
