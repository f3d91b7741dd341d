"""The timing command: what it times is the same twice, and without a GPU it says what it needs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from demo.training import bench_conv
from demo.training.config import write_config


def test_both_ways_of_each_gather_agree(tmp_path: Path) -> None:
    spec = write_config(tmp_path, "3D_only").encoder
    stages = bench_conv.stages_of(2, spec, torch.device("cpu"))
    names = set()
    for stage, channels in zip(stages[1:], spec.channels[1:], strict=True):
        for name, plain, fast in bench_conv._gathers(stage, channels):
            names.add(name)
            one, other = plain(), fast()
            assert [t.shape for t in one] == [t.shape for t in other] and len(one) == 2
            assert bench_conv.difference(other, one) < 0.02, name  # `amax` adds up parts of a gradient in bf16
            assert bench_conv.difference(tuple(t.roll(1, 0) for t in other), one) > 0.1
    assert names == {"into_patches", "from_patches", "largest_child"}


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bench_conv.main([]) == 2
    assert "PyTorch sees no NVIDIA GPU" in capsys.readouterr().err


def test_without_triton_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(bench_conv.convolution, "has_triton", lambda: False)
    assert bench_conv.main([]) == 2
    assert "pip install triton" in capsys.readouterr().err
