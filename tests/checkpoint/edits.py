"""Edits of a checkpoint's files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file


def edit_json(path: Path, *drop: str, **changes: Any) -> None:
    """Change keys of a JSON object and drop some. `a__b=1` changes key b of the object under a."""
    facts = json.loads(path.read_text())
    for key, value in changes.items():
        outer, _, inner = key.partition("__")
        if inner:
            facts[outer][inner] = value
        else:
            facts[key] = value
    path.write_text(json.dumps({key: value for key, value in facts.items() if key not in drop}))


def edit_config(folder: Path, *drop: str, **changes: Any) -> Path:
    """Change keys of a checkpoint's config.json and drop some."""
    edit_json(folder / "config.json", *drop, **changes)
    return folder


def edit_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    """Let `change` alter the {name: tensor} of a checkpoint in one file."""
    path = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(tensors)
    save_file(tensors, path)
    return folder
