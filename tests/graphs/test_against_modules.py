"""Each ONNX graph, run by ONNX Runtime, against its torch module."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch

from export.modules import Decode, Encoder, LanguageModel, Prefill
from runtime.arrays import Array
from runtime.engines import open_backend
from runtime.points import encoder_inputs, grid_sample
from tests.compare import EXACT, Tol, assert_close
from tests.exported import FAMILIES, Export, Exported
from tests.scenes import room

FLOAT32 = Tol(2e-4, 1e-4, why="two layers of float32 in another order, logits of size 10")


def run_graph(case: Exported, graph: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
    backend = open_backend("onnxruntime", threads=1)
    feeds = {name: backend.upload(array) for name, array in arrays.items()}
    results = backend.load(case.bundle, graph).run(feeds)
    return {name: backend.download(tensor).copy() for name, tensor in results.items()}


def as_tensors(arrays: Mapping[str, Array]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}


def assert_same(got: Mapping[str, Array], want: Mapping[str, torch.Tensor]) -> None:
    assert got.keys() == want.keys()
    for name, tensor in want.items():
        assert_close(name, got[name], tensor.numpy(), FLOAT32)


def prefill_feeds(case: Exported, lengths: list[int], seed: int) -> dict[str, Array]:
    """Random prompts; the tables are no rotations, so that no shortcut over them passes."""
    rng = np.random.default_rng(seed)
    spec = case.bundle.manifest.language_model
    batch, rows = len(lengths), max(lengths)
    mask = (np.arange(rows) > 3) & (np.arange(rows) < np.array(lengths)[:, None] - 3)
    tables = {
        name: rng.uniform(-1, 1, (batch, rows, spec.head_dim)) for name in ("cos_3d", "sin_3d", "cos_1d", "sin_1d")
    }
    return {
        "input_ids": rng.integers(0, spec.vocab_size, (batch, rows)).astype(np.int32),
        "point_embeds": rng.normal(0, 0.3, (batch, rows, spec.hidden_size)).astype(np.float32),
        "point_mask": mask,
        **{name: table.astype(np.float32) for name, table in tables.items()},
        "lengths": np.array(lengths, np.int32),
    }


def decode_feeds(
    case: Exported, past_lengths: list[int], rows: int, new: int, poison: float, seed: int
) -> dict[str, Array]:
    """Random tokens against a random cache whose unused rows hold `poison`."""
    rng = np.random.default_rng(seed)
    spec = case.bundle.manifest.language_model
    batch = len(past_lengths)
    feeds: dict[str, Array] = {
        "input_ids": rng.integers(0, spec.vocab_size, (batch, new)).astype(np.int32),
        **{name: rng.uniform(-1, 1, (batch, new, spec.head_dim)).astype(np.float32) for name in ("cos", "sin")},
        "past_length": np.array(past_lengths, np.int32),
    }
    unused = np.arange(rows)[:, None] >= np.array(past_lengths)  # [M, B]
    for kind in ("key", "value"):
        for layer in range(spec.layers):
            cache = rng.normal(0, 1, (rows, batch, spec.kv_heads, spec.head_dim)).astype(np.float32)
            cache[unused] = poison
            feeds[f"past_{kind}.{layer}"] = cache
    return feeds


@pytest.mark.parametrize("options", [{}, {"projector": "linear"}], ids=["mlp", "linear"])
@pytest.mark.parametrize("points", [60, 900, 6000])
def test_encoder(exported: Export, points: int, options: dict[str, str]) -> None:
    case = exported("qwen", **options)
    spec = case.bundle.manifest.encoder
    feeds = encoder_inputs(grid_sample(room(points, points), spec.num_bins), spec).feeds
    want = Encoder(case.checkpoint.config, case.checkpoint.float_tensor)(as_tensors(feeds))
    assert_same(run_graph(case, "encoder", feeds), {"point_tokens": want.detach()})


@pytest.mark.parametrize("lengths", [[40], [40, 17, 33]], ids=["batch1", "batch3"])
@pytest.mark.parametrize("attention", ["causal", "full"])
@pytest.mark.parametrize("family", FAMILIES)
def test_prefill(exported: Export, family: str, attention: str, lengths: list[int]) -> None:
    case = exported(family, "3D_RoPE", "3D_only", attention)
    feeds = prefill_feeds(case, lengths, seed=3)
    model = LanguageModel(case.checkpoint.config, case.checkpoint.float_tensor)
    module = Prefill(model, attention)
    with torch.inference_mode():
        want = module(**as_tensors(feeds))
    got = run_graph(case, "prefill", feeds)
    for sequence, length in enumerate(lengths):  # rows of the padding mean nothing
        assert_same(
            {name: value[sequence] if name == "logits" else value[:length, sequence] for name, value in got.items()},
            {name: value[sequence] if name == "logits" else value[:length, sequence] for name, value in want.items()},
        )


@pytest.mark.parametrize("new", [1, 5])
@pytest.mark.parametrize("past_lengths", [[37], [37, 5, 64]], ids=["batch1", "batch3"])
@pytest.mark.parametrize("family", FAMILIES)
def test_decode(exported: Export, family: str, past_lengths: list[int], new: int) -> None:
    case = exported(family)
    feeds = decode_feeds(case, past_lengths, rows=64, new=new, poison=0.0, seed=4)
    module = Decode(LanguageModel(case.checkpoint.config, case.checkpoint.float_tensor))
    with torch.inference_mode():
        want = module(**as_tensors(feeds))
    assert_same(run_graph(case, "decode", feeds), want)


@pytest.mark.parametrize("new", [1, 5])
@pytest.mark.parametrize("family", FAMILIES)
def test_unused_cache_rows_never_change_a_result(exported: Export, family: str, new: int) -> None:
    case = exported(family)
    clean, poisoned = (
        run_graph(case, "decode", decode_feeds(case, [37, 5, 60], 64, new, poison, seed=5)) for poison in (0.0, 1e30)
    )
    for name, want in clean.items():
        assert_close(name, poisoned[name], want, EXACT)


def test_a_longer_prefix_of_the_cache_changes_nothing(exported: Export) -> None:
    case = exported("qwen")
    long = decode_feeds(case, [37], 128, 1, poison=1e30, seed=6)
    short = {
        name: array[:37] if name.startswith("past_") and array.ndim == 4 else array for name, array in long.items()
    }
    want = run_graph(case, "decode", short)
    for name, got in run_graph(case, "decode", long).items():
        assert_close(name, got, want[name], FLOAT32)


def test_padding_is_not_read_as_the_last_token(exported: Export) -> None:
    case = exported("qwen", "3D_RoPE", "3D_only", "full")
    feeds = prefill_feeds(case, [40, 17], seed=7)
    other = {name: array.copy() for name, array in feeds.items()}
    other["input_ids"][1, 17:] = 1
    other["point_embeds"][1, 17:] = 1e3
    want, got = (run_graph(case, "prefill", case_feeds)["logits"] for case_feeds in (feeds, other))
    assert_close("logits", got, want, EXACT)
