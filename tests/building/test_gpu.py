"""Facts about the GPU, from a fake one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from export.engines.options import RESERVE, SMALLEST_WORKSPACE, default_workspace
from tests.blocked import ROOT
from tests.building.conftest import PATHS

READ = """
import dataclasses, json, sys
from runtime.engines.cuda.gpu import free_memory, read_gpu, select_gpu
from runtime.errors import EngineError
try:
    facts = dataclasses.asdict(read_gpu(int(sys.argv[1])))
    select_gpu(facts["index"])
    print(json.dumps(facts | {"free": free_memory()}))
except EngineError as error:
    print(json.dumps(str(error)))
"""


def read(index: int, **environment: str) -> Any:
    """What `read_gpu` gives in a process of its own, or its error's sentence."""
    found = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, PATHS))} | environment
    ran = subprocess.run(
        [sys.executable, "-c", READ, str(index)], cwd=ROOT, env=found, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_facts_of_each_device() -> None:
    names = "NVIDIA A@8.6,NVIDIA B@9.0"
    facts = read(1, FAKE_GPU_NAMES=names, FAKE_GPU_MEMORY=str(3 << 30), PATH="/nowhere")
    assert (facts["name"], facts["compute_capability"], facts["memory"]) == ("NVIDIA B", "9.0", 3 << 30)
    assert facts["free"] == [3 << 30, 3 << 30]
    assert facts["driver"].startswith("for CUDA 1")
    assert read(0, FAKE_GPU_NAMES=names)["compute_capability"] == "8.6"


def test_the_driver_is_what_nvidias_tool_says(tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 580.65.06\necho 580.65.06\n")
    tool.chmod(0o755)
    assert read(0, PATH=str(tmp_path))["driver"] == "580.65.06"
    tool.write_text("#!/bin/sh\necho no devices; exit 9\n")
    assert read(0, PATH=str(tmp_path))["driver"].startswith("for CUDA 1")


def test_what_is_missing_is_a_sentence() -> None:
    assert "there is no device cuda:1, only device cuda:0. Choose another --device." in read(1, FAKE_GPU_NAMES="A@9.0")
    assert "Engines are built and run on an NVIDIA GPU; see `nvidia-smi`." in read(0, FAKE_GPU_NAMES="")
    assert read(0, TROUBLE="without:cuda") == (
        "TensorRT needs the package 'cuda', which is not installed. Install it: pip install '.[tensorrt]'"
    )


@pytest.mark.parametrize(
    ("free", "total", "sharing", "want"),
    [
        (140 << 30, 141 << 30, 1, (140 << 30) - int(0.05 * (141 << 30))),
        (7 << 30, 8 << 30, 1, (7 << 30) - RESERVE),
        (7 << 30, 8 << 30, 3, ((7 << 30) - RESERVE) // 3),
        (1 << 20, 8 << 30, 1, SMALLEST_WORKSPACE),
    ],
    ids=["large", "small", "shared", "full"],
)
def test_default_workspace(free: int, total: int, sharing: int, want: int) -> None:
    assert default_workspace(free, total, sharing) == want
