"""Fixtures for all tests."""

from __future__ import annotations

import ctypes.util
import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def _a_gpu_can_be_used() -> bool:
    if ctypes.util.find_library("cuda") is None or importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


# Without a GPU Triton's kernels run in its interpreter. That has to be chosen before triton is imported, which some
# test modules do through transformers while tests are collected.
if not _a_gpu_can_be_used():
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`tiny_checkpoint(family="qwen", **options)`: the directory of a random tiny checkpoint.

    Takes the options of `export.making.checkpoint.make_checkpoint`. The same options give the same directory, made
    once a session: a test that changes files copies it first.
    """
    made: dict[str, Path] = {}

    def tiny(family: str = "qwen", **options: Any) -> Path:
        from export.making.checkpoint import make_checkpoint

        key = json.dumps([family, options], sort_keys=True)
        if key not in made:
            folder = tmp_path_factory.mktemp(f"tiny_{family}", numbered=True)
            made[key] = make_checkpoint(folder, family=family, size="tiny", **options)
        return made[key]

    return tiny


@pytest.fixture(scope="session")
def exported(tiny_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`exported(family, vlm_pe, merge_rule, prefill_attention, max_length, **options)`: see `tests.exported`.

    The bundles are shared: a test that changes files copies them first.
    """
    from tests.exported import exporter

    return exporter(tiny_checkpoint, lambda: tmp_path_factory.mktemp("bundle") / "bundle")
