"""Bundles with engines and what their graphs gave elsewhere; pipelines over them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtime.arrays import Array
from runtime.decode import Decoder, KVCache, Sampling, TokenChooser
from runtime.engines import Engine, Tensor
from runtime.manifest import Manifest
from runtime.pipeline import Pipeline

VARIABLE = "SPATIALLM_BUNDLES"


@dataclass(frozen=True)
class Case:
    """A bundle and the tensors recorded of it."""

    folder: Path

    @property
    def manifest(self) -> Manifest:
        return Manifest.read(self.folder)

    @property
    def exact(self) -> bool:
        """Whether tokens must be those of the recording: not in half precision."""
        return self.manifest.precision == "fp32"

    def recorded(self) -> dict[str, Array]:
        with np.load(self.folder.with_name(f"{self.folder.name}.npz")) as file:
            return dict(file)

    @property
    def bytes(self) -> int:
        return sum(path.stat().st_size for path in self.folder.glob("*.weights"))


def all_cases() -> list[Case]:
    root = os.environ.get(VARIABLE)
    if not root or not Path(root).is_dir():
        return []
    found = (path for path in sorted(Path(root).iterdir()) if (path / "manifest.json").is_file())
    return [Case(path) for path in found if path.with_name(f"{path.name}.npz").is_file()]


def feeds(pipeline: Pipeline, engine: Engine, arrays: Mapping[str, Array]) -> dict[str, Tensor]:
    """Recorded inputs of a graph on the device, in the engine's types."""
    upload = pipeline.engines.backend.upload
    return {
        name: upload(arrays[f"{engine.name}.{name}"].astype(spec.dtype, copy=False))
        for name, spec in engine.inputs.items()
    }


def start(pipeline: Pipeline, arrays: Mapping[str, Array], *, stays: bool = False) -> tuple[Decoder, Array, KVCache]:
    """The recorded prompt after prefill; with `stays` the decoder's steps do not return to the host."""
    engines = pipeline.engines
    decoder = Decoder(
        engines.backend, engines.prefill, engines.decode, pipeline.manifest, engines.text_table,
        engines.device_table if stays else None,
    )  # fmt: skip
    prompt = feeds(pipeline, engines.prefill, arrays)
    lengths, rows = arrays["prefill.lengths"].tolist(), arrays["prefill.input_ids"].shape[1]
    return decoder, *decoder.start(prompt, lengths, rows)


def greedy(pipeline: Pipeline, arrays: Mapping[str, Array], limit: int, *, stays: bool, stops: bool = True) -> Any:
    """Tokens of the recorded prompt, the first sequence's."""
    stop_ids = pipeline.manifest.generation.stop_token_ids if stops else ()
    with pipeline.engines.backend.exclusive():
        decoder, logits, cache = start(pipeline, arrays, stays=stays)
        steps = decoder.generate(logits, cache, TokenChooser(Sampling(), [np.zeros(1)]), stop_ids, limit)
        return [step[0] for step in steps]


def decode_steps(arrays: Mapping[str, Array]) -> int:
    """How many steps were recorded."""
    return sum(name.startswith("decode.") and name.endswith(".logits") for name in arrays)


def cache_rows(results: Mapping[str, Array], layers: int) -> Array:
    """Rows [T, B, 2L*K, D] of graphs in either dialect, keys of all layers first."""
    if "rows" in results:
        return results["rows"]
    return np.concatenate([results[f"{kind}.{layer}"] for kind in ("key", "value") for layer in range(layers)], axis=2)


def part(arrays: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    """The tensors of one graph or step."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def smallest_cosine(got: Array, want: Array) -> float:
    """Over the last axis, in float64."""
    a, b = (array.astype(np.float64).reshape(-1, array.shape[-1]) for array in (got, want))
    return float(((a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)).min())
