"""Tiny models for the tests of modules and reference: a configuration and random tensors that keep the logits alive."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from export.checkpoint import ModelConfig, expected_tensors
from runtime.manifest import EncoderSpec, GenerationSpec, LanguageModelSpec

START, END, POINT = 90, 91, 92
VOCABULARY = 96
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@dataclass(frozen=True)
class TinyCheckpoint:
    """What the reference and the modules read of a checkpoint, held in memory."""

    config: ModelConfig
    tensors: dict[str, Tensor]

    def float_tensor(self, name: str) -> Tensor:
        return self.tensors[name]


def tiny_encoder(**changes: Any) -> EncoderSpec:
    spec = EncoderSpec(
        in_channels=6,
        num_bins=64,
        order=("z", "z-trans", "hilbert", "hilbert-trans"),
        stride=(2, 2),
        depths=(2, 3, 5),
        channels=(8, 12, 16),
        heads=(2, 3, 4),
        patch_sizes=(32, 16, 8),
        mlp_ratio=2,
    )
    return dataclasses.replace(spec, **changes)


def tiny_config(family: str = "qwen", *, tied: bool = True, **changes: Any) -> ModelConfig:
    """Three query heads on each of two key heads; head size 16, so that 3D splits fill every part."""
    qwen = family == "qwen"
    language_model = LanguageModelSpec(
        family=family,
        hidden_size=96,
        intermediate_size=64,
        layers=2,
        heads=6,
        kv_heads=2,
        head_dim=16,
        vocab_size=VOCABULARY,
        rms_norm_eps=1e-6 if qwen else 1e-5,
        qkv_bias=qwen,
        output_bias=False,
        mlp_bias=False,
        tie_word_embeddings=tied,
    )
    config = ModelConfig(
        model_type=f"spatiallm_{family}",
        encoder=tiny_encoder(),
        language_model=language_model,
        projector="linear",
        rope_theta=1e6 if qwen else 5e5,
        rope_scaling=None if qwen else LLAMA3,
        max_positions=4096,
        point_start_token_id=START,
        point_end_token_id=END,
        point_token_id=POINT,
        vlm_pe=None,
        merge_rule=None,
        variant="PE-A",
        pcd_theta=10000.0,
        generation=GenerationSpec(
            stop_token_ids=(1,), do_sample=None, temperature=None, top_k=None, top_p=None, repetition_penalty=None
        ),
    )
    return dataclasses.replace(config, **changes)


def tiny_checkpoint_of(config: ModelConfig, seed: int = 0) -> TinyCheckpoint:
    """Random tensors under the checkpoint's names: norms near one, biases that matter, matrices that keep the scale."""
    generator = torch.Generator().manual_seed(seed)

    def draw(name: str, shape: tuple[int, ...]) -> Tensor:
        noise = torch.randn(shape, generator=generator)
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            return 0.2 * noise  # small against what the layers add: a tied head would else repeat the last token
        if name.endswith(".bias"):
            return 0.3 * noise
        if len(shape) == 1:
            return 1 + 0.2 * noise
        gain = 2.0 if "q_proj" in name or "k_proj" in name or "qkv" in name else 1.0
        return gain * noise / math.sqrt(math.prod(shape[1:]))

    tensors = {name: draw(name, shape) for name, shape in expected_tensors(config).items()}
    return TinyCheckpoint(config, tensors)
