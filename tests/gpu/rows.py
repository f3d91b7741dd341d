"""What the language model's operator is asked in tests, on the GPU through the library and in float64."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from benchmarks.gpu.operators import Operators
from plugins.decode_step.reference import Array
from plugins.language_model.arguments import ModelWeights
from plugins.language_model.reference import language_model
from tests.plugins.halves import from_bits, to_bits
from tests.plugins.small import Small

GUARD, PATTERN = 4096, 0xA5  # bytes on either side, and what is in them
TABLES = ("cos_1d", "sin_1d", "cos_3d", "sin_3d")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The operator's inputs; half precision as bits. What is None is not given."""

    ids: Array  # [B, T]
    tables: dict[str, Array]  # [B, T, D]
    causal: bool
    all_logits: bool
    point_embeds: Array | None = None  # [B, T, C]; NaN behind `lengths`
    point_mask: Array | None = None  # [B, T]
    lengths: Array | None = None  # [B]
    past: Array | None = None  # [M, B, 2L*K, D]; NaN behind `past_length`
    past_length: Array | None = None  # [B]

    @property
    def past_rows(self) -> int:
        return 0 if self.past is None else len(self.past)

    @cached_property
    def valid(self) -> Array:
        """Which rows mean something, [B, T]."""
        batch, rows = self.ids.shape
        lengths = np.full(batch, rows) if self.lengths is None else self.lengths
        return np.arange(rows) < lengths[:, None]

    def given(self) -> dict[str, Array]:
        """All arrays by the names of the operator's fields."""
        names = ("ids", "point_embeds", "point_mask", "lengths", "past", "past_length")
        arrays = {name: getattr(self, name) for name in names} | self.tables
        return {name: np.ascontiguousarray(array) for name, array in arrays.items() if array is not None}


def prompt(small: Small, rng: np.random.Generator, batch: int, rows: int, *, causal: bool) -> Asked:
    """Prompts of different lengths with point tokens at different places."""
    lengths = rng.integers(1, rows + 1, batch)
    lengths[rng.integers(batch)] = rows
    asked = _tokens(small, rng, batch, rows, causal=causal, points=True)
    embeds = rng.normal(0, 0.2, (batch, rows, small.sizes.hidden))
    embeds[np.arange(rows) >= lengths[:, None]] = np.nan
    return replace(
        asked,
        lengths=lengths.astype(np.int32),
        point_embeds=to_bits(embeds, small.sizes.bf16),
        point_mask=(rng.random((batch, rows)) < 0.6).astype(np.uint8),
    )


def steps(small: Small, rng: np.random.Generator, batch: int, rows: int) -> Asked:
    """Tokens behind prefixes of different lengths: one is empty, one fills all rows that there are."""
    past_rows = int(rng.choice([64, 130, 200]))
    lengths = rng.integers(0, past_rows + 1, batch)
    ends = rng.permutation([0, past_rows])[:batch]
    lengths[rng.permutation(batch)[: len(ends)]] = ends
    heads = 2 * small.sizes.layers * small.sizes.kv_heads
    past = rng.normal(0, 1, (past_rows, batch, heads, small.sizes.head_dim))
    past[np.arange(past_rows)[:, None] >= lengths] = np.nan
    asked = _tokens(small, rng, batch, rows, causal=True, points=False)
    return replace(asked, past=to_bits(past, small.sizes.bf16), past_length=lengths.astype(np.int32), all_logits=True)


def _tokens(small: Small, rng: np.random.Generator, batch: int, rows: int, *, causal: bool, points: bool) -> Asked:
    ids = rng.integers(0, small.sizes.vocabulary, (batch, rows)).astype(np.int32)
    shape = (len(TABLES) // 2, batch, rows, small.sizes.head_dim)
    angles = rng.uniform(0, 2 * np.pi, shape)  # the halves differ, and so do 1D and 3D
    halves = (turn(angles[kind]).astype(np.float32) for kind in range(1 + points) for turn in (np.cos, np.sin))
    tables = dict(zip(TABLES, halves, strict=False))
    return Asked(ids=ids, tables=tables, causal=causal, all_logits=bool(rng.integers(2)))


def wanted(small: Small, asked: Asked) -> tuple[Array, Array]:
    """Logits and new rows in float64; those of rows that are not valid mean nothing."""
    halves = {name: from_bits(asked.given()[name], small.sizes.bf16) for name in ("past",) if asked.past is not None}
    tables = {name: table.astype(np.float64) for name, table in asked.tables.items()}
    cos, sin = tables["cos_1d"], tables["sin_1d"]
    if asked.point_mask is not None:
        embeds = from_bits(asked.point_embeds, small.sizes.bf16)
        halves["point_embeds"] = np.where(asked.valid[..., None], embeds, 0)
        halves["point_mask"] = asked.point_mask.astype(bool)
        cos, sin = (
            np.where(halves["point_mask"][..., None], tables[f"{n}_3d"], tables[f"{n}_1d"]) for n in ("cos", "sin")
        )
    return language_model(
        small.weights(), small.heads, small.sizes.epsilon, asked.ids, cos, sin,
        lengths=asked.lengths, past_length=asked.past_length,
        causal=asked.causal, all_logits=asked.all_logits, stored=small.stored, **halves,
    )  # fmt: skip


class Guarded:
    """Bytes on the device between two zones that nobody may write into."""

    def __init__(self, size: int, fill: int) -> None:
        import torch

        self._all = torch.full((size + 2 * GUARD,), PATTERN, dtype=torch.uint8, device="cuda")
        self.inside = self._all[GUARD : GUARD + size]
        self.inside.fill_(fill)

    @property
    def address(self) -> int:
        return int(self.inside.data_ptr())

    @property
    def untouched(self) -> bool:
        return bool((self._all[:GUARD] == PATTERN).all() and (self._all[-GUARD:] == PATTERN).all())


class OnGpu:
    """A model's weights on the GPU."""

    def __init__(self, operators: Operators, small: Small) -> None:
        self._operators, self._small = operators, small
        self._bits = {name: on_gpu(bits) for name, bits in small.bits.items()}
        addresses = {name: int(bits.data_ptr()) for name, bits in self._bits.items()}
        self._weights = ModelWeights.of(addresses, small.sizes.layers)

    def call(self, asked: Asked, fill: int = 0xFF) -> Call:
        """Outputs and workspace full of `fill`: bytes of 0xFF are NaN in all types."""
        return Call(self._operators, self._small, self._weights, asked, fill)

    def run(self, asked: Asked, fill: int = 0xFF) -> tuple[Array, Array]:
        """Bits of the logits and of the new rows; nothing beside them was written."""
        call = self.call(asked, fill)
        call.launch()
        return call.results()


class Call:
    """One call with its tensors; it may be launched again."""

    def __init__(self, operators: Operators, small: Small, weights: ModelWeights, asked: Asked, fill: int) -> None:
        self._operators, self._sizes, self._weights, self._asked = operators, small.sizes, weights, asked
        batch, rows = asked.ids.shape
        heads = 2 * small.sizes.layers * small.sizes.kv_heads
        logits = (batch, rows, small.sizes.vocabulary) if asked.all_logits else (batch, small.sizes.vocabulary)
        self._shapes = {"logits": logits, "new_rows": (rows, batch, heads, small.sizes.head_dim)}
        self._given = {name: on_gpu(array) for name, array in asked.given().items()}
        room = operators.workspace(small.sizes, batch, rows, asked.past_rows, asked.all_logits)
        widths = {"logits": 4, "new_rows": 2}
        self._outputs = {
            name: Guarded(int(np.prod(shape)) * widths[name], fill) for name, shape in self._shapes.items()
        }
        self._workspace = Guarded(room, fill)

    def launch(self) -> None:
        """On the current stream."""
        import torch

        batch, rows = self._asked.ids.shape
        sizes = {"batch": batch, "rows": rows, "past_rows": self._asked.past_rows}
        modes = {"causal": int(self._asked.causal), "all_logits": int(self._asked.all_logits)}
        tensors = {name: tensor.data_ptr() for name, tensor in self._given.items()}
        outputs = {name: output.address for name, output in self._outputs.items()}
        stream = int(torch.cuda.current_stream().cuda_stream)
        given = {**sizes, **modes, **tensors, **outputs}
        self._operators.language_model(self._sizes, self._weights, given, self._workspace.address, stream)

    def clear(self) -> None:
        for output in self._outputs.values():
            output.inside.fill_(0xFF)

    def results(self) -> tuple[Array, Array]:
        """Logits as float32, new rows as bits."""
        import torch

        torch.cuda.synchronize()
        for name, zone in {**self._outputs, "workspace": self._workspace}.items():
            assert zone.untouched, f"bytes beside the {name} were written"
        for name, array in self._asked.given().items():
            assert np.array_equal(self._given[name].cpu().numpy().view(array.dtype), array), f"{name} was written"
        found = {name: output.inside.cpu().numpy() for name, output in self._outputs.items()}
        logits = found["logits"].view(np.float32).reshape(self._shapes["logits"])
        return logits, found["new_rows"].view(np.uint16).reshape(self._shapes["new_rows"])


def on_gpu(array: Array) -> Any:
    """A tensor of the same bytes; types that PyTorch lacks come as signed integers."""
    import torch

    return torch.from_numpy(array.view(np.int16) if array.dtype == np.uint16 else array).cuda()
