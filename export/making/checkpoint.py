"""A random SpatialLM checkpoint on disk, written shard by shard."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from export.checkpoint import ModelConfig, expected_tensors
from export.checkpoint.choices import Choices
from export.checkpoint.expected import Shape
from export.checkpoint.read_config import read_config
from export.making.configs import SHARD_BYTES, config_json, generation_config_json
from export.making.tokenizer import write_tokenizer
from export.making.weights import random_tensor
from runtime.errors import CheckpointError


def make_checkpoint(
    output: str | Path,
    *,
    family: str = "qwen",
    size: str = "tiny",
    seed: int = 0,
    vlm_pe: str | None = None,
    merge_rule: str | None = None,
    projector: str | None = "mlp",
    dtype: str = "float32",
    tied: bool = True,
    shard_size: int = SHARD_BYTES,
    overrides: Mapping[str, Any] | None = None,
    point_overrides: Mapping[str, Any] | None = None,
) -> Path:
    """Write a random checkpoint into a new or empty directory and return its path.

    A `projector` of None writes a linear one and leaves the key out of config.json. `overrides` replace keys of
    config.json, `point_overrides` keys of its point_config. The same arguments give the same bytes. At most
    `shard_size` bytes of weights are in memory at a time. Raises CheckpointError.
    """
    folder = _empty_folder(Path(output))
    config = config_json(
        family, size, dtype=dtype, tied=tied, projector=projector, vlm_pe=vlm_pe, merge_rule=merge_rule
    )
    config |= dict(overrides or {})
    config["point_config"] |= dict(point_overrides or {})
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", generation_config_json(family, size))
    write_tokenizer(folder, family, size, config["vocab_size"], seed)
    model, _ = read_config(folder, (), Choices())
    _write_weights(folder, model, seed, getattr(torch, dtype), shard_size)
    return folder


def _empty_folder(folder: Path) -> Path:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder}: already there and not an empty directory. Give another --output.")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _write_weights(folder: Path, model: ModelConfig, seed: int, dtype: torch.dtype, shard_size: int) -> None:
    shards = list(_shards(expected_tensors(model), dtype.itemsize, shard_size))
    weight_map = {}
    for number, shapes in enumerate(shards, start=1):
        name = "model.safetensors"
        if len(shards) > 1:
            name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        _write_shard(folder / name, shapes, model, seed, dtype)
        weight_map.update(dict.fromkeys(shapes, name))
    if len(shards) > 1:
        total = sum(math.prod(shape) for shape in expected_tensors(model).values()) * dtype.itemsize
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        _write_json(folder / "model.safetensors.index.json", index)


def _write_shard(path: Path, shapes: dict[str, Shape], model: ModelConfig, seed: int, dtype: torch.dtype) -> None:
    from safetensors.torch import save_file

    tensors = {name: random_tensor(name, shape, model, seed).to(dtype) for name, shape in shapes.items()}
    save_file(tensors, path, metadata={"format": "pt"})


def _shards(shapes: dict[str, Shape], itemsize: int, shard_size: int) -> Iterator[dict[str, Shape]]:
    """Runs of tensors of at most `shard_size` bytes; a larger tensor is alone in its shard."""
    shard: dict[str, Shape] = {}
    used = 0
    for name, shape in shapes.items():
        size = math.prod(shape) * itemsize
        if shard and used + size > shard_size:
            yield shard
            shard, used = {}, 0
        shard[name] = shape
        used += size
    yield shard


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
