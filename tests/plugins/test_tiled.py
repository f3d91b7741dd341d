"""Tiled products of the language model on the CPU, against their definition in float64.

The emulation lets copies land in any order, early or late, and leaves NaN where they are to land, so that a tile that
is read too early or overwritten too early shows.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from plugins.decode_step.reference import rotate
from tests.compare import EXACT, Tol, assert_close
from tests.plugins.halves import Array, from_bits, to_bits
from tests.plugins.tiled import CLUSTERS, Cut, Guarded, Kind, Rotation, compiled, run_tiled

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is needed to compile the kernels for the CPU")
SUMS, GATED, ROTATED = Kind
HEAD_DIM = 64
LATE = 1  # a seed: copies land when nobody comes forward without them
SUM = Tol(2e-5, why="sums of some hundred products of about 1, in float32")
HALF = {False: Tol(2e-5, 2**-11 + 1e-5, why="rounded to float16"), True: Tol(2e-5, 2**-8 + 1e-5, why="to bfloat16")}
EACH = [pytest.param(kind, width, id=f"{kind.name.lower()}-{width}") for kind in Kind for width in kind.widths]
KINDS = [pytest.param(kind, id=kind.name.lower()) for kind in Kind]


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Any]:
    """By whether halves are bf16."""
    return {bf16: compiled("run_tiled.cpp", tmp_path_factory.mktemp("tiled"), bf16=bf16) for bf16 in (False, True)}


@dataclass(frozen=True)
class Case:
    """A product of random values; everything that is not to be read or not to be written is NaN."""

    library: Any
    kind: Kind
    out: int
    inner: int
    tokens: int
    bf16: bool = False
    seed: int = 0

    def bits(self) -> tuple[Array, Array]:
        """Weight and given rows; sums are of size 1."""
        rng = np.random.default_rng(self.seed)
        rows = self.out * (2 if self.kind == GATED else 1)
        values = rng.normal(0, self.inner**-0.5, (rows, self.inner)), rng.normal(0, 1, (self.tokens, self.inner))
        weight, given = (to_bits(array, self.bf16) for array in values)
        return weight, given

    def sums(self) -> Array:
        """[tokens, out] in float64."""
        weight, given = (from_bits(bits, self.bf16) for bits in self.bits())
        product: Array = given @ weight.T
        return product

    def assert_right(self, cut: Cut, seed: int = 0) -> tuple[int, Array]:
        """Tiles that a block has had, and the bits that were made."""
        check = {SUMS: self._check_sums, GATED: self._check_gated, ROTATED: self._check_rotated}[self.kind]
        return check(cut, seed)

    def _check_sums(self, cut: Cut, seed: int) -> tuple[int, Array]:
        made = Guarded((cut.splits, self.tokens, self.out), np.float32)
        tiles = run_tiled(self.library, SUMS, *self.bits(), made.array, cut, seed=seed)
        made.assert_ends_untouched()
        assert_close("sums", made.array.astype(np.float64).sum(0), self.sums(), SUM)
        return tiles, made.array

    def _check_gated(self, cut: Cut, seed: int) -> tuple[int, Array]:
        made = Guarded((self.tokens, self.out), np.uint16)
        tiles = run_tiled(self.library, GATED, *self.bits(), made.array, cut, seed=seed)
        made.assert_ends_untouched()
        gate, up = np.split(self.sums(), 2, axis=-1)
        assert_close("gated", from_bits(made.array, self.bf16), gate / (1 + np.exp(-gate)) * up, HALF[self.bf16])
        return tiles, made.array

    def _check_rotated(self, cut: Cut, seed: int) -> tuple[int, Array]:
        kv_heads = 1 + self.seed % 2
        heads = self.out // HEAD_DIM - 2 * kv_heads
        turned = Turned(self, heads, kv_heads, batch=3 if self.tokens % 3 == 0 else 1)
        return turned.assert_right(cut, seed)


@dataclass(frozen=True)
class Turned:
    """Queries, keys and values with bias and rotation: where they come from, and where they go."""

    case: Case
    heads: int
    kv_heads: int
    batch: int
    layers: int = 3  # of the new rows, which also have room for those of the layers before and behind

    @property
    def biased(self) -> bool:
        return self.case.seed % 2 == 0

    @property
    def masked(self) -> bool:
        return self.case.seed % 4 < 2

    def given(self) -> dict[str, Array]:
        """Bias bits, angles of each row, and which rows are points; NaN where the mask says that none is needed."""
        rng, tokens = np.random.default_rng(self.case.seed + 1), self.case.tokens
        mask = rng.random(tokens) < 0.5 if self.masked else np.zeros(tokens, bool)
        made: dict[str, Array] = {"point_mask": mask}
        for name, used in (("1d", ~mask), ("3d", mask)):
            angles = np.where(used[:, None], rng.uniform(-3, 3, (tokens, HEAD_DIM)), np.nan)
            made |= {f"cos_{name}": np.cos(angles).astype(np.float32), f"sin_{name}": np.sin(angles).astype(np.float32)}
        if self.biased:
            made["bias"] = to_bits(rng.normal(0, 1, self.case.out), self.case.bf16)
        return made

    def expected(self, given: dict[str, Array]) -> Array:
        """[tokens, heads + 2 * kv_heads, D]"""
        bias = from_bits(given["bias"], self.case.bf16) if self.biased else 0
        qkv = (self.case.sums() + bias).reshape(self.case.tokens, -1, HEAD_DIM)
        mask = given["point_mask"][:, None]
        cos, sin = (np.where(mask, given[f"{n}_3d"], given[f"{n}_1d"]).astype(np.float64) for n in ("cos", "sin"))
        turned = self.heads + self.kv_heads
        return np.concatenate([rotate(qkv[:, :turned], cos[:, None], sin[:, None]), qkv[:, turned:]], axis=1)

    def assert_right(self, cut: Cut, seed: int) -> tuple[int, Array]:
        case, count = self.case, self.case.tokens // self.batch
        queries = Guarded((case.tokens, self.heads, HEAD_DIM), np.uint16)
        new = Guarded((count, self.batch, 2 * self.layers, self.kv_heads, HEAD_DIM), np.uint16)
        given, row, key, value = self.given(), new.array[0, 0], 1, self.layers + 1
        arrays = {name: array for name, array in given.items() if name != "point_mask" or self.masked}
        rotation = Rotation(
            **{name: array.ctypes.data for name, array in arrays.items()},
            queries=queries.array.ctypes.data,
            keys=row[key].ctypes.data,
            values=row[value].ctypes.data,
            batch=self.batch,
            rows=count,
            heads=self.heads,
            kv_heads=self.kv_heads,
            row_stride=row.size,
        )
        tiles = run_tiled(case.library, ROTATED, *case.bits(), None, cut, rotation, seed)
        queries.assert_ends_untouched(), new.assert_ends_untouched()
        others = [i for i in range(2 * self.layers) if i not in (key, value)]
        assert (new.array[:, :, others] == 0xFFFF).all(), "another layer's rows were written"
        rows = new.array[:, :, [key, value]].swapaxes(0, 1).reshape(case.tokens, -1, HEAD_DIM)  # [T, B, ...] to tokens
        bits = np.concatenate([queries.array, rows], axis=1)
        assert_close("queries, keys, values", from_bits(bits, case.bf16), self.expected(given), HALF[case.bf16])
        return tiles, bits


def out_of(kind: Kind) -> int:
    """Channels that do not fill their tiles: any number of sums, eights of gated ones, an odd number of heads."""
    return {SUMS: 203, GATED: 72, ROTATED: 5 * HEAD_DIM}[kind]


@pytest.mark.parametrize("bf16", [False, True], ids=["fp16", "bf16"])
@pytest.mark.parametrize("cluster", CLUSTERS)
@pytest.mark.parametrize(("kind", "width"), EACH)
def test_ends_that_fill_no_tile(kind: Kind, width: int, cluster: str, bf16: bool, libraries: dict[bool, Any]) -> None:
    seed = width // 8 + list(CLUSTERS).index(cluster)  # with and without bias and mask
    splits = 1 + seed % 3 if kind == SUMS else 1
    case = Case(libraries[bf16], kind, out_of(kind), 200, width + 23, bf16, seed)
    case.assert_right(Cut(width, splits, *CLUSTERS[cluster], 132))


@pytest.mark.parametrize(("kind", "width"), EACH)
def test_many_tiles_of_many_steps(kind: Kind, width: int, libraries: dict[bool, Any]) -> None:
    """Each block takes tile after tile, and the ring of stages goes round more than twice for each."""
    index = kind.widths.index(width)
    across, along = list(CLUSTERS.values())[index % 3]
    splits = 1 + index % 2 if kind == SUMS else 1
    inner = 64 * splits * (2 * libraries[False].kernel_stages(int(kind), width) + 1) - 24
    out = {SUMS: 3 * 128 + 8, GATED: 3 * 64 + 8, ROTATED: 7 * HEAD_DIM}[kind]
    case = Case(libraries[False], kind, out, inner, width + 8, seed=index)
    tiles, _ = case.assert_right(Cut(width, splits, across, along, across * along), LATE)
    assert tiles >= 4


@pytest.mark.parametrize("kind", KINDS)
def test_one_token_and_less_than_a_step(kind: Kind, libraries: dict[bool, Any]) -> None:
    for cluster in CLUSTERS.values():
        case = Case(libraries[False], kind, 3 * HEAD_DIM if kind == ROTATED else 8, 8, 1)
        case.assert_right(Cut(16, 1, *cluster, 2))


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_in_which_things_happen_does_not_show(kind: Kind, libraries: dict[bool, Any]) -> None:
    """Results are the same to the bit, also of parts, and however a product's tokens are cut."""
    case = Case(libraries[True], kind, out_of(kind), 520, 150, bf16=True, seed=2)
    splits = 3 if kind == SUMS else 1
    _, first = case.assert_right(Cut(64, splits, 2, 1, 2))
    for seed, cut in ((LATE, Cut(64, splits, 2, 1, 2)), (2, Cut(136, splits, 1, 2, 4))):
        _, again = case.assert_right(cut, seed)
        assert_close("bits", again, first, EXACT)
