"""Engines made of functions, a device whose crossings are counted, and a language model that reads from a script."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np

from runtime.arrays import Array
from runtime.bundle import Bundle
from runtime.decode import Decoder, KVCache
from runtime.engines import Engine, Tensor, TensorSpec
from runtime.engines.contract import StepKernels
from runtime.manifest import (
    CacheSpec,
    EncoderSpec,
    GenerationSpec,
    LanguageModelSpec,
    Manifest,
    PositionSpec,
    PromptSpec,
    RopeSpec,
)

VOCABULARY, KV_HEADS, HEAD_DIM, LAYERS = 50, 2, 4, 2


class DeviceTensor:
    """Memory that numpy cannot look into: only the backend's `upload` and `download` cross."""

    __slots__ = ("_array",)

    def __init__(self, array: Array) -> None:
        self._array = array

    @property
    def shape(self) -> tuple[int, ...]:
        return self._array.shape

    @property
    def dtype(self) -> str:
        return str(self._array.dtype)

    def __getitem__(self, index: int | slice, /) -> DeviceTensor:
        return DeviceTensor(self._array[index])

    def __array__(self, *_: object, **__: object) -> Array:
        raise AssertionError("a tensor of the device was read without download()")


def on_device(tensor: Tensor) -> Array:
    """What a kernel sees: the memory itself, not a copy."""
    assert isinstance(tensor, DeviceTensor), f"a {type(tensor).__name__} came where memory of the device was expected"
    return tensor._array


class CountingBackend:
    """A device in RAM that counts what is asked of it, by name: zeros, upload, download, copy, scatter_rows."""

    name = "counting"
    steps: StepKernels | None = None

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def load(self, bundle: Bundle, graph: str) -> Engine:
        raise AssertionError("this device runs functions only")

    def exclusive(self) -> AbstractContextManager[object]:
        return nullcontext()

    def synchronize(self) -> None:
        self.calls["synchronize"] += 1

    def close(self) -> None:
        self.calls["close"] += 1

    def write(self, array: Array, tensor: Tensor) -> None:
        self.calls["write"] += 1
        on_device(tensor)[...] = array

    def zeros(self, shape: Sequence[int], dtype: str) -> DeviceTensor:
        self.calls["zeros"] += 1
        return DeviceTensor(np.zeros(tuple(shape), dtype))

    def upload(self, array: Array) -> DeviceTensor:
        self.calls["upload"] += 1
        return DeviceTensor(np.array(array))

    def download(self, tensor: Tensor) -> Array:
        self.calls["download"] += 1
        return on_device(tensor).copy()

    def copy(self, source: Tensor, target: Tensor) -> None:
        self.calls["copy"] += 1
        on_device(target)[...] = on_device(source)

    def scatter_rows(self, source: Tensor, target: Tensor, starts: Sequence[int | None]) -> None:
        self.calls["scatter_rows"] += 1
        rows, slab = on_device(source), on_device(target)
        for sequence, start in enumerate(starts):
            for row in range(rows.shape[1] if start is not None else 0):
                assert start is not None
                slab[:, start + row, sequence] = rows[:, row, sequence]  # an index beyond the end raises, a slice not


class FunctionEngine:
    """An engine over a function of arrays. It keeps copies of what it was fed, run by run."""

    inputs: Mapping[str, TensorSpec] = {}
    outputs: Mapping[str, TensorSpec] = {}
    limits: Mapping[str, int] = {}

    def __init__(self, name: str, function: Callable[[dict[str, Array]], dict[str, Array]]) -> None:
        self.name = name
        self.fed: list[dict[str, Array]] = []
        self._function = function

    def run(self, feeds: Mapping[str, Tensor], outputs: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        arrays = {name: on_device(tensor) for name, tensor in feeds.items()}
        self.fed.append({name: array.copy() for name, array in arrays.items()})
        given, results = outputs or {}, self._function(arrays)
        assert given.keys() <= results.keys(), f"{self.name} has no output {given.keys() - results.keys()}"
        for name, tensor in given.items():
            assert on_device(tensor).shape == results[name].shape, name
            on_device(tensor)[...] = results[name]
        return {name: given[name] if name in given else DeviceTensor(array) for name, array in results.items()}


class ScriptedModel:
    """Says script[b][i] as token i of sequence b, whatever it is told; its cache rows tell which token wrote them."""

    def __init__(self, script: Sequence[Sequence[int]], capacity: int) -> None:
        self.script, self.said = script, 0
        self.backend = CountingBackend()
        self.manifest = small_manifest(capacity)
        self.prefill = FunctionEngine("prefill", self._prefill)
        self.decode = FunctionEngine("decode", self._decode)
        positions = np.arange(capacity, dtype=np.float32)
        table = np.repeat(positions[:, None], HEAD_DIM, axis=1)  # a row of the table is its position
        self.decoder = Decoder(self.backend, self.prefill, self.decode, self.manifest, (table, -table))

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[Array, KVCache]:
        """Prefill over prompts of different lengths, filled up with token 0."""
        lengths = [len(prompt) for prompt in prompts]
        ids = np.zeros((len(prompts), max(lengths)), np.int32)
        for row, prompt in zip(ids, prompts, strict=True):
            row[: len(prompt)] = prompt
        return self.decoder.start({"input_ids": self.backend.upload(ids)}, lengths, max(lengths))

    def _prefill(self, feeds: dict[str, Array]) -> dict[str, Array]:
        return rows_of(feeds["input_ids"]) | {"logits": self._logits(1)[:, 0]}

    def _decode(self, feeds: dict[str, Array]) -> dict[str, Array]:
        ids = feeds["input_ids"]
        return rows_of(ids) | {"logits": self._logits(ids.shape[1])}

    def _logits(self, count: int) -> Array:
        """[B, count, V], the largest at what the script says after the last of them."""
        logits = np.zeros((len(self.script), count, VOCABULARY), np.float32)
        for sequence, tokens in enumerate(self.script):
            logits[sequence, -1, tokens[self.said]] = 1.0
        self.said += 1
        return logits


def rows_of(ids: Array) -> dict[str, Array]:
    """Cache rows [T, B, K, D] of tokens [B, T]: each number tells kind, layer, token, head and channel."""
    place = np.arange(KV_HEADS * HEAD_DIM).reshape(KV_HEADS, HEAD_DIM)
    rows = ids.T[:, :, None, None] * 100.0 + place + 10
    return {
        f"{kind}.{layer}": (rows + 10_000 * (1 + layer + LAYERS * (kind == "value"))).astype(np.float32)
        for kind in ("key", "value")
        for layer in range(LAYERS)
    }


def small_manifest(capacity: int, **changes: object) -> Manifest:
    """A manifest whose language model has the sizes of this file."""
    facts: dict[str, object] = {
        "schema": 1,
        "created_by": "tests",
        "model": "scripted",
        "precision": "fp32",
        "serialization": "identity",
        "projector": "mlp",
        "encoder_weights": "as stored",
        "encoder": EncoderSpec(
            in_channels=6, num_bins=640, order=("z",), stride=(), depths=(1,), channels=(8,), heads=(2,),
            patch_sizes=(16,), mlp_ratio=4,
        ),
        "language_model": LanguageModelSpec(
            family="qwen", hidden_size=8, intermediate_size=8, layers=LAYERS, heads=2, kv_heads=KV_HEADS,
            head_dim=HEAD_DIM, vocab_size=VOCABULARY, rms_norm_eps=1e-6, qkv_bias=True, output_bias=False,
            mlp_bias=False, tie_word_embeddings=True,
        ),
        "position": PositionSpec(
            vlm_pe=None, merge_rule=None, variant=None, prefill_attention="causal", points=None,
            text=RopeSpec(axis=(0,) * HEAD_DIM, inv_freq=(1.0, 0.5, 1.0, 0.5)),
        ),
        "prompt": PromptSpec(
            system_message=None, point_start_token_id=1, point_end_token_id=2, point_token_id=3,
            bos_token=None, eos_token=None,
        ),
        "generation": GenerationSpec(
            stop_token_ids=(9,), do_sample=None, temperature=None, top_k=None, top_p=None, repetition_penalty=None
        ),
        "cache": CacheSpec(layout="MBKD", capacity=capacity),
        "graphs": {},
        "weights": {},
        "files": {},
    }  # fmt: skip
    return Manifest(**{**facts, **changes})  # type: ignore[arg-type]
