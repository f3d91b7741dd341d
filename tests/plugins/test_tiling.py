"""How the language model's products are cut: that every one of them can be, and that what is written has its place."""

from __future__ import annotations

import ctypes
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from plugins.decode_step import models
from plugins.decode_step.sizes import Sizes
from plugins.language_model.arguments import ModelSizes
from tests.plugins.tiled import SHARED_BYTES, WIDTHS, Kind, Tiling, compiled

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is needed to compile what is asked")
SUMS, GATED, ROTATED = Kind
MODELS = {
    "qwen": models.QWEN,
    "llama": models.LLAMA,
    "odd": replace(models.QWEN, hidden=136, intermediate=8, layers=3, heads=9, kv_heads=3, vocabulary=333),
    "square": replace(models.LLAMA, hidden=256, intermediate=256, layers=2, heads=4, kv_heads=4, vocabulary=256),
}
TOKENS = (1, 2, 3, 7, 8, 9, 16, 17, 31, 64, 65, 100, 128, 135, 136, 137, 256, 257, 511, 776, 1023, 1024, 1100, 2048)
MULTIPROCESSORS = (8, 9, 20, 78, 114, 132)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Any:
    loaded = compiled("run_tiling.cpp", tmp_path_factory.mktemp("tiling"))
    loaded.tiling_for.restype, loaded.part_floats_for.restype = Tiling, ctypes.c_longlong
    loaded.call_fits.restype = ctypes.c_bool
    return loaded


@dataclass(frozen=True)
class Product:
    kind: Kind
    out: int
    inner: int
    tokens: int
    part_floats: int  # that may be written; 0: one part, however large

    def tiling(self, library: Any, multiprocessors: int) -> Tiling:
        sizes = (int(self.kind), self.out, self.inner, self.tokens, multiprocessors)
        found: Tiling = library.tiling_for(*sizes, ctypes.c_longlong(self.part_floats))
        return found

    def assert_can_be_cut(self, library: Any, multiprocessors: int) -> None:
        """There is a tiling, its tiles cover the product, and every block of it has one."""
        t = self.tiling(library, multiprocessors)
        said = f"{self} on {multiprocessors}: " + ", ".join(f"{name} {getattr(t, name)}" for name, _ in t._fields_)
        assert t.width in self.kind.widths, said
        assert (t.across, t.along) in ((1, 1), (2, 1), (1, 2)), said
        assert t.rows == up(up(self.out, self.kind.channels), t.along) * t.along, said
        assert t.columns == up(up(self.tokens, t.width), t.across) * t.across, said
        assert t.steps == up(self.inner, 64), said
        units = t.rows * t.columns * t.splits // (t.across * t.along)
        assert 1 <= t.clusters <= units and t.clusters * t.across * t.along <= multiprocessors, said
        assert 1 <= t.splits <= (t.steps if self.kind == SUMS else 1), said
        assert t.splits == 1 or t.splits * self.tokens * self.out <= self.part_floats, said
        assert t.cycles > 0, said


def up(a: int, b: int) -> int:
    return -(-a // b)


def products(library: Any, sizes: Sizes, tokens: int) -> Iterator[Product]:
    """Of a layer, and the head."""
    floats = library.part_floats_for(ctypes.byref(ModelSizes.of(sizes)), tokens)
    queries = sizes.heads * sizes.head_dim
    yield Product(ROTATED, sizes.qkv_rows, sizes.hidden, tokens, 0)
    yield Product(SUMS, sizes.qkv_rows, sizes.hidden, tokens, floats)
    yield Product(SUMS, sizes.hidden, queries, tokens, floats)
    yield Product(GATED, sizes.intermediate, sizes.hidden, tokens, 0)
    yield Product(SUMS, sizes.hidden, sizes.intermediate, tokens, floats)
    yield Product(SUMS, sizes.vocabulary, sizes.hidden, tokens, 0)


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("name", MODELS)
def test_every_product_of_a_model_can_be_cut(name: str, tokens: int, library: Any) -> None:
    for product in products(library, MODELS[name], tokens):
        for multiprocessors in MULTIPROCESSORS:
            product.assert_can_be_cut(library, multiprocessors)


def test_products_of_any_size_can_be_cut(library: Any) -> None:
    rng = np.random.default_rng(0)
    for _ in range(1000):
        kind = list(Kind)[rng.integers(3)]
        unit = {SUMS: 1, GATED: 8, ROTATED: 64}[kind]
        out, tokens = (int(2 ** rng.uniform(0, most)) for most in (13, 11))
        inner = 8 * int(2 ** rng.uniform(0, 10))
        floats = int(rng.integers(20)) * tokens * out * unit
        Product(kind, out * unit, inner, tokens, floats).assert_can_be_cut(library, int(rng.integers(2, 133)))


def test_few_tokens_are_cut_into_parts_that_have_room(library: Any) -> None:
    """Without parts a product of few tokens would leave most of a GPU idle."""
    for sizes in (models.QWEN, models.LLAMA):
        for product in products(library, sizes, 8):
            splits = product.tiling(library, 132).splits
            assert (splits > 1) == (product.part_floats > 0), product


@pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.name.lower())
def test_kernels_have_stages_enough_and_fit_into_shared_memory(kind: Kind, library: Any) -> None:
    for width in WIDTHS:
        if width not in kind.widths:
            assert library.kernel_bytes(int(kind), width) == 0
            continue
        stages, bytes_ = library.kernel_stages(int(kind), width), library.kernel_bytes(int(kind), width)
        assert stages >= 3, f"{width} tokens"
        assert stages * (width + 128) * 64 * 2 < bytes_ <= SHARED_BYTES, f"{width} tokens"
    assert library.kernel_bytes(int(kind), 24) == 0


def counted(library: Any, sizes: Sizes, batch: int, rows: int, past_rows: int, all_logits: bool, on: int) -> list[int]:
    """Products of a call: tiled ones of each kind, and others. Everything that is written has its place."""
    counts = (ctypes.c_int * 4)()
    facts = ctypes.byref(ModelSizes.of(sizes))
    fits = library.call_fits(facts, batch, rows, past_rows, int(all_logits), on, counts)
    assert fits, f"{batch} x {rows} rows over {past_rows}, on {on} multiprocessors"
    return list(counts)


@pytest.mark.parametrize("on", [0, 8, 114, 132])
@pytest.mark.parametrize("name", MODELS)
def test_what_a_call_writes_fits_into_its_workspace(name: str, on: int, library: Any) -> None:
    """Also decode steps of several sequences and rows; from so many rows on products are cuBLASLt's."""
    sizes = MODELS[name]
    decoding = [(batch, rows, 777, True) for batch in range(1, 9) for rows in range(1, 17)]
    prefills = [(batch, rows, 0, False) for batch in (1, 3) for rows in TOKENS]
    for batch, rows, past_rows, all_logits in decoding + prefills:
        *tiled, plain = counted(library, sizes, batch, rows, past_rows, all_logits, on)
        by_cublaslt = on == 0 or batch * rows * sizes.hidden >= 1 << 21
        assert (sum(tiled), plain) == ((0, 4 * sizes.layers + 1) if by_cublaslt else (4 * sizes.layers + 1, 0))
        assert tiled[GATED] == (0 if by_cublaslt else sizes.layers)
        assert tiled[ROTATED] in (0, sizes.layers)
