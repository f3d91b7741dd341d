"""What goes wrong while building: one sentence, and nothing half-written."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from export.bundle import ExportOptions, write_bundle
from export.checkpoint import open_checkpoint
from export.quantization.options import quantization_spec
from tests.blocked import ROOT
from tests.building.conftest import VERSIONS, Bench, contents, gone, resigned, wait_for
from tests.passes.test_stack_cache import without_stacked_graph


@pytest.mark.parametrize("built_before", [False, True])
@pytest.mark.parametrize(
    ("trouble", "sentence"),
    [
        (
            {"FAKE_GPU_FAULTS": "parse:language_model"},
            "language_model.stacked.onnx: TensorRT 8.6.0 cannot read the graph: This version",
        ),
        (
            {"FAKE_GPU_FAULTS": "build:language_model"},
            "language_model: TensorRT 8.6.0 could not build the engine: Could not find any",
        ),
        ({"TROUBLE": "abort"}, "language_model: the process that builds the engine was ended by SIGABRT; it said: "),
        ({"TROUBLE": "exit"}, "language_model: the process that builds the engine ended with code 3"),
        (
            {"TROUBLE": "memory"},
            "language_model: the GPU's memory does not suffice to build the engine ([engine.cpp] Error Code 2: ",
        ),
    ],
    ids=["parse", "build", "abort", "exit", "memory"],
)
def test_a_failure_leaves_what_was_there(
    bench: Bench, trouble: dict[str, str], sentence: str, built_before: bool
) -> None:
    if built_before:
        bench.facts()
    before = contents(bench.bundle)
    said = bench.refused("--opt_level", 2, TROUBLE_GRAPH="language_model", **trouble)
    assert sentence in said
    assert contents(bench.bundle) == before
    log = Path(said.partition("Its log: ")[2])
    assert log == bench.cache / "spatiallm-export" / "logs" / "nvidia-fake-9000-trt8.6.0-fp16-language_model.log"
    assert log.is_file(), "what TensorRT said can be read afterwards"
    if "memory" in trouble.values():
        assert "Assertion engine" not in said, "the cause, not what followed from it"
        assert "Build with smaller --max_voxels, --max_point_tokens, --max_length or --max_batch" in said
    if trouble == {"TROUBLE": "abort"}:
        assert "F: an assertion failed" in said


@pytest.mark.parametrize("version", VERSIONS)
def test_a_parse_error_names_the_node(bench: Bench, version: str) -> None:
    path = bench.bundle / "language_model.stacked.onnx"
    damaged = path.read_bytes().replace(b"Softmax", b"Softmin")
    path.write_bytes(damaged)
    said = bench.refused(version=version)
    assert f"{path}: its SHA-256 is" in said, "an altered graph is refused before it is built"
    resigned(bench.bundle, path)
    said = bench.refused(version=version)
    name = "" if version == "8.6.0" else r" (model.layers.0/Softmin:Softmin)"
    assert "cannot read the graph: node " in said
    assert f"{name}: No importer registered for op: Softmin. Export the bundle again" in said


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("jobs", [1, 3])
def test_an_interrupt_leaves_nothing(bench: Bench, tmp_path: Path, end: signal.Signals, jobs: int) -> None:
    mark, before = tmp_path / "mark", contents(bench.bundle)
    process = bench.start("--jobs", jobs, "-q", TROUBLE="sleep", TROUBLE_GRAPH="language_model", TROUBLE_MARK=str(mark))
    child = int(wait_for(mark))
    assert contents(bench.bundle) != before, "it is being written, beside the place where it will stand"
    process.send_signal(end)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err == ("python -m export.build: interrupted; nothing was written, and engines that stood there stand.\n")
    assert contents(bench.bundle) == before
    assert not (bench.bundle / "engines").exists()
    assert gone(child)


def test_a_child_does_not_outlive_its_parent(bench: Bench, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    process = bench.start("-q", TROUBLE="sleep", TROUBLE_GRAPH="encoder", TROUBLE_MARK=str(mark))
    child = int(wait_for(mark))
    process.kill()
    process.communicate(timeout=20)
    assert gone(child)


def test_an_abort_over_the_timing_cache_costs_only_the_cache(bench: Bench) -> None:
    facts = bench.facts(FAKE_GPU_FAULTS="timing_cache")
    reason = "the process was ended by SIGABRT; an incomplete cuDNN is a known cause"
    note = f"language_model: the engine is whole, but the timing cache could not be saved ({reason}). The next"
    assert sum(each.startswith(note) for each in facts["notes"]) == 1
    assert not list((bench.cache / "spatiallm-export").glob("*.cache"))
    assert not bench.record().plans["language_model"].warm
    assert bench.record().plans["language_model"].layers > 0
    again = bench.facts()
    assert [graph["warm"] for graph in again["graphs"].values()] == [False] * 2
    assert not [note for note in again["notes"] if "timing" in note]


def test_a_report_that_cannot_be_read_costs_only_the_report(bench: Bench) -> None:
    facts = bench.facts(FAKE_GPU_FAULTS="deserialize:encoder")
    assert [graph["layers"] > 0 for graph in facts["graphs"].values()] == [False, True]
    assert any("encoder: the inspector's report cannot be read" in note for note in facts["notes"])


def test_bundles_without_graphs_for_tensorrt(
    bench: Bench, tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    without_stacked_graph(bench.bundle)
    said = bench.refused()
    assert "has no graph 'language_model.stacked', for it was exported before such engines could be built." in said
    assert f" --output {bench.bundle}" in said.partition("Export it again: python export_model.py --model ")[2]
    options = ExportOptions(quantization=quantization_spec("int8"))
    write_bundle(open_checkpoint(tiny_checkpoint("qwen")), tmp_path / "int8", options)
    said = Bench(tmp_path / "int8", bench.cache).refused()
    assert "the graphs use operators of onnxruntime, which the back end 'tensorrt' does not have." in said
    assert "no such bundle" in Bench(tmp_path / "absent", bench.cache).refused()


@pytest.mark.parametrize(
    ("arguments", "environment", "sentence"),
    [
        (
            [],
            {"FAKE_GPU_NAMES": ""},
            "no GPU can be used here (CUDA refused cudaGetDeviceCount: no CUDA-capable device",
        ),
        (
            ["--device", "cuda:2"],
            {},
            "there is no device cuda:2, only devices cuda:0 to cuda:1. Choose another --device.",
        ),
        (["--device", "gpu0"], {}, "--device is 'gpu0', but cuda:0, cuda:1 or so on was expected."),
        (["--opt_level", 6], {}, "--opt_level is 6, but 0 to 5 were expected."),
        (["--workspace", "nan"], {}, "--workspace is nan, but a size in GB above 0 was expected."),
        (["--jobs", 0], {}, "--jobs is 0, but 1 to 32 were expected."),
        (
            ["--graphs", "decoder"],
            {},
            "with --language_model shared there are encoder, language_model.",
        ),
        (["--islands", "gelu"], {}, "--islands names 'gelu', but there are norm, softmax, elementwise, half, all."),
        (["--max_length", 1025], {}, "--max_length is 1025, but the bundle's cache has 1 to 1024 positions."),
        (["--timing_cache", "."], {}, ".: is no timing cache. Choose another --timing_cache."),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_refused(bench: Bench, arguments: list[object], environment: dict[str, str], sentence: str) -> None:
    before = contents(bench.bundle)
    assert sentence in bench.refused(*arguments, **environment)
    assert contents(bench.bundle) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(bench: Bench) -> None:
    bench.bundle.chmod(0o555)
    try:
        assert "cannot be written (Permission denied). Let the bundle's folder be written." in bench.refused()
    finally:
        bench.bundle.chmod(0o755)


def test_a_plan_that_finds_no_room(bench: Bench) -> None:
    """A limit on the size of files stands in for a full disk."""
    bench()
    before = contents(bench.bundle)
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); "
        "from export.build import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "--bundle", bench.bundle, "--quiet"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, env=bench.environment())
    assert result.returncode == 2
    assert re.match(
        rf"python -m export\.build: {bench.folder()}: the encoder engine cannot be written \(File too large\)\. "
        r"Make room for \d+\.\d MB there\. Its log: ",
        result.stderr,
    ), result.stderr
    assert contents(bench.bundle) == before


def test_a_file_where_engines_stand_is_replaced(bench: Bench) -> None:
    (file := bench.bundle / "engines" / "nvidia-fake-9000-trt8.6.0-fp16").parent.mkdir()
    file.write_text("")
    bench.facts()
    assert list(file.parent.iterdir()) == [bench.folder()] == [file]


def test_a_file_where_engines_go(bench: Bench) -> None:
    (bench.bundle / "engines").write_text("mine")
    assert f"{bench.bundle}/engines/nvidia-fake-9000-trt8.6.0-fp16: cannot be written (" in bench.refused()
    assert (bench.bundle / "engines").read_text() == "mine"


def test_a_cache_folder_that_cannot_be_written(bench: Bench) -> None:
    bench.cache.write_text("mine")
    facts = bench.facts()
    assert sum("the timing cache could not be saved (" in note for note in facts["notes"]) == 1
    said = bench.refused(FAKE_GPU_FAULTS="build:encoder")
    assert "could not build the engine" in said and "Its log" not in said
    assert bench.cache.read_text() == "mine"
