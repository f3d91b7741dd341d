"""A small model of random weights: their bits for the kernel, their values for the reference."""

from __future__ import annotations

import ctypes
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from plugins.decode_step.arguments import LAYER_FIELDS, StepArguments, buffer_bytes
from plugins.decode_step.reference import Heads, Layer, Weights, decode_step
from plugins.decode_step.sizes import Sizes, Tuning, source
from tests.compare import Tol
from tests.plugins.halves import Array, from_bits, to_bits

HERE = Path(__file__).parent
CAPACITY = 200
QWEN = Sizes(
    hidden=256,
    intermediate=384,
    layers=2,
    heads=6,
    kv_heads=2,
    head_dim=64,
    vocabulary=500,
    qkv_bias=True,
    epsilon=1e-6,
    bf16=False,
)
LLAMA = Sizes(
    hidden=256,
    intermediate=512,
    layers=2,
    heads=4,
    kv_heads=1,
    head_dim=64,
    vocabulary=500,
    qkv_bias=False,
    epsilon=1e-5,
    bf16=True,
)
# What large models are run with; and small rings of small chunks, which wrap around often and in the middle of rows.
TUNINGS = {
    "published": Tuning(),
    "one_tile": Tuning(
        warps=4,
        ring=10240,
        chunk=2048,
        flight=4096,
        flight_waiting=2048,
        split_hidden=2,
        split_queries=3,
        split_inner=4,
        tiles=1,
        pieces=2,
    ),
    "idle_warps": Tuning(
        warps=9,
        ring=18432,
        chunk=8192,
        flight=20000,
        split_hidden=3,
        split_queries=2,
        split_inner=6,
        pieces=16,
        copies=3,
        peek=1,
    ),
    "gathered": Tuning(warps=4, ring=20480, chunk=4096, flight=8192, flight_waiting=4096, pieces=4, peek=1, gather=1),
}
TUNINGS["checked"] = replace(TUNINGS["one_tile"], checked=1)
BLOCKS = 20
# Eight (fp16) or eleven (bf16) bits less than float32 in what goes into products; logits are of size 3.
LIMITS = {
    "qwen": Tol(2e-2, why="vectors in products are float16"),
    "llama": Tol(1.5e-1, why="vectors in products are bfloat16"),
}
CACHE = {"qwen": Tol(4e-3, 4e-3, why="float16"), "llama": Tol(3e-2, 3e-2, why="bfloat16")}


@dataclass(frozen=True)
class Small:
    """Bits of all weights by name; those of layers have their layer in front."""

    sizes: Sizes
    bits: dict[str, Array]

    @classmethod
    def random(cls, sizes: Sizes, seed: int) -> Small:
        rng = np.random.default_rng(seed)
        c, queries = sizes.hidden, sizes.heads * sizes.head_dim

        def draw(*shape: int, scale: float, shift: float = 0) -> Array:
            return to_bits(rng.normal(shift, scale, shape), sizes.bf16)

        bits = {"embedding": draw(sizes.vocabulary, c, scale=0.2), "final_norm": draw(c, scale=0.2, shift=1)}
        for layer in range(sizes.layers):
            made = {
                "input_norm": draw(c, scale=0.2, shift=1),
                "qkv": draw(sizes.qkv_rows, c, scale=c**-0.5),
                "o": draw(c, queries, scale=queries**-0.5),
                "post_norm": draw(c, scale=0.2, shift=1),
                "gate_up": draw(2 * sizes.intermediate, c, scale=c**-0.5),
                "down": draw(c, sizes.intermediate, scale=sizes.intermediate**-0.5),
            }
            if sizes.qkv_bias:
                made["qkv_bias"] = draw(sizes.qkv_rows, scale=0.3)
            bits |= {f"{layer}.{name}": array for name, array in made.items()}
        return cls(sizes, bits)

    def past(self, length: int, seed: int) -> Array:
        """A cache of bits with `length` random rows; all others are NaN."""
        rows = 2 * self.sizes.layers * self.sizes.kv_heads
        values = np.random.default_rng(seed).normal(0, 1, (CAPACITY, rows, self.sizes.head_dim))
        values[length:] = np.nan
        return to_bits(values, self.sizes.bf16)

    def tables(self) -> tuple[Array, Array]:
        """cos and sin [M, D]; the halves turn by different angles, as those of point tokens do."""
        half = self.sizes.head_dim // 2
        angles = np.arange(CAPACITY)[:, None] * 1e4 ** (-np.arange(half) / half)
        angles = np.concatenate([angles, 0.7 * angles + 0.1], axis=1)
        return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)

    def weights(self) -> Weights:
        """Their values in float64; the head is the embedding."""
        values = {name: from_bits(bits, self.sizes.bf16) for name, bits in self.bits.items()}
        layers = [
            Layer(**{name: values.get(f"{i}.{name}") for name in LAYER_FIELDS})  # type: ignore[arg-type]
            for i in range(self.sizes.layers)
        ]
        embedding = values["embedding"]
        return Weights(embedding=embedding, layers=layers, final_norm=values["final_norm"], head=embedding)

    @property
    def heads(self) -> Heads:
        return Heads(query=self.sizes.heads, key=self.sizes.kv_heads, size=self.sizes.head_dim)

    def stored(self, values: Array) -> Array:
        """As a cache of the model's type gives them back."""
        return from_bits(to_bits(values, self.sizes.bf16), self.sizes.bf16)

    def reference(self, token: int, position: int, past: Array) -> Array:
        """Logits in float64; `past` gets its row."""
        bf16, wide = self.sizes.bf16, from_bits(past, self.sizes.bf16)
        cos, sin = (table[position].astype(np.float64) for table in self.tables())
        epsilon = self.sizes.epsilon
        logits = decode_step(self.weights(), self.heads, epsilon, token, position, wide, cos, sin, self.stored)
        past[position] = to_bits(wide[position], bf16)
        return logits


def follow(small: Small, token: int, length: int, past: Array, tokens: Array) -> Array:
    """The reference's logits along the same tokens."""
    fed = [token, *tokens.tolist()]
    return np.stack([small.reference(fed[i], length + i, past) for i in range(len(tokens))])


class Emulated:
    """The kernel on the CPU, over one model; state goes on from launch to launch, as on a device."""

    def __init__(self, library: Any, model: Small) -> None:
        self._library, self._model, sizes = library, model, model.sizes
        rows = [[self._address(f"{i}.{name}") for name in LAYER_FIELDS] for i in range(sizes.layers)]
        self._layers = np.array(rows, np.uint64)
        self._buffers = {name: np.zeros(n, np.uint8) for name, n in buffer_bytes(sizes, BLOCKS).items()}
        self._turns, self._tables = np.zeros(2, np.int32), model.tables()
        self.token, self.past_length = np.zeros(1, np.int32), np.zeros(1, np.int32)

    def _address(self, name: str) -> int:
        return self._model.bits[name].ctypes.data if name in self._model.bits else 0

    def run(self, past: Array, steps: int, seed: int = 0) -> tuple[Array, Array]:
        """Tokens [steps] and logits [steps, V]. `seed` draws the order in which things happen."""
        tokens = np.zeros(steps, np.int32)
        logits = np.full((steps, self._model.sizes.vocabulary), np.nan, np.float32)
        cos, sin = self._tables
        tables = {"cos_table": cos, "sin_table": sin}
        state = {"turns": self._turns, "token": self.token, "past_length": self.past_length}
        arrays = {**self._buffers, **tables, **state, "layers": self._layers, "past": past}
        arrays |= {"tokens": tokens, "logits": logits}
        arguments = StepArguments(
            **{name: array.ctypes.data for name, array in arrays.items()},
            embedding=self._address("embedding"),
            final_norm=self._address("final_norm"),
            head=self._address("embedding"),
            steps=steps,
        )
        self._library.run(ctypes.byref(arguments), BLOCKS, seed)
        return tokens, logits

    def run_pure(self, past: Array, seed: int = 0) -> tuple[Array, Array]:
        """Logits [V] and the new row [2L*K, D] of the kernel as a function, over zeros as a workspace."""
        for buffer in (*self._buffers.values(), self._turns):
            buffer[:] = 0
        logits = np.full(self._model.sizes.vocabulary, np.nan, np.float32)
        rows, position = np.zeros(past.shape[1:], np.uint16), int(self.past_length[0])
        cos, sin = (np.ascontiguousarray(table[min(max(position, 0), CAPACITY - 1)]) for table in self._tables)
        state = {"turns": self._turns, "token": self.token, "past_length": self.past_length}
        arrays = {**self._buffers, **state, "layers": self._layers, "past": past, "cos_table": cos, "sin_table": sin}
        arrays |= {"logits": logits, "rows": rows}
        arguments = StepArguments(
            **{name: array.ctypes.data for name, array in arrays.items()},
            embedding=self._address("embedding"),
            final_norm=self._address("final_norm"),
            head=self._address("embedding"),
            steps=1,
            past_rows=len(past),
        )
        self._library.run(ctypes.byref(arguments), BLOCKS, seed)
        return logits, rows


def compiled_for_cpu(sizes: Sizes, tuning: Tuning, folder: Path, *, pure: bool = False) -> Any:
    """The kernel as a library of the host's compiler."""
    kernel, library = folder / "kernel.h", folder / "kernel.so"
    kernel.write_text(source(sizes, tuning, pure=pure))
    options = ["-std=c++17", "-O1", "-w", "-fno-strict-aliasing", "-U_FORTIFY_SOURCE", "-fPIC", "-shared"]
    command = ["g++", *options, f"-I{HERE}", f'-DKERNEL="{kernel}"', str(HERE / "run_decode_step.cpp")]
    subprocess.run([*command, "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))
