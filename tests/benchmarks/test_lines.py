"""The benchmarks run, and their last line says what the README's tables are made from."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import genai, stages
from benchmarks.machine import read_bandwidth_gbs
from tests.benchmarks.conftest import Benchmark
from tests.cli.conftest import CLOUD, write_ply
from tests.exported import Export

MEASURED = ("prefill_ms", "decode_ms_per_token", "peak_memory_gb")
RATIOS = ("prefill_times_better", "decode_times_better", "peak_memory_times_better")


def test_geometry(benchmark: Benchmark) -> None:
    facts = benchmark("geometry", "--points", 3000, "--warm_up", 0, "--runs", 3).facts
    steps = [facts[f"{name}_ms"] for name in ("clean_up", "grid_sample", "encoder_inputs")]
    assert facts["points"] == 3000
    assert facts["runs"] == 3
    assert 0 < max(steps) < facts["total_ms"] <= facts["total_ms_range"][1]
    assert len(facts["voxels"]) == 5
    assert sorted(facts["voxels"], reverse=True) == facts["voxels"]


def test_geometry_of_a_file(benchmark: Benchmark, tmp_path: Path) -> None:
    scene = write_ply(tmp_path / "scene.ply", CLOUD)
    facts = benchmark("geometry", "--point_cloud", scene, "--warm_up", 0, "--runs", 1).facts
    assert facts["points"] == len(CLOUD)


def test_stages(benchmark: Benchmark, exported: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "read_bandwidth_gbs", lambda: read_bandwidth_gbs(0.01, repeats=1))
    scene, bundle = write_ply(tmp_path / "scene.ply", CLOUD), exported("qwen").bundle
    facts = benchmark("stages", "--bundle", bundle.folder, "--point_cloud", scene, "--tokens", 5, "--repeats", 2).facts
    assert {"prefill", "encoder", "decode"} <= facts["milliseconds"].keys()
    assert facts["generated_tokens"] == 5
    assert facts["repeats"] == 2
    assert facts["prompt_tokens"] > facts["point_tokens"] > 0
    assert facts["tokens_per_second"] == pytest.approx(1e3 / facts["decode_ms_per_token"], rel=0.05)
    weights = bundle.folder / bundle.manifest.weights["decode"]
    assert facts["weights_read_gb_per_token"] == pytest.approx(weights.stat().st_size / 1e9, abs=1e-4)
    share = facts["decode_gb_per_second"] / facts["measured_read_gb_per_second"]
    assert facts["bandwidth_share"] == pytest.approx(share, abs=0.02)
    assert facts["peak_memory_gb"] > 0


def test_peers_without_genai(benchmark: Benchmark, exported: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal tokens show that the contenders really have the same weights and the same prompt."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = benchmark("peers", *_contenders(exported), "--genai", "--rounds", 1)
    (advice,) = (line for line in result.said.splitlines() if line.startswith("onnxruntime-genai"))
    assert advice.endswith("pip install onnxruntime-genai onnx-ir")
    assert result.facts["versions"].keys() >= {"torch", "transformers", "onnxruntime"}
    peer, ours = result.facts["contenders"].values()
    assert peer.keys() == ours.keys() == {*MEASURED, *RATIOS, "tokens_kept"}
    assert ours["tokens_kept"] == 1
    assert all(peer[name] == 1 for name in RATIOS)
    assert ours["decode_times_better"] == peer["decode_ms_per_token"] / ours["decode_ms_per_token"]


@pytest.mark.slow
@pytest.mark.skipif(genai.missing() is not None, reason="needs onnxruntime-genai and onnx-ir")
def test_peers_with_genai(benchmark: Benchmark, exported: Export) -> None:
    facts = benchmark("peers", *_contenders(exported), "--genai", "--rounds", 1).facts
    assert facts["versions"].keys() >= {"onnxruntime-genai"}
    assert facts["contenders"]["onnxruntime-genai fp32"]["tokens_kept"] == 1


def _contenders(exported: Export) -> tuple[object, ...]:
    made = exported("qwen")
    few = ("--repeats", 1, "--tokens", 4, "--points", 16, "--threads", 1)
    return ("--model", made.checkpoint.folder, "--bundle", made.bundle.folder, *few)
