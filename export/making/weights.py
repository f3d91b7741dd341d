"""Random weights whose logits are alive: attention looks somewhere, layers matter, and no token wins by a hair.

Each tensor has a random stream of its own, seeded by the checkpoint's seed and the tensor's name, so one can be made
without the others and a shard holds no more than itself in memory.
"""

from __future__ import annotations

import hashlib
import math

import torch

from export.checkpoint import ModelConfig
from export.checkpoint.expected import Shape

LOGIT_STD = 2.0  # of logits before any token is favoured; the best of a thousand then leads by about 0.4
QUERY_KEY_GAIN = 1.6  # on queries and on keys: scores have a standard deviation near 2.5, so attention selects
BRANCH_GAIN = 3.0  # all layers together add about twice the embedding: a deep model does not amplify rounding
NEIGHBOURS = 9  # of 27 voxels around one on a surface, about so many are occupied
PROJECTED_STD = {"linear": 1.6, "mlp": 1.2}  # of what the projector's last layer multiplies, measured on small rooms


def random_tensor(name: str, shape: Shape, config: ModelConfig, seed: int) -> torch.Tensor:
    """A float32 tensor for the place `name` in the model."""
    noise = torch.randn(shape, generator=_stream(name, seed))
    leaf = name.rsplit(".", 1)[-1]
    if name.startswith("model.") and "norm" in name:
        return _rms_norm_weight(name, noise)
    if name in ("model.embed_tokens.weight", "lm_head.weight"):
        return _embedding(noise, config)
    if len(shape) == 1 and leaf == "weight":  # LayerNorm
        return 1 + 0.1 * noise
    if leaf == "bias":
        return 0.1 * noise * (embedding_std(config) if name.startswith("point_proj.") else 1.0)
    return noise * (_gain(name, config) / math.sqrt(_fan_in(shape)))


def _stream(name: str, seed: int) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def _rms_norm_weight(name: str, noise: torch.Tensor) -> torch.Tensor:
    """Near 1. The last one has random signs: with a tied head, a token would otherwise predict itself."""
    near_one = 1 + 0.1 * noise.abs()
    return near_one * noise.sign() if name == "model.norm.weight" else near_one


def _embedding(noise: torch.Tensor, config: ModelConfig) -> torch.Tensor:
    """Rows that give logits of LOGIT_STD against a normalised state; the stop tokens' are small, so they are rare."""
    embedding = noise * embedding_std(config)
    embedding[list(config.generation.stop_token_ids)] *= 0.05
    return embedding


def embedding_std(config: ModelConfig) -> float:
    """Standard deviation of the embedding, and what the projector aims at for point tokens."""
    return LOGIT_STD / math.sqrt(config.language_model.hidden_size)


def _fan_in(shape: Shape) -> int:
    return NEIGHBOURS * shape[-1] if len(shape) == 5 else shape[-1]


def _gain(name: str, config: ModelConfig) -> float:
    if name.endswith(("q_proj.weight", "k_proj.weight")):
        return QUERY_KEY_GAIN
    if name.endswith(("o_proj.weight", "down_proj.weight")):
        return BRANCH_GAIN * embedding_std(config) / math.sqrt(config.language_model.layers)
    if name in ("point_proj.weight", "point_proj.2.weight"):
        return embedding_std(config) / PROJECTED_STD[config.projector]
    return 1.0
