"""The decode kernel's definition against the module that export makes its graphs from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from export.modules import Decode, LanguageModel
from plugins.decode_step.reference import Heads, Layer, Weights, decode_step
from tests.compare import Tol, assert_close
from tests.modules.tiny import TinyCheckpoint, tiny_checkpoint_of, tiny_config

CLOSE = Tol(2e-4, why="float64 against float32")
CAPACITY = 24


def weights_of(checkpoint: TinyCheckpoint) -> Weights:
    spec = checkpoint.config.language_model

    def tensor(*names: str) -> np.ndarray:
        return np.concatenate([checkpoint.tensors[name].double().numpy() for name in names])

    layers = []
    for i in range(spec.layers):
        at, qkv = f"model.layers.{i}", [f"model.layers.{i}.self_attn.{p}_proj" for p in "qkv"]
        layers.append(
            Layer(
                input_norm=tensor(f"{at}.input_layernorm.weight"),
                qkv=tensor(*(f"{name}.weight" for name in qkv)),
                qkv_bias=tensor(*(f"{name}.bias" for name in qkv)) if spec.qkv_bias else None,
                o=tensor(f"{at}.self_attn.o_proj.weight"),
                post_norm=tensor(f"{at}.post_attention_layernorm.weight"),
                gate_up=tensor(f"{at}.mlp.gate_proj.weight", f"{at}.mlp.up_proj.weight"),
                down=tensor(f"{at}.mlp.down_proj.weight"),
            )
        )
    embedding = tensor("model.embed_tokens.weight")
    head = embedding if spec.tie_word_embeddings else tensor("lm_head.weight")
    return Weights(embedding=embedding, layers=layers, final_norm=tensor("model.norm.weight"), head=head)


@pytest.mark.parametrize("length", [0, 7, CAPACITY - 1])
@pytest.mark.parametrize("family", ["qwen", "llama"])
def test_a_step_equals_the_module(family: str, length: int) -> None:
    checkpoint = tiny_checkpoint_of(tiny_config(family, tied=family == "qwen"), seed=length)
    spec = checkpoint.config.language_model
    rng = np.random.default_rng(length)
    past = rng.normal(0, 1, (CAPACITY, 2 * spec.layers * spec.kv_heads, spec.head_dim))
    past[length:] = np.nan
    cos, sin = rng.uniform(-1, 1, (2, spec.head_dim))  # no rotation of two halves by one angle
    tensors = torch.from_numpy(np.nan_to_num(past, nan=1e30)).float()[:, None].split(spec.kv_heads, 2)
    names = [f"past_{kind}.{i}" for kind in ("key", "value") for i in range(spec.layers)]
    with torch.no_grad():
        want = Decode(LanguageModel(checkpoint.config, checkpoint.float_tensor))(
            input_ids=torch.tensor([[5]]),
            cos=torch.tensor(cos)[None, None].float(),
            sin=torch.tensor(sin)[None, None].float(),
            past_length=torch.tensor([length]),
            **dict(zip(names, tensors, strict=True)),
        )
    heads = Heads(query=spec.heads, key=spec.kv_heads, size=spec.head_dim)
    logits = decode_step(weights_of(checkpoint), heads, spec.rms_norm_eps, 5, length, past, cos, sin)
    assert_close("logits", logits, want["logits"][0, 0], CLOSE)
    rows = torch.cat([want[name.removeprefix("past_")] for name in names], 2)[0, 0]
    assert_close("row", past[length], rows, CLOSE)
    assert np.isnan(past[length + 1 :]).all()
