"""The TensorRT side of the nodes on the CPU, over TensorRT's own headers and kernels that note what they are given."""

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
    options += [f"-DBIAS={bias:d}", f"-DTIED={tied:d}", '-DSPATIALLM_PLUGINS_ARCHITECTURES="sm_90"']
    options += ["-isystem", str(HEADERS), "-isystem", str(CUDA)]
    sources = [str(Path(__file__).with_name("drive_plugin.cpp")), *(str(HERE / name) for name in SHELL)]
    subprocess.run(["g++", *options, *sources, "-o", str(program)], check=True)
    printed = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    offsets = [1, 2, 1 if tied else 3, *range(4, 18)]
    places = [1000 + 16 * offset for offset in offsets]
    if not bias:
        places[5] = places[12] = -1
    weights = f"weights {' '.join(map(str, places))}"
    none = "-1 -1 -1 -1"  # of points: embeddings, mask, angles
    assert printed.splitlines() == [
        "decode: read 1 without epsilon 0 without offsets 0 without causal 1 few 0 none 0 misfit 0 checked 1",
        "supports 1 1 0 0 0 others 0",
        "one token 0: 0 1 2 3 4 100 101 4096 past 512",
        weights,
        f"too small a device 0 general 1 1 512 causal 1 all 1: 0 {none} 1 2 -1 3 4 100 101 4096",
        f"a batch 0 general 3 2 512 causal 1 all 1: 0 {none} 1 2 -1 3 4 100 101 4096",
        weights,
        "another model 0 kernel 0 general 1",
        "refused 5 of 5, a short file 1",
        "workspace 3025121 0",
        "facts come back 1",
        "prefill: read 1 without epsilon 0 without offsets 0 without causal 0 few 0 none 0 misfit 0 checked 1",
        "supports 1 1 0 0 0 others 0",
        f"a prompt 0 general 3 100 0 causal 1 all 0: 0 1 4096 3 4 5 6 7 -1 -1 100 101 {4096 + 512}",
        weights,
        "narrowed 300 full 0 causal 0",
        "refused 8 of 8, a short file 1",
        "workspace 4000512",
        "facts come back 1",
        "ends 1 0 wide 0",
        "graphs left 0 missed 0",
    ]
