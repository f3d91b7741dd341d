"""Rotary frequencies as data: the model's own, and those of the 3D encoding for point tokens.

Torch computes them with the expressions of the original code, because a frequency that differs in its last bit turns
position 5000 by another angle.
"""

from __future__ import annotations

import math

import torch

from export.checkpoint.config import ModelConfig
from runtime.errors import CheckpointError
from runtime.manifest import PositionSpec, RopeSpec

PE_A_BASE = 10000.0  # PE-A takes it for every part of the head, whatever the language model's own base is


def position_spec(config: ModelConfig, prefill_attention: str) -> PositionSpec:
    """How positions enter attention for a checkpoint and its chosen encoding.

    `prefill_attention` is "causal", or "full" as the 3D modes of the original ran (their attention dropped the
    mask). Raises CheckpointError for "full" without a 3D mode and for a rope type that is not known.
    """
    if prefill_attention not in ("causal", "full"):
        raise CheckpointError(f"prefill_attention is {prefill_attention!r}, but 'causal' or 'full' was expected.")
    if prefill_attention == "full" and config.vlm_pe is None:
        raise CheckpointError(
            "--prefill_attention full is refused with VLM_PE=None: only the 3D modes of the original lost the causal "
            "mask, the plain model never did. Use --prefill_attention causal, or give --VLM_PE 3D_RoPE."
        )
    return PositionSpec(
        vlm_pe=config.vlm_pe,
        merge_rule=config.merge_rule,
        variant=None if config.vlm_pe is None else config.variant,
        prefill_attention=prefill_attention,
        text=_text_rope(config),
        points=None if config.vlm_pe is None else _point_rope(config),
    )


def inverse_frequencies(base: float, width: int) -> torch.Tensor:
    """base^(-2j/width) for j = 0 .. ceil(width/2) - 1, float32 [ceil(width/2)]."""
    frequencies: torch.Tensor = 1.0 / (base ** (torch.arange(0, width, 2, dtype=torch.float32) / width))
    return frequencies


def head_widths(head_dim: int, merge_rule: str, variant: str) -> tuple[int, int, int, int]:
    """Channels of a head given to (position, x, y, z). Raises CheckpointError for a head too narrow to split.

    PE-A: the position takes none or half, x and y a third of the rest, z what is left. PE-B: even widths, odd pairs
    go to z and then y; its 3D_with_1D gives the whole head to the position, as its last revision was left.
    """
    if variant == "PE-B" and merge_rule == "3D_with_1D":
        return head_dim, 0, 0, 0
    if head_dim < (6 if variant == "PE-B" else 2):
        raise CheckpointError(f"head_dim {head_dim} is too narrow to be split over x, y and z in {variant}.")
    if variant == "PE-B":
        third, left = divmod(head_dim // 2, 3)
        return 0, 2 * third, 2 * third + 2 * (left == 2), 2 * third + 2 * (left >= 1)
    position = head_dim // 2 if merge_rule == "3D_with_1D" else 0
    third = (head_dim - position) // 3
    return position, third, third, head_dim - position - 2 * third


def _text_rope(config: ModelConfig) -> RopeSpec:
    """The language model's own rotary embedding, two equal halves, as transformers computes it."""
    head_dim = config.language_model.head_dim
    frequencies = inverse_frequencies(config.rope_theta, head_dim)
    if config.rope_scaling is not None:
        frequencies = _scaled_llama3(frequencies, config)
    return RopeSpec(axis=(0,) * head_dim, inv_freq=tuple(torch.cat([frequencies, frequencies]).tolist()))


def _scaled_llama3(frequencies: torch.Tensor, config: ModelConfig) -> torch.Tensor:
    """Llama 3.1's stretch of the slow channels [D/2]: https://arxiv.org/abs/2407.21783, as in transformers' "llama3".

    Wavelengths beyond the old context are divided by `factor`, short ones stay, those between are interpolated.
    """
    scaling = config.rope_scaling or {}
    if scaling.get("rope_type") != "llama3":
        raise CheckpointError(
            f"config.json: rope_type is {scaling.get('rope_type')!r}, but only 'default' and 'llama3' can be exported."
        )
    factor, low, high = scaling["factor"], scaling["low_freq_factor"], scaling["high_freq_factor"]
    context = scaling["original_max_position_embeddings"]
    wavelengths = 2 * math.pi / frequencies
    scaled = torch.where(wavelengths > context / low, frequencies / factor, frequencies)
    blend = (context / wavelengths - low) / (high - low)
    between = (1 - blend) * scaled / factor + blend * scaled
    is_between = ~(wavelengths < context / high) & ~(wavelengths > context / low)
    return torch.where(is_between, between, scaled)


def _point_rope(config: ModelConfig) -> RopeSpec:
    """The 3D encoding of point tokens: parts of the head for (position, x, y, z), in this order."""
    variant, merge_rule = config.variant, config.merge_rule or "3D_only"
    widths = head_widths(config.language_model.head_dim, merge_rule, variant)
    axis = tuple(axis for axis, width in enumerate(widths) for _ in range(width))
    parts = [_part(config, axis, width) for axis, width in enumerate(widths) if width]
    return RopeSpec(axis=axis, inv_freq=tuple(torch.cat(parts).tolist()))


def _part(config: ModelConfig, axis: int, width: int) -> torch.Tensor:
    """Frequencies of one part, float32 [width]. An odd width drops the last copy of the expansion."""
    if config.variant == "PE-A":  # neighbours share a frequency: f0, f0, f1, f1, ...
        return inverse_frequencies(PE_A_BASE, width).repeat_interleave(2)[:width]
    # PE-B: halves share a frequency, and the position's base is the language model's, without llama3 scaling.
    base = config.rope_theta if axis == 0 else config.pcd_theta
    return inverse_frequencies(base, width).repeat(2)[:width]
