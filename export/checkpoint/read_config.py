"""`config.json` and `generation_config.json` of a checkpoint, read once into a `ModelConfig`."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

from export.checkpoint.choices import Choices, choose_encoding
from export.checkpoint.config import ModelConfig
from export.checkpoint.fields import Fields, read_json_object
from runtime.errors import CheckpointError
from runtime.manifest import EncoderSpec, GenerationSpec, LanguageModelSpec

FAMILIES = {"spatiallm_qwen": "qwen", "spatiallm_llama": "llama"}
CURVES = ("z", "z-trans", "hilbert", "hilbert-trans")
MOST_LAYERS = 1000  # tensors are listed by layer, so a wild number is refused before the list is made
LLAMA3_KEYS = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")


def read_config(folder: Path, tensor_names: Collection[str], choices: Choices) -> tuple[ModelConfig, tuple[str, ...]]:
    """The checkpoint's facts with the command line's choices applied, and the lines that say which were applied.

    `tensor_names` decides the projector where config.json does not name it (checkpoints older than the key).
    Raises CheckpointError, naming the file and the key, for everything that this export cannot reproduce.
    """
    config = Fields(read_json_object(folder / "config.json"), str(folder / "config.json"))
    model_type = _model_type(config)
    encoding = choose_encoding(config, choices)
    language_model = _language_model(config, FAMILIES[model_type])
    theta, scaling = _rope(config)
    start, end, pad = _point_ids(config, language_model.vocab_size)
    model = ModelConfig(
        model_type=model_type,
        encoder=_encoder(config),
        language_model=language_model,
        projector=_projector(config, tensor_names),
        rope_theta=theta,
        rope_scaling=scaling,
        max_positions=config.count("max_position_embeddings"),
        point_start_token_id=start,
        point_end_token_id=end,
        point_token_id=pad,
        vlm_pe=encoding.vlm_pe,
        merge_rule=encoding.merge_rule,
        variant=encoding.variant,
        pcd_theta=encoding.pcd_theta,
        generation=_generation(folder, config, language_model.vocab_size),
    )
    return model, encoding.notes


def _model_type(config: Fields) -> str:
    model_type = config.text("model_type", "")
    if model_type not in FAMILIES:
        raise CheckpointError(
            f"{config.where}: model_type is {model_type!r}, but spatiallm_qwen or spatiallm_llama was expected. "
            f"Give a SpatialLM checkpoint."
        )
    backbone = config.text("point_backbone", "")
    if backbone == "scenescript":
        raise CheckpointError(
            f"{config.where}: this is a SpatialLM 1.0 checkpoint (SceneScript encoder), which cannot be exported yet. "
            f"Give a SpatialLM 1.1 checkpoint (Sonata encoder)."
        )
    if backbone != "sonata":
        raise config.wrong("point_backbone", "'sonata'")
    return model_type


def _language_model(config: Fields, family: str) -> LanguageModelSpec:
    hidden, heads = config.count("hidden_size"), config.count("num_attention_heads")
    kv_heads = config.count("num_key_value_heads", heads)
    if config.get("head_dim") is None and hidden % heads:
        raise config.wrong("hidden_size", f"a multiple of num_attention_heads ({heads})")
    if heads % kv_heads:
        raise config.wrong("num_key_value_heads", f"a divisor of num_attention_heads ({heads})")
    head_dim = config.count("head_dim", hidden // heads)
    if head_dim % 2:
        raise config.wrong("head_dim" if config.get("head_dim") else "hidden_size", "an even head_dim")
    _refuse_other_arithmetic(config)
    attention_bias = config.flag("attention_bias", False)
    return LanguageModelSpec(
        family=family,
        hidden_size=hidden,
        intermediate_size=config.count("intermediate_size"),
        layers=config.count("num_hidden_layers", most=MOST_LAYERS),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=config.count("vocab_size"),
        rms_norm_eps=config.number("rms_norm_eps", 1e-6),
        qkv_bias=family == "qwen" or attention_bias,  # Qwen2 has these biases by its architecture
        output_bias=family == "llama" and attention_bias,
        mlp_bias=family == "llama" and config.flag("mlp_bias", False),
        tie_word_embeddings=config.flag("tie_word_embeddings", False),
    )


def _refuse_other_arithmetic(config: Fields) -> None:
    if config.text("hidden_act", "silu") != "silu":
        raise config.wrong("hidden_act", "'silu'")
    layer_types = config.get("layer_types", [])
    if config.flag("use_sliding_window", False) or "sliding_attention" in layer_types:
        raise CheckpointError(
            f"{config.where}: the model attends through a sliding window (use_sliding_window or layer_types), "
            f"which the exported graphs do not have. Give a checkpoint with full attention."
        )


def _rope(config: Fields) -> tuple[float, dict[str, Any] | None]:
    """(theta, scaling) from `rope_theta` and `rope_scaling`, or from transformers 5's `rope_parameters`."""
    new = config.get("rope_parameters")
    old = config.get("rope_scaling")
    rope = config.inner("rope_parameters") if new is not None else config.inner("rope_scaling") if old else None
    if new is not None and config.get("rope_theta") not in (None, new.get("rope_theta")):
        raise config.wrong("rope_theta", f"the same as in rope_parameters ({new.get('rope_theta')})")
    theta = rope.number("rope_theta") if new is not None and rope else config.number("rope_theta")
    if rope is None:
        return theta, None
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise rope.wrong("partial_rotary_factor", "1.0 (the whole head rotates)")
    kind = rope.text("rope_type", rope.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind != "llama3":
        raise CheckpointError(f"{rope.where}: rope_type is {kind!r}, but only 'default' and 'llama3' can be exported.")
    scaling: dict[str, Any] = {key: rope.number(key) for key in LLAMA3_KEYS}
    if scaling["high_freq_factor"] <= scaling["low_freq_factor"]:
        raise rope.wrong("high_freq_factor", "a number above low_freq_factor")
    return theta, {"rope_type": kind, **{key: rope.values[key] for key in LLAMA3_KEYS}}


def _point_ids(config: Fields, vocab_size: int) -> tuple[int, int, int]:
    keys = ("point_start_token_id", "point_end_token_id", "point_token_id")
    start, end, pad = (config.token_id(key, vocab_size) for key in keys)
    if len({start, end, pad}) < 3:
        raise CheckpointError(f"{config.where}: {', '.join(keys)} are {start}, {end}, {pad}; they must differ.")
    return start, end, pad


def _encoder(config: Fields) -> EncoderSpec:
    point = config.inner("point_config")
    if point.flag("enable_rpe", False):
        raise CheckpointError(
            f"{point.where}: 'enable_rpe' is true; relative position tables in the encoder cannot be exported. "
            f"Give a checkpoint trained without them."
        )
    depths = point.counts("enc_depths", most=MOST_LAYERS)
    stages = len(depths)
    encoder = EncoderSpec(
        in_channels=point.count("in_channels"),
        num_bins=point.count("num_bins"),
        order=_order(point),
        stride=point.counts("stride", stages - 1) if stages > 1 else (),
        depths=depths,
        channels=point.counts("enc_channels", stages),
        heads=point.counts("enc_num_head", stages),
        patch_sizes=point.counts("enc_patch_size", stages),
        mlp_ratio=point.count("mlp_ratio"),
    )
    _check_encoder(encoder, point)
    return encoder


def _order(point: Fields) -> tuple[str, ...]:
    order = point.get("order")
    order = [order] if isinstance(order, str) else order
    if not isinstance(order, list) or not order or any(curve not in CURVES for curve in order):
        raise point.wrong("order", f"a list of curves out of {', '.join(CURVES)}")
    return tuple(order)


def _check_encoder(encoder: EncoderSpec, point: Fields) -> None:
    if encoder.in_channels != 6:
        raise point.wrong("in_channels", "6 (x, y, z and colour)")
    if any(stride != 2 for stride in encoder.stride):
        raise point.wrong("stride", "2 at every pooling (a coarse voxel has at most 8 children)")
    if any(channels % heads for channels, heads in zip(encoder.channels, encoder.heads, strict=True)):
        raise point.wrong("enc_num_head", f"divisors of enc_channels {list(encoder.channels)}")
    coarsest = encoder.num_bins // math.prod(encoder.stride)
    # The Fourier features divide by the coarsest grid less one; a serialization code has 16 bits per axis.
    if coarsest < 2 or encoder.num_bins >= 2**16:
        raise point.wrong("num_bins", f"an integer in {2 * math.prod(encoder.stride)} .. 65535")


def _projector(config: Fields, tensor_names: Collection[str]) -> str:
    stored = config.get("projector")
    if stored in ("linear", "mlp"):
        return str(stored)
    if stored is not None:
        raise config.wrong("projector", "'linear' or 'mlp'")
    return "mlp" if "point_proj.0.weight" in tensor_names else "linear"


def _generation(folder: Path, config: Fields, vocab_size: int) -> GenerationSpec:
    path = folder / "generation_config.json"
    settings = Fields(read_json_object(path) if path.exists() else {}, str(path))
    stop = settings.token_ids("eos_token_id", vocab_size) or config.token_ids("eos_token_id", vocab_size)
    if not stop:
        raise CheckpointError(
            f"{folder}: neither generation_config.json nor config.json has an 'eos_token_id', so a layout would never "
            f"end. Add the id of the token that ends an answer."
        )

    def number(key: str) -> float | None:
        return None if settings.get(key) is None else settings.number(key)

    top_k = settings.get("top_k")
    return GenerationSpec(
        stop_token_ids=stop,
        do_sample=None if settings.get("do_sample") is None else settings.flag("do_sample", False),
        temperature=number("temperature"),
        top_k=None if top_k in (None, 0) else settings.count("top_k"),  # 0 turns the filter off
        top_p=number("top_p"),
        repetition_penalty=number("repetition_penalty"),
    )
