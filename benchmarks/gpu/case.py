"""The case that both sides compute: inputs, and what float32 PyTorch made of them, in one .npz.

facts                            JSON: model, sizes, how it was made
prefill.<input>                  the prefill graph's inputs, B = 1
wanted.logits [1, V]             wanted.rows [2L, S, K, D]: cache rows, keys of all layers, then values
forced.tokens [F]                forced.logits [F, V]: after each forced token
free.tokens [N]                  free.margins [N]: greedy text, and by how much each token won
encoder.<input>                  wanted.point_tokens [P, C]
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtime.arrays import Array
from runtime.engines import Backend, Engine, Tensor
from runtime.manifest import LanguageModelSpec, PositionSpec
from runtime.points import clean_up, encoder_inputs, grid_sample, read_point_cloud
from runtime.rope import normalize_coords, rope_table

BEFORE = 15  # text positions before the first point token
ROOM = (8.0, 6.0, 2.7)  # metres


@dataclass(frozen=True, slots=True)
class Case:
    """An open file; arrays are read when asked for."""

    arrays: Mapping[str, Array]

    @classmethod
    def read(cls, path: Path) -> Case:
        return cls(np.load(path, allow_pickle=False))

    @property
    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads(str(self.arrays["facts"]))
        return facts

    @property
    def rows(self) -> int:
        """S, positions of the prompt."""
        return len(self.arrays["prefill.input_ids"][0])

    def inputs(self, graph: str) -> dict[str, Array]:
        """The inputs of `prefill` or `encoder` by their names in the graph."""
        names = [name for name in self.arrays if name.startswith(f"{graph}.")]
        return {name.split(".", 1)[1]: self.arrays[name] for name in names}


def write_case(path: Path, arrays: Mapping[str, Array], facts: Mapping[str, Any]) -> None:
    """Whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        np.savez(file, facts=np.array(json.dumps(facts)), **arrays)
    partial.replace(path)


def prefill_inputs(
    spec: LanguageModelSpec, position: PositionSpec, prompt: int, points: int, precision: str, seed: int = 0
) -> dict[str, Array]:
    """Random ids, embeddings and patch coordinates, seeded. Embeddings are numbers that `precision` can hold."""
    if prompt < BEFORE + points:
        raise ValueError(
            f"{points} point tokens behind {BEFORE} others need a prompt of {BEFORE + points}, not {prompt}"
        )
    rng = np.random.default_rng(seed)
    embeds = rng.normal(0, 0.1, (prompt, spec.hidden_size)).astype(np.float32)
    mask = (np.arange(prompt) >= BEFORE) & (np.arange(prompt) < BEFORE + points)
    cos, sin = rope_table(np.arange(prompt), None, position.text)
    cos_3d, sin_3d = cos.copy(), sin.copy()
    if position.points is not None:
        coords = normalize_coords(rng.uniform(0, ROOM, (points, 3))).coords
        cos_3d[mask], sin_3d[mask] = rope_table(np.flatnonzero(mask), coords, position.points)
    arrays = {
        "input_ids": rng.integers(0, spec.vocab_size, prompt).astype(np.int32),
        "point_embeds": rounded(embeds, precision),
        "point_mask": mask,
        "cos_3d": cos_3d,
        "sin_3d": sin_3d,
        "cos_1d": cos,
        "sin_1d": sin,
    }
    return {name: array[None] for name, array in arrays.items()} | {"lengths": np.array([prompt], np.int32)}


def rounded(array: Array, precision: str) -> Array:
    """float32 values that lose nothing in fp16 or bf16."""
    if precision == "fp16":
        return array.astype(np.float16).astype(np.float32)
    if precision == "bf16":  # cut, not rounded: any value will do that both sides can hold
        return (array.view(np.uint32) & 0xFFFF0000).view(np.float32)
    return array


def scene_feeds(path: Path, spec: Any) -> dict[str, Array]:
    """The encoder's inputs of a scene, cleaned as the pipeline cleans."""
    cloud = clean_up(read_point_cloud(path), spec.grid_size)
    return encoder_inputs(grid_sample(cloud, spec.num_bins), spec).feeds


def upload(backend: Backend, engine: Engine, arrays: Mapping[str, Array]) -> dict[str, Tensor]:
    """Arrays on the back end, each in the type that the engine takes."""
    return {name: backend.upload(as_type(arrays[name], spec.dtype)) for name, spec in engine.inputs.items()}


def as_type(array: Array, dtype: str) -> Array:
    """An array in an engine's type; bfloat16 has no name in numpy and travels as its bits."""
    if dtype == "bfloat16":
        return np.ascontiguousarray((array.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16))
    return np.ascontiguousarray(array.astype(dtype))
