"""The two commands as a user types them; the second where nothing of the export is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from runtime import Pipeline, Request
from tests.blocked import ROOT, run_without
from tests.cli.conftest import CLOUD

EXPORT_ONLY = ["torch", "transformers", "onnx", "safetensors", "huggingface_hub", "export"]
RUN_ENGINE = "import runpy; sys.argv[0] = 'run_engine.py'; runpy.run_path('run_engine.py', run_name='__main__')"


def test_export_then_run(tiny_checkpoint: Callable[..., Path], scene: Path, tmp_path: Path) -> None:
    bundle, output, saved = tmp_path / "bundle", tmp_path / "scene.txt", tmp_path / "tensors.npz"
    options = ["--VLM_PE", "3D_RoPE", "--PCD_PE_Merge_Rule", "3D_only"]
    command = [sys.executable, "export_model.py", "--model", tiny_checkpoint("qwen"), "--output", bundle, *options]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert made.returncode == 0, made.stderr
    assert "Writing weights: 100%" in made.stderr

    arguments = ["--bundle", bundle, "--point_cloud", scene, "--output", output, "--save_tensors", saved, "--json"]
    ran = run_without(EXPORT_ONLY, RUN_ENGINE, *map(str, arguments), "--max_new_tokens", "5")
    assert ran.returncode == 0, ran.stderr
    want = Pipeline.load(bundle, threads=1)(CLOUD, Request(max_new_tokens=5))
    assert json.loads(ran.stdout)["text"] == want.text
    with np.load(saved) as tensors:
        assert tensors["tokens"].tolist() == list(want.tokens)
    assert output.read_text() == str(want.layout)
