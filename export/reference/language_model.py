"""transformers' Qwen2ForCausalLM and LlamaForCausalLM, filled with a checkpoint's tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from export.checkpoint.config import ModelConfig
from export.reference.attention import SpatialLlamaAttention, SpatialQwen2Attention

FAMILIES: dict[str, tuple[Any, Any, Any]] = {
    "qwen": (Qwen2Config, Qwen2ForCausalLM, SpatialQwen2Attention),
    "llama": (LlamaConfig, LlamaForCausalLM, SpatialLlamaAttention),
}


def build_language_model(
    config: ModelConfig, tensors: Callable[[str], Tensor], *, attn_implementation: str = "eager"
) -> Any:
    """transformers' model in evaluation mode, float32; with 3D RoPE its attention modules are replaced."""
    _, model_class, attention_class = FAMILIES[config.language_model.family]
    settings = transformers_config(config, attn_implementation)
    with torch.device("meta"):  # no memory and no random numbers for weights that are replaced at once
        model = model_class(settings)
        if config.vlm_pe is not None:
            for i, layer in enumerate(model.model.layers):
                layer.self_attn = attention_class(settings, i)
    model.model.rotary_emb = type(model.model.rotary_emb)(settings)  # its frequencies are not in the checkpoint
    tied = config.language_model.tie_word_embeddings
    state = {name: tensors(name) for name in model.state_dict() if not (tied and name == "lm_head.weight")}
    if tied:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.requires_grad_(False).load_state_dict(state, assign=True)
    return model.eval()


def transformers_config(config: ModelConfig, attn_implementation: str = "eager") -> Any:
    """The configuration of transformers that a checkpoint's language model had, less the keys of SpatialLM."""
    spec = config.language_model
    rope = {"rope_type": "default", **(config.rope_scaling or {}), "rope_theta": config.rope_theta}
    biases = {"attention_bias": spec.qkv_bias, "mlp_bias": spec.mlp_bias} if spec.family == "llama" else {}
    return FAMILIES[spec.family][0](
        vocab_size=spec.vocab_size,
        hidden_size=spec.hidden_size,
        intermediate_size=spec.intermediate_size,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.kv_heads,
        head_dim=spec.head_dim,
        max_position_embeddings=config.max_positions,
        rms_norm_eps=spec.rms_norm_eps,
        rope_parameters=rope,
        tie_word_embeddings=spec.tie_word_embeddings,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation=attn_implementation,
        **biases,
    )
