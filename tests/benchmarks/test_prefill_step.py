"""The benchmark of the language model's operator: what it compares with, and how it counts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu.decode_step_parts import Model
from benchmarks.gpu.plain_model import forward
from benchmarks.gpu.prefill_step import parts_of
from benchmarks.gpu.prefill_step_parts import closeness, kernel_table
from tests.blocked import ROOT
from tests.compare import Tol, assert_close
from tests.plugins.small import LLAMA, QWEN

MODELS = {"qwen": QWEN, "llama": LLAMA}
ROWS = 5
HALF = {"qwen": 0.9999, "llama": 0.995}  # cosine of logits


@pytest.mark.parametrize("name", MODELS)
def test_the_whole_sequence_is_as_step_after_step(name: str) -> None:
    """Also in half precision, by direction."""
    model = Model(MODELS[name], ROWS + 1, device="cpu")
    model.dtype = torch.float32  # of the cache, so that both sides are exact
    ids, past = torch.tensor([3, 1, 4, 1, 400]), model.past(0)
    steps = [model.step(int(token), place, past) for place, token in enumerate(ids)]
    angles = [table[None, :ROWS] for table in (model.cos, model.sin)]
    rows = model.embedding[ids][None]
    logits, cached = forward(model, rows.float(), *angles, torch.float32)
    assert_close("logits", logits[0], steps[-1], Tol(1e-3))
    assert_close("rows", cached[:, 0], past[:ROWS], Tol(1e-3))
    half = rows.dtype
    found = closeness(forward(model, rows, *(table.to(half) for table in angles), half), (logits, cached))
    assert found["logits_cosine"] > HALF[name] and found["rows_cosine"] > HALF[name]


def test_closeness_sees_the_worst_sequence() -> None:
    torch.manual_seed(0)
    logits, rows = torch.randn(2, 30), torch.randn(7, 2, 4, 8)
    same = closeness((logits, rows), (logits, rows))
    assert same == {"logits_cosine": 1.0, "logits_error": 0.0, "rows_cosine": 1.0, "first_choice_kept": True}
    other, turned = logits.clone(), rows.clone()
    other[1], turned[-1, 1] = -logits[1], -rows[-1, 1]
    worse = closeness((other, turned), (logits, rows))
    assert (worse["logits_cosine"], worse["rows_cosine"], worse["first_choice_kept"]) == (-1.0, -1.0, False)


def test_kernels_by_time_with_the_gaps_between() -> None:
    events = [("a", 0.0, 10.0), ("b", 12.0, 42.0), ("a", 45.0, 55.0), ("b", 57.0, 87.0)]
    table = kernel_table(events, runs=2)
    assert [(row["name"], row["count"], row["mean_us"], row["total_us"]) for row in table["kernels"]] == [
        ("b", 1.0, 30.0, 30.0),
        ("a", 1.0, 10.0, 10.0),
    ]
    assert (table["wall_us"], table["kernels_us"], table["gaps_us"]) == (43.5, 40.0, 3.5)
    assert kernel_table([], runs=1) == {"error": "the profiler saw no kernels"}


def test_a_part_that_failed_is_found() -> None:
    good = {"device": "H100", "qwen:fp16": {"read": {"GB/s": 2900}, "prefill_1x776": {"graph": {"ms": 1.0}}}}
    assert not [part for part in parts_of(good) if "error" in part or "failed" in part]
    for bad in ({"read": {"error": "no memory"}}, {"failed": 1, "words": "x"}):
        assert [part for part in parts_of(good | {"llama:bf16": bad}) if "error" in part or "failed" in part]


def test_without_the_library_it_says_what_builds_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu.prefill_step", "--output", str(tmp_path / "out")]
    environment = {"PATH": "/usr/bin:/bin", "SPATIALLM_PLUGINS": str(tmp_path / "none.so")}
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert ran.returncode == 2
    assert ran.stderr.endswith(f"the plugin library {tmp_path / 'none.so'} is not there. Build it: make plugins\n")
