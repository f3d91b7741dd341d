"""The tensors a checkpoint must hold, computed from its sizes alone."""

from __future__ import annotations

from collections.abc import Iterator

from export.checkpoint.config import ModelConfig
from runtime.manifest import EncoderSpec, LanguageModelSpec

FOURIER_WIDTH = 63  # 3 coordinates, and sine and cosine of each in 10 bands
Shape = tuple[int, ...]
NamedShape = tuple[str, Shape]


def expected_tensors(config: ModelConfig) -> dict[str, Shape]:
    """{name: shape} of every tensor of the model: encoder, projector, language model, in the order of the data."""
    return {
        **{f"point_backbone.{name}": shape for name, shape in _encoder(config.encoder)},
        **dict(_projector(config)),
        **dict(_language_model(config.language_model)),
    }


def _linear(name: str, out_width: int, in_width: int, bias: bool = True) -> Iterator[NamedShape]:
    yield f"{name}.weight", (out_width, in_width)
    if bias:
        yield f"{name}.bias", (out_width,)


def _norm(name: str, width: int) -> Iterator[NamedShape]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _encoder(encoder: EncoderSpec) -> Iterator[NamedShape]:
    channels = encoder.channels
    yield from _linear("embedding.stem.linear", channels[0], encoder.in_channels)
    yield from _norm("embedding.stem.norm", channels[0])
    for stage in range(encoder.stages):
        if stage > 0:
            yield from _linear(f"enc.enc{stage}.down.proj", channels[stage], channels[stage - 1])
            yield from _norm(f"enc.enc{stage}.down.norm.0", channels[stage])
        for block in range(encoder.depths[stage]):
            yield from _block(f"enc.enc{stage}.block{block}", channels[stage], encoder.mlp_ratio)
    yield from _linear("input_proj", channels[-1], channels[-1] + FOURIER_WIDTH)


def _block(name: str, width: int, mlp_ratio: int) -> Iterator[NamedShape]:
    yield f"{name}.cpe.0.weight", (width, 3, 3, 3, width)  # out, x, y, z, in
    yield f"{name}.cpe.0.bias", (width,)
    yield from _linear(f"{name}.cpe.1", width, width)
    yield from _norm(f"{name}.cpe.2", width)
    yield from _norm(f"{name}.norm1.0", width)
    yield from _linear(f"{name}.attn.qkv", 3 * width, width)
    yield from _linear(f"{name}.attn.proj", width, width)
    yield from _norm(f"{name}.norm2.0", width)
    yield from _linear(f"{name}.mlp.0.fc1", mlp_ratio * width, width)
    yield from _linear(f"{name}.mlp.0.fc2", width, mlp_ratio * width)


def _projector(config: ModelConfig) -> Iterator[NamedShape]:
    width, hidden = config.encoder.channels[-1], config.language_model.hidden_size
    if config.projector == "linear":
        yield from _linear("point_proj", hidden, width)
    else:
        yield from _linear("point_proj.0", width, width)
        yield from _linear("point_proj.2", hidden, width)


def _language_model(model: LanguageModelSpec) -> Iterator[NamedShape]:
    yield "model.embed_tokens.weight", (model.vocab_size, model.hidden_size)
    for layer in range(model.layers):
        yield from _layer(f"model.layers.{layer}", model)
    yield "model.norm.weight", (model.hidden_size,)
    if not model.tie_word_embeddings:
        yield "lm_head.weight", (model.vocab_size, model.hidden_size)


def _layer(name: str, model: LanguageModelSpec) -> Iterator[NamedShape]:
    hidden, inner = model.hidden_size, model.intermediate_size
    q_width, kv_width = model.heads * model.head_dim, model.kv_heads * model.head_dim
    yield f"{name}.input_layernorm.weight", (hidden,)
    yield from _linear(f"{name}.self_attn.q_proj", q_width, hidden, model.qkv_bias)
    yield from _linear(f"{name}.self_attn.k_proj", kv_width, hidden, model.qkv_bias)
    yield from _linear(f"{name}.self_attn.v_proj", kv_width, hidden, model.qkv_bias)
    yield from _linear(f"{name}.self_attn.o_proj", hidden, q_width, model.output_bias)
    yield f"{name}.post_attention_layernorm.weight", (hidden,)
    yield from _linear(f"{name}.mlp.gate_proj", inner, hidden, model.mlp_bias)
    yield from _linear(f"{name}.mlp.up_proj", inner, hidden, model.mlp_bias)
    yield from _linear(f"{name}.mlp.down_proj", hidden, inner, model.mlp_bias)
