"""`config.json` and `generation_config.json` of random checkpoints: the published sizes, and tiny ones for tests."""

from __future__ import annotations

from typing import Any

from export.making.tokens import special_ids

SIZES = ("tiny", "real")
FAMILIES = ("qwen", "llama")
DTYPES = ("float32", "bfloat16", "float16")
SHARD_BYTES = 2_000_000_000

_REAL_POINTS = {
    "enc_depths": [3, 3, 3, 12, 3],
    "enc_channels": [48, 96, 192, 384, 512],
    "enc_num_head": [3, 6, 12, 24, 32],
    "enc_patch_size": [1024, 1024, 1024, 1024, 1024],
    "num_bins": 1280,
}
# Five blocks in a stage use all four curves and the first again; patch sizes differ, so stages cannot be mixed up.
_TINY_POINTS = {
    "enc_depths": [2, 1, 1, 5, 2],
    "enc_channels": [16, 32, 32, 64, 64],
    "enc_num_head": [2, 2, 4, 4, 8],
    "enc_patch_size": [64, 32, 16, 16, 16],
    "num_bins": 640,
}
_REAL = {
    "qwen": {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
    },
    "llama": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
}
# A head of 64 channels, so that the 3D split is the published 21/21/22 and 32/10/10/12.
_TINY = {
    "hidden_size": 256,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
}
_FAMILY = {
    "qwen": {
        "architectures": ["SpatialLMQwenForCausalLM"],
        "model_type": "spatiallm_qwen",
        "max_position_embeddings": 32768,
        "max_window_layers": 21,
        "rms_norm_eps": 1e-6,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "use_sliding_window": False,
    },
    "llama": {
        "architectures": ["SpatialLMLlamaForCausalLM"],
        "attention_bias": False,
        "head_dim": 64,
        "max_position_embeddings": 131072,
        "mlp_bias": False,
        "model_type": "spatiallm_llama",
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-5,
        "rope_scaling": {
            "factor": 32.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0,
    },
}


def config_json(
    family: str, size: str, *, dtype: str, tied: bool, projector: str | None, vlm_pe: str | None, merge_rule: str | None
) -> dict[str, Any]:
    """The object of `config.json`. A `projector` of None leaves the key out, as checkpoints older than it do."""
    sizes = _REAL[family] if size == "real" else _TINY
    ids = special_ids(family, size)
    eos = ids.stop if len(ids.stop) > 1 else ids.stop[0]
    config: dict[str, Any] = {
        **_FAMILY[family],
        **sizes,
        "attention_dropout": 0.0,
        "bos_token_id": ids.bos,
        "eos_token_id": eos,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "point_backbone": "sonata",
        "point_config": _point_config(size),
        "point_start_token_id": ids.point_start,
        "point_end_token_id": ids.point_end,
        "point_token_id": ids.point_pad,
        "tie_word_embeddings": tied,
        "torch_dtype": dtype,
        "use_cache": True,
    }
    optional = {"projector": projector, "vlm_pe": vlm_pe, "pcd_pe_merge_rule": merge_rule}
    return config | {key: value for key, value in optional.items() if value is not None}


def generation_config_json(family: str, size: str) -> dict[str, Any]:
    """The object of `generation_config.json`; sampling is upstream's script's business, so it is not set here."""
    ids = special_ids(family, size)
    eos = list(ids.stop) if len(ids.stop) > 1 else ids.stop[0]
    return {"_from_model_config": True, "bos_token_id": ids.bos, "eos_token_id": eos}


def _point_config(size: str) -> dict[str, Any]:
    return {
        **(_REAL_POINTS if size == "real" else _TINY_POINTS),
        "in_channels": 6,
        "order": ["z", "z-trans", "hilbert", "hilbert-trans"],
        "stride": [2, 2, 2, 2],
        "mlp_ratio": 4,
        "mask_token": True,
        "enc_mode": True,
    }
