"""The demo model as trainable tensors by their checkpoint names, and the clean modules over them."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from demo.training.batch import Batch
from demo.training.config import write_config
from demo.training.encoder import encode_stages
from demo.training.language import embed, hidden_states
from export.checkpoint import expected_tensors
from export.checkpoint.config import ModelConfig
from export.checkpoint.expected import Shape
from export.modules import Encoder, LanguageModel
from export.rope import position_spec

NEIGHBOURS = 9  # of 27 voxels around one on a surface, about so many are occupied
STEM = "point_backbone.embedding.stem.linear.weight"
BRANCH = 0.2  # of a residual branch's usual start: embeddings are small, and a layer of length 0.3 drowns them
EMBEDDING_STD = 0.05  # logits begin below 1, since the last norm gives states of length 16


class DemoModel(nn.Module):
    """Encoder and language model. `tensors` are the very tensors that training changes."""

    def __init__(self, config: ModelConfig, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self.config, self.tensors = config, tensors
        self.position = position_spec(config, "causal")
        self.encoder = Encoder(config, tensors.__getitem__)
        self.language_model = LanguageModel(config, tensors.__getitem__)
        self.requires_grad_(True)

    def see(self, batch: Batch) -> tuple[Tensor, list[Tensor]]:
        """Point tokens [P, C] of a batch, and what leaves each stage of the encoder."""
        return encode_stages(self.encoder, batch.features, batch.geometry)

    def states(self, batch: Batch, points: Tensor) -> Tensor:
        """Hidden states [B, S, C] of a batch's sequences over its point tokens."""
        return hidden_states(self.language_model, self.embeds(batch, points), batch.tables)

    def embeds(self, batch: Batch, points: Tensor) -> Tensor:
        """What the language model reads: ids embedded, point tokens in their places; [B, S, C]."""
        return embed(self.language_model, batch.input_ids, batch.place, points)

    def save(self, folder: Path, mode: str) -> Path:
        """Write a checkpoint directory that `export_model.py` reads: half precision, as it is shipped."""
        write_config(folder, mode)
        half = {name: tensor.detach().half().cpu().contiguous() for name, tensor in self.tensors.items()}
        save_file(half, folder / "model.safetensors", metadata={"format": "pt"})
        return folder


def new_model(config: ModelConfig, device: torch.device, seed: int) -> DemoModel:
    """Random weights, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    layers = config.language_model.layers
    tensors = {
        name: _initial(name, shape, layers, generator).to(device) for name, shape in expected_tensors(config).items()
    }
    return DemoModel(config, tensors)


def read_model(config: ModelConfig, folder: Path, device: torch.device) -> DemoModel:
    """A checkpoint directory's weights, widened to float32."""
    tensors = load_file(folder / "model.safetensors")
    return DemoModel(config, {name: tensor.float().to(device) for name, tensor in tensors.items()})


def _initial(name: str, shape: Shape, layers: int, generator: torch.Generator) -> Tensor:
    if name == "model.embed_tokens.weight":
        return torch.randn(shape, generator=generator) * EMBEDDING_STD
    if len(shape) == 1:
        return torch.ones(shape) if name.endswith("weight") else torch.zeros(shape)
    fan_in = NEIGHBOURS * shape[-1] if len(shape) == 5 else shape[-1]
    std = 1 / math.sqrt(fan_in)
    if name == STEM:  # metres up to ten, colours within 1: both should be heard
        return torch.randn(shape, generator=generator) * torch.tensor([0.15, 0.15, 0.3, 0.7, 0.7, 0.7])
    if name.endswith(("o_proj.weight", "down_proj.weight")):  # branches that are added to the residual stream
        std *= BRANCH / math.sqrt(2 * layers)
    return torch.randn(shape, generator=generator) * std
