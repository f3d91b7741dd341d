"""The plain model that onnxruntime-genai's builder reads: the same weights, and the same prompt as token ids alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from benchmarks.genai import write_plain_model
from benchmarks.language_model import TEXT_TOKENS, transformers_eager
from tests.compare import Tol, assert_close

POINTS, V = 16, 1000


@pytest.mark.parametrize("family", ["qwen", "llama"])
@pytest.mark.parametrize("tied", [True, False])
def test_ids_alone_give_the_logits_of_the_prompt(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, family: str, tied: bool
) -> None:
    checkpoint = tiny_checkpoint(family, tied=tied)
    ids = write_plain_model(checkpoint, tmp_path, POINTS)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    want, _ = transformers_eager(str(checkpoint), POINTS, torch.get_num_threads())()
    with torch.inference_mode():
        got = model(torch.from_numpy(ids).long()[None], logits_to_keep=1).logits[:, -1].numpy()
    assert type(model).__name__ == {"qwen": "Qwen2ForCausalLM", "llama": "LlamaForCausalLM"}[family]
    assert len(ids) == TEXT_TOKENS + POINTS
    assert (ids >= V).sum() == POINTS
    assert got.shape == (1, V + POINTS)
    assert_close("logits", got[:, :V], want, Tol(1e-5, 1e-5, why="the same operations on the same numbers"))


def test_the_tokenizer_comes_along(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint("qwen")
    write_plain_model(checkpoint, tmp_path, POINTS)
    assert (tmp_path / "tokenizer.json").read_bytes() == (checkpoint / "tokenizer.json").read_bytes()
    assert np.isin(["config.json", "model.safetensors"], [path.name for path in tmp_path.iterdir()]).all()
