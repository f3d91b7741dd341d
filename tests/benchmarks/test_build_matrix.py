"""The build matrix over a TensorRT that is made of Python: what ends, what does not, and bundles of what was built."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.matrix_ways import DEFAULT, TYPES, Cell, Way
from export.bundle import ExportOptions, write_bundle
from export.checkpoint import open_checkpoint
from runtime.engines.record import EngineRecord
from runtime.pipeline import Pipeline
from runtime.scene import Request
from tests.benchmarks.conftest import Benchmark
from tests.blocked import ROOT
from tests.fake_gpu_fixture import fake_gpu  # noqa: F401
from tests.scenes import room

SMALL = ("--max_voxels", 2000, "--max_point_tokens", 300, "--at_once", 2)


@pytest.fixture(scope="module")
def bundles(tiny_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same export with plain and with scaled norms."""
    checkpoint, folder = open_checkpoint(tiny_checkpoint("qwen")), tmp_path_factory.mktemp("matrix")
    for norm in ("plain", "scaled"):
        options = ExportOptions(precision="fp16", max_length=1024, tensorrt_norm=norm, segment_layers=1)
        write_bundle(checkpoint, folder / norm, options)
    return {norm: folder / norm for norm in ("plain", "scaled")}


@pytest.fixture
def matrix(
    benchmark: Benchmark,
    bundles: dict[str, Path],
    tmp_path: Path,
    fake_gpu: Callable[..., Any],  # noqa: F811
) -> Callable[..., dict[str, Any]]:
    fake_gpu("8.6.0")

    def run(*arguments: object) -> dict[str, Any]:
        where = ("--bundle", bundles["plain"], "--folder", tmp_path / "work", "--output", tmp_path / "matrix.json")
        return benchmark("gpu.build_matrix", *where, *SMALL, *arguments).facts

    return run


def test_ways_become_bundles_that_run(
    matrix: Callable[..., dict[str, Any]], bundles: dict[str, Path], tmp_path: Path
) -> None:
    facts = matrix("--scaled", bundles["scaled"], "--ways", "segmented:scaled:3", "shared:held-half-io:1")
    parts = [f"{graph}.{number}-scaled-3" for graph in ("prefill", "decode") for number in (0, 1, 2)]
    cells = [*parts, "encoder-free-3", "language_model-held-half-io-1"]
    assert not [name for name in cells if "error" in facts[name]]
    assert (facts[cells[-1]]["opt_level"], facts[cells[-1]]["islands"]) == (1, ["norm", "half"])
    assert facts[cells[-1]]["direct_io"] is True
    ready = [Path(line) for line in (tmp_path / "work" / "ready").read_text().splitlines()]
    assert sorted(path.name for path in ready) == ["segmented-scaled-3", "shared-held-half-io-1"]
    request = Request(max_new_tokens=12)
    with Pipeline.load(bundles["plain"], backend="onnxruntime", threads=1) as plain:
        want = plain(room(1, 300), request)
    for folder in ready:
        record = EngineRecord.read(next((folder / "engines").iterdir()))
        assert record.language_model == folder.name.partition("-")[0]
        with Pipeline.load(folder, backend="tensorrt") as pipeline:
            assert pipeline(room(1, 300), request).report.prompt_tokens == want.report.prompt_tokens
    assert (ready[0] / "encoder.weights").stat().st_nlink > 1, "not a copy for each way"


def test_what_does_not_end_in_time_is_named_and_the_others_stand(
    matrix: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'tests/building/trouble'}:{ROOT / 'tests/fake_gpu'}")
    for name, value in {"TROUBLE": "sleep", "TROUBLE_GRAPH": "prefill", "TROUBLE_MARK": tmp_path / "mark"}.items():
        monkeypatch.setenv(name, str(value))
    facts = matrix("--ways", "separate:held:3", "shared:free:3", "separate:scaled:3", "--time_limit", 6)
    assert facts["prefill-held-3"]["error"].startswith("TimeoutError: not built in ")
    assert facts["decode-held-3"]["bytes"] > 0
    assert [name for name in facts if "scaled" in name] == [], "there is no such bundle"
    assert (tmp_path / "work" / "ready").read_text() == f"{tmp_path / 'work' / 'shared-free-3'}\n"


def test_what_is_not_begun_in_time_is_named(matrix: Callable[..., dict[str, Any]]) -> None:
    facts = matrix("--ways", "separate:free:0", "--total_limit", 0)
    assert facts["decode-free-0"]["error"] == facts["encoder-free-3"]["error"] == "TimeoutError: not begun"


def test_a_build_that_fails_says_why(matrix: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_GPU_FAULTS", "build:decode")
    facts = matrix("--ways", "separate:free:0")
    assert "Could not find any implementation" in facts["decode-free-0"]["error"]
    assert facts["prefill-free-0"]["layers"] > 0


def test_ways_of_the_default() -> None:
    ways = [Way.parse(text) for text in DEFAULT]
    assert len(set(ways)) == len(ways)
    asked = {(way.layout, way.kind, way.level) for way in ways}
    assert {(a, b, c) for a in ("separate", "shared") for b in ("held", "free") for c in (1, 3)} <= asked
    assert Way.parse("shared:held:3").cells(0) == (Cell("encoder", "free", 3), Cell("language_model", "held", 3))
    names = [cell.name for cell in Way.parse("segmented:held:3").cells(2)]
    assert names[1:] == [f"{graph}.{number}-held-3" for graph in ("prefill", "decode") for number in range(2)]


@pytest.mark.parametrize("text", ["", "separate", "separate:held", "joint:held:3", "shared:kept:3", "shared:held:9"])
def test_ways_that_are_none(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=f"is not one of .*{next(iter(TYPES))}"):
        Way.parse(text)
