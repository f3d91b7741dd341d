"""One batch through the engines: encoder, prefill, and the decoder that goes on from there."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from runtime.arrays import Array
from runtime.bundle import Bundle
from runtime.decode import Decoder, KVCache
from runtime.decode.cache import DTYPES
from runtime.engines import Backend, Engine, Tensor, check_dialect
from runtime.manifest import Manifest
from runtime.prompt import PromptBatch
from runtime.recording import Recorder
from runtime.rope import normalize_coords, rope_table
from runtime.scene import Scene


@dataclass(frozen=True, slots=True, kw_only=True)
class Engines:
    """A bundle's three engines on one back end, and the table of all positions its cache can hold."""

    backend: Backend
    manifest: Manifest
    encoder: Engine
    prefill: Engine
    decode: Engine
    text_table: tuple[Array, Array]  # cos and sin, [M, D] each, float32
    device_table: tuple[Tensor, Tensor] | None  # the same on the device, where decode steps stay there

    @classmethod
    def load(cls, bundle: Bundle, backend: Backend) -> Engines:
        """Load all three. Raises EngineError."""
        check_dialect(bundle, backend.name)
        with backend.exclusive():  # the back end may be of another thread, or run another bundle's scene
            return cls._load(bundle, backend)

    @classmethod
    def _load(cls, bundle: Bundle, backend: Backend) -> Engines:
        encoder, prefill, decode = (backend.load(bundle, graph) for graph in ("encoder", "prefill", "decode"))
        manifest = _within(bundle.manifest, decode)
        table = rope_table(np.arange(manifest.cache.capacity), None, manifest.position.text)
        cos, sin = (backend.upload(array) for array in table)
        return cls(
            backend=backend,
            manifest=manifest,
            encoder=encoder,
            prefill=prefill,
            decode=decode,
            text_table=table,
            device_table=None if backend.steps is None else (cos, sin),
        )

    @property
    def prompt_limit(self) -> int:
        """The longest prompt that prefill and the cache take."""
        return min(self.manifest.cache.capacity, self.prefill.limits.get("S", self.manifest.cache.capacity))


def _within(manifest: Manifest, decode: Engine) -> Manifest:
    """The manifest with the cache as large as the compiled engine takes, where that is less."""
    capacity = min(manifest.cache.capacity, decode.limits.get("M", manifest.cache.capacity))
    return dataclasses.replace(manifest, cache=dataclasses.replace(manifest.cache, capacity=capacity))


class Run:
    """One pass; the engines are recorded where that is asked for."""

    def __init__(self, engines: Engines, recorder: Recorder | None = None) -> None:
        self._backend, self._manifest, self._text_table = engines.backend, engines.manifest, engines.text_table
        self._recorder = recorder
        self._encoder = self._recorded(engines.encoder)
        mask = engines.prefill.inputs.get("point_mask")  # engines that are no graphs describe none
        self._mask_type = "bool" if mask is None else mask.dtype  # int32 where our kernels read it
        prefill, decode = self._recorded(engines.prefill), self._recorded(engines.decode, by_step=True)
        device_table = None if recorder is not None else engines.device_table
        self.decoder = Decoder(self._backend, prefill, decode, self._manifest, self._text_table, device_table)

    def encode(self, scenes: Sequence[Scene], prompt: PromptBatch) -> Tensor:
        """Point tokens of each scene, written by the encoder right at their places of `point_embeds` [B, S, C]."""
        shape = (*prompt.input_ids.shape, self._manifest.language_model.hidden_size)
        embeds = self._backend.zeros(shape, DTYPES[self._manifest.precision])
        for sequence, scene in enumerate(scenes):
            start, count = int(prompt.point_starts[sequence]), int(prompt.point_counts[sequence])
            feeds = {name: self._backend.upload(array) for name, array in scene.inputs.feeds.items()}
            self._encoder.run(feeds, {"point_tokens": embeds[sequence][start : start + count]})
        return embeds

    def start(self, scenes: Sequence[Scene], prompt: PromptBatch, embeds: Tensor) -> tuple[Array, KVCache]:
        """Prefill: logits [B, V] after each prompt, and the cache that now holds it."""
        arrays = {
            "input_ids": prompt.input_ids,
            "point_mask": prompt.point_mask.astype(self._mask_type, copy=False),
            "lengths": prompt.lengths,
            **self.tables(scenes, prompt),
        }
        feeds = {name: self._backend.upload(array) for name, array in arrays.items()} | {"point_embeds": embeds}
        return self.decoder.start(feeds, [int(length) for length in prompt.lengths], prompt.input_ids.shape[1])

    def tables(self, scenes: Sequence[Scene], prompt: PromptBatch) -> dict[str, Array]:
        """cos and sin [B, S, D] by position, and those of the point tokens at their places.

        Without a 3D encoding the point tokens turn by their position like all others.
        """
        spec, rows = self._manifest.position.points, prompt.input_ids.shape[1]
        cos_1d, sin_1d = (np.repeat(table[None, :rows], len(scenes), axis=0) for table in self._text_table)
        cos_3d, sin_3d = cos_1d.copy(), sin_1d.copy()
        if spec is not None:
            for sequence, scene in enumerate(scenes):
                places = np.flatnonzero(prompt.point_mask[sequence])
                coords = normalize_coords(scene.patch_coords).coords
                cos_3d[sequence, places], sin_3d[sequence, places] = rope_table(places, coords, spec)
        return {"cos_3d": cos_3d, "sin_3d": sin_3d, "cos_1d": cos_1d, "sin_1d": sin_1d}

    def _recorded(self, engine: Engine, *, by_step: bool = False) -> Engine:
        return engine if self._recorder is None else self._recorder.wrap(engine, by_step=by_step)
