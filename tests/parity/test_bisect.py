"""Islands in float32: weights that overflow in one part of one layer are mended by that island and by no other."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.bundle import ExportOptions, write_bundle
from export.checkpoint import Checkpoint
from export.parity.bisect import Bisection, Feeds, bisect, bisection_to_json
from export.parity.cli import main as parity
from export.parity.ladder import Ladder
from export.parity.report import render
from export.parity.rounding import PARTS, Islands, RoundedPrefill
from runtime.rung import Plan
from runtime.scene import Request
from tests.exported import Export, Exported
from tests.parity.reports import Page, ladder, result
from tests.scenes import room

Factors = Mapping[str, Any]  # what a tensor is multiplied with: a number, or a tensor that is broadcast


class Scaled:
    """A checkpoint of which some tensors are multiplied."""

    def __init__(self, checkpoint: Checkpoint, factors: Factors) -> None:
        self.config, self._checkpoint, self._factors = checkpoint.config, checkpoint, factors

    def float_tensor(self, name: str) -> torch.Tensor:
        return self._checkpoint.float_tensor(name) * self._factors.get(name, 1.0)


def layer(index: int, name: str) -> str:
    return f"model.layers.{index}.{name}.weight"


def overflowing_mlp(case: Exported, index: int) -> Factors:
    """Some neurons whose gates and ups give hundreds, so that float16 cannot hold the products; down takes it back, by
    weights that float16 still holds well."""
    large = torch.ones(case.checkpoint.config.language_model.intermediate_size)
    small = large.clone()
    large[:4], small[:4] = 600.0, 1e-3
    inner = {layer(index, f"mlp.{name}_proj"): large[:, None] for name in ("gate", "up")}
    return inner | {layer(index, "mlp.down_proj"): small}


# As in trained models, whose residual stream has channels of a thousand and more; the head reads what it always read.
LARGE_STREAM = {"model.embed_tokens.weight": 2e4, "model.norm.weight": 1 / 2e4}


@pytest.fixture
def case(exported: Export) -> Exported:
    return exported("llama", "3D_RoPE", "3D_only", "causal")


@pytest.fixture
def feeds(case: Exported, tmp_path: Path) -> Feeds:
    cloud = tmp_path / "scene.npy"
    np.save(cloud, room(1, 1000, (3.0, 2.0, 1.5)).points)
    climb = Ladder(
        bundle=case.bundle, checkpoint=case.checkpoint, backends=[], request=Request(clean_up=False), plan=Plan()
    )
    return climb._prefill_feeds(cloud)


@pytest.fixture
def found(case: Exported, feeds: Feeds) -> Callable[..., Bisection]:
    def run(factors: Factors, precision: str = "fp16", points: float = 1.0) -> Bisection:
        scaled: Any = Scaled(case.checkpoint, factors)
        given = feeds | {"point_embeds": feeds["point_embeds"] * np.float32(points)}
        return bisect(scaled, given, precision, "causal", lambda _: None)

    return run


def test_nothing_is_needed_where_nothing_is_large(found: Callable[..., Bisection]) -> None:
    result = found({})
    assert result.mending is None
    assert result.reason == "no island is needed: all in fp16 stays within the limits on this scene."
    assert result.graph.worst.error < result.bare.worst.error, "islands lessen the error"


@pytest.mark.parametrize("index", [0, 1])
def test_an_mlp_that_overflows(case: Exported, found: Callable[..., Bisection], index: int) -> None:
    result = found(overflowing_mlp(case, index))
    assert result.bare.departure is not None
    assert result.mending is not None
    assert result.mending.islands == Islands(frozenset({"mlp"}), index, index + 1)
    assert result.reason.startswith(f"mlp of layer {index} must be in float32. What the graphs keep in float32 (")
    assert "does not suffice: it first departs at" in result.reason
    assert [trial.departure is None for trial in result.alone] == [part == "mlp" for part in PARTS]


def test_a_residual_stream_whose_squares_overflow(found: Callable[..., Bisection]) -> None:
    result = found(LARGE_STREAM, points=2e4)
    assert result.mending is not None
    assert result.mending.islands == Islands(frozenset({"norms"}), 0, 3)
    assert result.reason.startswith("norms of all layers must be in float32.")
    assert "suffices: an engine that departs lost an island or has another fault." in result.reason
    assert result.graph.departure is None


def test_two_parts_that_overflow(case: Exported, found: Callable[..., Bisection]) -> None:
    result = found({**overflowing_mlp(case, 1), **LARGE_STREAM}, points=2e4)
    assert result.mending is not None
    assert result.mending.islands == Islands(frozenset({"norms", "mlp"}), 0, 3)
    assert result.reason.startswith("norms and mlp of all layers must be in float32.")
    assert all(trial.departure is not None for trial in result.alone)


def test_weights_that_half_precision_cannot_hold_are_mended_by_nothing(found: Callable[..., Bisection]) -> None:
    result = found({"lm_head.weight": 1e9, "model.embed_tokens.weight": 1e9})
    assert result.mending is None
    assert result.reason.startswith("no island mends it: with all arithmetic in float32 the rounding of weights")


def test_bf16_has_the_range_and_not_the_digits(case: Exported, found: Callable[..., Bisection]) -> None:
    result = found(overflowing_mlp(case, 0), "bf16")
    assert "mlp" not in (result.mending.islands.parts if result.mending else ())
    assert found({}, "bf16").whole.worst.error > 3 * found({}).whole.worst.error


def test_all_islands_over_weights_that_are_halves_are_the_modules(case: Exported, feeds: Feeds) -> None:
    """What is left is the rounding of the cache: the arithmetic of the simulation is that of the modules."""

    class Halves(Scaled):
        def float_tensor(self, name: str) -> torch.Tensor:
            return super().float_tensor(name).half().float()

    halves: Any = Halves(case.checkpoint, {})
    given = feeds | {"point_embeds": feeds["point_embeds"].astype(np.float16).astype(np.float32)}
    module = RoundedPrefill(halves.config, halves.float_tensor, "fp16", "causal")
    module.islands = Islands(frozenset(PARTS), 0, 3)
    module._rounded = lambda x: x  # type: ignore[method-assign]
    from export.modules import LanguageModel, Prefill

    tensors = {name: torch.from_numpy(array) for name, array in given.items()}
    want = Prefill(LanguageModel(halves.config, halves.float_tensor), "causal")(**tensors)
    for name, got in module(**tensors).items():
        torch.testing.assert_close(got, want[name], rtol=2e-5, atol=2e-5)


def test_in_the_command_and_on_the_page(case: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cloud, bundle = tmp_path / "scene.npy", tmp_path / "bundle"
    np.save(cloud, room(1, 1000, (3.0, 2.0, 1.5)).points)
    write_bundle(case.checkpoint, bundle, ExportOptions(precision="fp16", max_length=1024))
    common = ["--model", str(case.checkpoint.folder), "--point_cloud", str(cloud), "--no_cleanup", "--bisect"]
    common += ["--forced_steps", "1", "--free_tokens", "1", "--backends", "torch"]
    report = tmp_path / "parity.json"
    assert parity(["--bundle", str(bundle), *common, "--report", str(report)]) == 0
    assert "  fp16: no island is needed:" in capsys.readouterr().out
    found = json.loads(report.read_text())["scenes"][0]["bisection"]
    assert [trial["float32"] for trial in found["trials"]] == ["nothing", "what the graphs keep", "everything", *PARTS]
    assert parity(["--bundle", str(case.bundle.folder), *common]) == 2
    said = capsys.readouterr()
    assert "--bisect asks what a bundle in half precision must keep in float32" in said.err
    assert said.out == ""


def test_the_page_names_trials_that_depart(case: Exported, found: Callable[..., Bisection]) -> None:
    shown = result(*ladder())
    shown["scenes"][0]["bisection"] = bisection_to_json(found(overflowing_mlp(case, 0)))
    page = Page(render(shown))
    assert "In fp16: mlp of layer 0 must be in float32." in page.text
    assert page.text.count("✗ no") == 2 + len(PARTS) - 1
