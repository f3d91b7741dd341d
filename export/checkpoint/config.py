"""What a checkpoint's `config.json` says, read in one function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from runtime.manifest import EncoderSpec, GenerationSpec, LanguageModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The facts of a checkpoint that export needs, with the command line's choices already applied."""

    model_type: str  # "spatiallm_qwen" or "spatiallm_llama"
    encoder: EncoderSpec
    language_model: LanguageModelSpec
    projector: str  # "linear" or "mlp"
    rope_theta: float
    rope_scaling: dict[str, Any] | None  # as in config.json, e.g. {"rope_type": "llama3", ...}
    max_positions: int
    point_start_token_id: int
    point_end_token_id: int
    point_token_id: int
    vlm_pe: str | None  # None or "3D_RoPE"
    merge_rule: str | None  # "3D_only" or "3D_with_1D"; None with vlm_pe None
    variant: str  # "PE-A" (default) or "PE-B"
    pcd_theta: float  # base of the x, y, z frequencies in PE-B; default 10000
    generation: GenerationSpec
