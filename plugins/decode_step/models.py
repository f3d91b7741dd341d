"""Sizes of the published models, in the precision of their checkpoints."""

from __future__ import annotations

from plugins.decode_step.sizes import Sizes

QWEN = Sizes(
    hidden=896,
    intermediate=4864,
    layers=24,
    heads=14,
    kv_heads=2,
    head_dim=64,
    vocabulary=151936,
    qkv_bias=True,
    epsilon=1e-6,
    bf16=False,
)
LLAMA = Sizes(
    hidden=2048,
    intermediate=8192,
    layers=16,
    heads=32,
    kv_heads=8,
    head_dim=64,
    vocabulary=128256,
    qkv_bias=False,
    epsilon=1e-5,
    bf16=True,
)
MODELS = {"qwen": QWEN, "llama": LLAMA}
