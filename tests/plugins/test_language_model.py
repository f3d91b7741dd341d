"""The language model's kernels on the CPU, over plain products, against the definition in float64."""

from __future__ import annotations

import ctypes
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plugins.decode_step import models
from plugins.decode_step.reference import Heads, Layer, Weights
from plugins.decode_step.sizes import Sizes
from plugins.language_model.arguments import LAYER_TENSORS, LanguageModelTensors, ModelSizes, ModelWeights
from plugins.language_model.reference import language_model
from tests.compare import Tol, assert_close
from tests.plugins.halves import Array, from_bits, to_bits
from tests.plugins.small import CACHE, HERE, LIMITS, LLAMA, QWEN, Small

MODELS = {"qwen": replace(QWEN, intermediate=192), "llama": replace(LLAMA, intermediate=192)}


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Any]:
    """The kernels as libraries of the host's compiler, by whether halves are bf16."""
    return {bf16: _compiled(bf16, tmp_path_factory.mktemp("language_model")) for bf16 in (False, True)}


def _compiled(bf16: bool, folder: Path) -> Any:
    library, plugins = folder / "kernels.so", HERE.parents[1] / "plugins"
    options = ["-std=c++17", "-O1", "-w", "-fno-strict-aliasing", "-U_FORTIFY_SOURCE", "-fPIC", "-shared"]
    folders = [f"-I{HERE}", f"-I{HERE / 'no_cuda'}", f"-I{plugins}"]
    source = str(HERE / "run_language_model.cpp")
    subprocess.run(["g++", *options, *folders, f"-DHALF_IS_BF16={int(bf16)}", source, "-o", str(library)], check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.workspace_bytes.restype = ctypes.c_size_t
    return loaded


@dataclass(frozen=True)
class Call:
    """What one call is given. Everything that must not be looked at is NaN or out of range."""

    batch: int
    rows: int
    lengths: list[int] | None = None
    past_length: list[int] | None = None
    past_rows: int = 0
    points: bool = False
    causal: bool = True
    all_logits: bool = False
    seed: int = 0

    def arrays(self, sizes: Sizes) -> dict[str, Array]:
        rng, shape = np.random.default_rng(self.seed), (self.batch, self.rows)
        angles = rng.uniform(-3, 3, (2, *shape, sizes.head_dim))
        made = {"ids": rng.integers(0, sizes.vocabulary, shape).astype(np.int32)}
        for name, angle in zip(("1d", "3d"), angles, strict=True):
            made |= {f"cos_{name}": np.cos(angle).astype(np.float32), f"sin_{name}": np.sin(angle).astype(np.float32)}
        if self.points:
            mask = rng.random(shape) < 0.6
            points = np.where(mask[..., None], rng.normal(0, 0.3, (*shape, sizes.hidden)), np.nan)
            made |= {"point_mask": mask, "point_embeds": to_bits(points, sizes.bf16)}
            made["ids"][mask] = -7
        if self.lengths is not None:
            made["lengths"] = np.array(self.lengths, np.int32)
        if self.past_length is not None:
            past = rng.normal(0, 1, (self.past_rows, self.batch, 2 * sizes.layers * sizes.kv_heads, sizes.head_dim))
            for b, length in enumerate(self.past_length):
                past[length:, b] = np.nan
            made |= {"past_length": np.array(self.past_length, np.int32), "past": to_bits(past, sizes.bf16)}
        return made


def run(
    library: Any, model: Small, call: Call, arrays: dict[str, Array], multiprocessors: int = 0
) -> tuple[Array, Array]:
    """Logits, and the bits of the new rows. With multiprocessors products are tiled."""
    _, logits, rows = run_counted(library, model, call, arrays, multiprocessors)
    return logits, rows


def run_counted(
    library: Any, model: Small, call: Call, arrays: dict[str, Array], multiprocessors: int
) -> tuple[int, Array, Array]:
    """The same behind how many layers were rotated at once."""
    sizes = model.sizes
    logits = np.full((call.batch, *([call.rows] if call.all_logits else []), sizes.vocabulary), np.nan, np.float32)
    rows = np.zeros((call.rows, call.batch, 2 * sizes.layers * sizes.kv_heads, sizes.head_dim), np.uint16)
    counts = call.batch, call.rows, call.past_rows, int(call.causal), int(call.all_logits)
    facts = ModelSizes.of(sizes)
    workspace = np.full(
        library.workspace_bytes(ctypes.byref(facts), *counts[:3], counts[4]) + 256, 0xFF, np.uint8
    )  # NaN, in whatever type
    tensors = LanguageModelTensors(
        *counts,
        **{name: array.ctypes.data for name, array in arrays.items()},
        weights=ModelWeights.of({name: bits.ctypes.data for name, bits in model.bits.items()}, sizes.layers),
        logits=logits.ctypes.data,
        new_rows=rows.ctypes.data,
    )
    aligned = -(-workspace.ctypes.data // 256) * 256
    where = ctypes.c_void_p(aligned)
    rotated = library.run(ctypes.byref(facts), ctypes.byref(tensors), where, call.seed, multiprocessors)
    assert rotated >= 0
    return rotated, logits, rows


def expected(model: Small, call: Call, arrays: dict[str, Array]) -> tuple[Array, Array]:
    """The same of the definition, in float64."""
    sizes, bf16 = model.sizes, model.sizes.bf16
    values = {name: from_bits(bits, bf16) for name, bits in model.bits.items()}
    layers = [Layer(**{n: values.get(f"{i}.{n}") for n in LAYER_TENSORS}) for i in range(sizes.layers)]  # type: ignore[arg-type]
    weights = Weights(
        embedding=values["embedding"], layers=layers, final_norm=values["final_norm"], head=values["embedding"]
    )
    mask = arrays.get("point_mask", np.zeros((call.batch, call.rows), bool))[..., None]
    cos, sin = (np.where(mask, arrays[f"{n}_3d"], arrays[f"{n}_1d"]).astype(np.float64) for n in ("cos", "sin"))
    halves = {name: from_bits(arrays[name], bf16) for name in ("point_embeds", "past") if name in arrays}
    given = {name: arrays[name] for name in ("point_mask", "lengths", "past_length") if name in arrays}
    return language_model(
        weights, Heads(query=sizes.heads, key=sizes.kv_heads, size=sizes.head_dim), sizes.epsilon,
        np.clip(arrays["ids"], 0, sizes.vocabulary - 1), cos, sin, **halves, **given,
        causal=call.causal, all_logits=call.all_logits, stored=lambda x: from_bits(to_bits(x, bf16), bf16),
    )  # fmt: skip


CALLS = {
    "prefill": Call(1, 17, lengths=[17], points=True),
    "batch": Call(3, 21, lengths=[21, 1, 9], points=True, seed=1),
    "full": Call(2, 19, lengths=[13, 19], points=True, causal=False, seed=2),
    "tiles": Call(1, 70, lengths=[69], seed=3),
    "decode": Call(4, 1, past_length=[0, 70, 3, 128], past_rows=128, all_logits=True, seed=4),
    "tokens": Call(2, 5, past_length=[66, 0], past_rows=130, all_logits=True, seed=5),
    "nothing": Call(2, 3, lengths=[0, 3], seed=6),
}


@pytest.mark.parametrize("multiprocessors", [0, 8])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
@pytest.mark.parametrize("name", MODELS)
def test_against_the_definition(name: str, call: Call, multiprocessors: int, libraries: dict[bool, Any]) -> None:
    model = Small.random(MODELS[name], seed=call.seed)
    arrays = call.arrays(model.sizes)
    assert_as_defined(
        name, model, call, arrays, *run(libraries[model.sizes.bf16], model, call, arrays, multiprocessors)
    )


def assert_as_defined(
    name: str, model: Small, call: Call, arrays: dict[str, Array], logits: Array, bits: Array
) -> None:
    wanted, rows = expected(model, call, arrays)
    found = from_bits(bits, model.sizes.bf16)
    for b, length in enumerate(call.lengths or [call.rows] * call.batch):
        assert_close(f"rows of {b}", found[:length, b], rows[:length, b], CACHE[name])
        if length:
            assert_close(f"logits of {b}", logits[b], wanted[b], LIMITS[name])


ROTATIONS = {
    "points": Call(3, 40, lengths=[40, 1, 33], points=True, seed=7),
    "past": Call(3, 40, lengths=[39, 40, 2], past_length=[5, 0, 66], past_rows=70, points=True, seed=8),
    "tokens": Call(8, 16, past_length=[3, 0, 9, 1, 2, 10, 4, 7], past_rows=10, seed=10),
}


@pytest.mark.parametrize(("multiprocessors", "at_once"), [(132, True), (8, False)], ids=["at_once", "from_parts"])
@pytest.mark.parametrize("call", ROTATIONS.values(), ids=ROTATIONS.keys())
@pytest.mark.parametrize("name", MODELS)
def test_rotation_at_once_and_from_parts(
    name: str, call: Call, multiprocessors: int, at_once: bool, libraries: dict[bool, Any]
) -> None:
    """Many heads over few channels, so that both ways are the faster one on some GPU."""
    model = Small.random(replace(MODELS[name], hidden=64, intermediate=64, heads=12, kv_heads=2), seed=call.seed)
    arrays = call.arrays(model.sizes)
    rotated, *made = run_counted(libraries[model.sizes.bf16], model, call, arrays, multiprocessors)
    assert rotated == (model.sizes.layers if at_once else 0)
    assert_as_defined(name, model, call, arrays, *made)


@pytest.mark.parametrize("all_logits", [False, True], ids=["last", "all"])
def test_logits_are_in_one_part(libraries: dict[bool, Any], all_logits: bool) -> None:
    """Also where a product into parts has the sizes of the head: as many words as channels."""
    sizes = MODELS["qwen"]
    sizes = replace(sizes, hidden=512, heads=8, kv_heads=2, vocabulary=512)
    model = Small.random(sizes, seed=4)
    call = Call(1, 40, lengths=[40], all_logits=all_logits)
    arrays = call.arrays(model.sizes)
    logits, _ = run(libraries[False], model, call, arrays, multiprocessors=132)
    assert_close("logits", logits, expected(model, call, arrays)[0], LIMITS["qwen"])


def test_padding_does_not_show(libraries: dict[bool, Any]) -> None:
    """Whatever stands behind the valid rows, the results are the same to the bit."""
    model, call = Small.random(MODELS["qwen"], seed=1), CALLS["batch"]
    arrays = call.arrays(model.sizes)
    first, _ = run(libraries[False], model, call, arrays)
    for b, length in enumerate(call.lengths or []):
        arrays["ids"][b, length:], arrays["point_mask"][b, length:] = 1 << 30, False
        arrays["cos_1d"][b, length:] = np.nan
    again, _ = run(libraries[False], model, call, arrays)
    assert_close("logits", again, first, Tol(0.0, why="the same arithmetic on the same values"))


LARGE = {"qwen": models.QWEN, "llama": models.LLAMA}


@pytest.mark.parametrize("name", LARGE)
def test_the_workspace_of_a_call_is_room_for_every_smaller_one(name: str, libraries: dict[bool, Any]) -> None:
    """TensorRT asks for the largest sizes of a profile alone. Smaller calls are cut into more pieces."""
    facts = ModelSizes.of(LARGE[name])

    def needed(batch: int, rows: int, past_rows: int, all_logits: int) -> int:
        bytes_: int = libraries[False].workspace_bytes(ctypes.byref(facts), batch, rows, past_rows, all_logits)
        return bytes_

    for past_rows, all_logits in ((0, 0), (1024, 1)):
        alone = [needed(1, rows, past_rows, all_logits) for rows in range(1, 2600)]
        assert alone == sorted(alone), "more rows"
        tokens = [needed(batch, 1, past_rows, all_logits) for batch in range(1, 300)]
        assert tokens == sorted(tokens), "more sequences"
    keys = [needed(4, 1, past_rows, 1) for past_rows in range(0, 4096, 32)]
    assert keys == sorted(keys), "more rows of the cache"
    rng = np.random.default_rng(0)
    for _ in range(2000):
        small, large = np.sort(rng.integers((1, 1, 0), (9, 700, 3000), (2, 3)), axis=0).tolist()
        assert needed(*small, 0) <= needed(*large, 0), f"{small} in {large}"
        assert needed(*small, 1) <= needed(*large, 1), f"{small} in {large}"
