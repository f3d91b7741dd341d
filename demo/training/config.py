"""The demo model: SpatialLM's Qwen variant, made small. Everything a checkpoint holds except trained weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from demo.training.tokens import NUM_BINS, write_tokenizer
from export.checkpoint.choices import Choices
from export.checkpoint.config import ModelConfig
from export.checkpoint.read_config import read_config

MODES = ("none", "3D_only", "3D_with_1D")
VOCABULARY = 1024  # the tokenizer's entries, filled up to a round size
POINTS = {
    "enc_depths": [1, 1, 4, 1, 1],  # four blocks in the middle use all four curves
    "enc_channels": [32, 48, 64, 96, 128],
    "enc_num_head": [2, 3, 4, 6, 8],  # 16 channels a head, as in Sonata
    "enc_patch_size": [256, 256, 256, 512, 1024],
    "in_channels": 6,
    "order": ["z", "z-trans", "hilbert", "hilbert-trans"],
    "stride": [2, 2, 2, 2],
    "mlp_ratio": 4,
    "mask_token": True,
    "enc_mode": True,
    "num_bins": NUM_BINS,
}
LANGUAGE_MODEL = {
    "architectures": ["SpatialLMQwenForCausalLM"],
    "model_type": "spatiallm_qwen",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,  # of 64 channels, so that the 3D split is the published 21/21/22 and 32/10/10/12
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "max_window_layers": 6,
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "sliding_window": None,
    "use_sliding_window": False,
    "vocab_size": VOCABULARY,
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "tie_word_embeddings": True,
    "torch_dtype": "float16",
    "use_cache": True,
}


def write_config(folder: Path, mode: str) -> ModelConfig:
    """Write config.json, generation_config.json and the tokenizer of a mode (one of MODES) into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = write_tokenizer(folder)
    config: dict[str, Any] = {
        **LANGUAGE_MODEL,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "point_backbone": "sonata",
        "projector": "mlp",
        "point_config": POINTS,
        "point_start_token_id": ids["<|point_start|>"],
        "point_end_token_id": ids["<|point_end|>"],
        "point_token_id": ids["<|point_pad|>"],
    }
    if mode != "none":
        config |= {"vlm_pe": "3D_RoPE", "pcd_pe_merge_rule": mode}
    generation = {"bos_token_id": ids["<|endoftext|>"], "do_sample": False, "eos_token_id": ids["<|im_end|>"]}
    for name, facts in (("config.json", config), ("generation_config.json", generation)):
        (folder / name).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return read_config(folder, (), Choices())[0]
