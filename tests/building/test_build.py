"""`python -m export.build` with each version of TensorRT: what is built, how, and what is written down."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from export.engines.inspection import count_layers
from runtime.bundle import PAST, Bundle
from runtime.engines.record import EngineRecord
from tests.building.conftest import VERSIONS, Bench

GRAPHS = ["encoder", "language_model"]
WARNED = {"TROUBLE": "messages", "TROUBLE_GRAPH": "language_model"}
NORM_LAYERS = 25  # two layers, so five norms, of Pow, ReduceMean, Add, Sqrt, Div
FILES = {f"{graph}.{ending}" for graph in GRAPHS for ending in ("plan", "inspector.json", "log")} | {"engine.json"}


@pytest.mark.parametrize("version", VERSIONS)
def test_two_plans_and_their_record(bench: Bench, version: str) -> None:
    ran = bench(version=version)
    assert ran.returncode == 0, ran.stderr
    folder = bench.bundle / "engines" / f"nvidia-fake-9000-trt{version}-fp16"
    assert [path.name for path in (bench.bundle / "engines").iterdir()] == [folder.name]
    assert {path.name for path in folder.iterdir()} == FILES
    assert folder.stat().st_mode & 0o777 == 0o755
    record, manifest = EngineRecord.read(folder), Bundle.open(bench.bundle).manifest
    assert (record.tensorrt, record.gpu, record.compute_capability) == (version, "NVIDIA Fake 9000", "9.0")
    assert (record.precision, record.strongly_typed, record.opt_level) == ("fp16", version != "8.6.0", 3)
    assert record.cuda and record.driver
    for graph in GRAPHS:
        plan, source = record.plans[graph], "encoder" if graph == "encoder" else f"{graph}.stacked"
        data = (folder / plan.plan).read_bytes()
        assert (plan.bytes, plan.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        assert plan.source == f"{source}.onnx"
        assert plan.source_sha256 == manifest.files[plan.source].sha256
        assert plan.weights_sha256 == manifest.files[manifest.weights[source]].sha256
        count = count_layers((folder / f"{graph}.inspector.json").read_text())
        assert (plan.layers, plan.reformats) == (count.layers, 0)
        assert plan.layers > 0 and plan.seconds >= 0 and not plan.warm
    spec = manifest.language_model
    axes = ("M", "B", str(2 * spec.layers * spec.kv_heads), str(spec.head_dim))
    assert list(record.plans) == GRAPHS
    assert record.plans["language_model"].inputs[PAST] == axes
    profiles = record.plans["language_model"].profiles
    assert list(profiles) == ["prefill", "decode"], "the order is their number in the plan"
    assert profiles["prefill"] == {"B": (1, 1, 1), "M": (1, 1, 1), "T": (1, 800, 1024)}
    assert profiles["decode"] == {"B": (1, 1, 1), "M": (512, 1024, 1024), "T": (1, 1, 1)}
    assert f"Engines {folder}: TensorRT {version}, NVIDIA Fake 9000, fp16." in ran.stdout
    assert "graph           seconds  timing  plan MB  layers  reformats\nencoder " in ran.stdout
    assert f"Next: python run_engine.py --bundle {bench.bundle} --backend tensorrt" in ran.stdout


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("bench", ["fp32", "fp16"], indirect=True)
def test_settings_by_version(bench: Bench, version: str) -> None:
    bench.facts(version=version)
    fp16 = bench.record(version).precision == "fp16"
    for graph in GRAPHS:
        facts, plan = bench.plan_facts(graph, version), bench.record(version).plans[graph]
        chosen = version == "8.6.0" and fp16 and graph == "language_model"
        assert sorted(facts["flags"]) == (["FP16", "PREFER_PRECISION_CONSTRAINTS"] if chosen else [])
        assert facts["pinned"] == (NORM_LAYERS if chosen else 0)
        assert facts["preview"] == ([] if version == "11.4.0" else ["PROFILE_SHARING_0806"])
        assert facts["reformats"] == [], "every input and output is linear"
        assert facts["verbosity"] == "DETAILED"
        assert (facts["opt_level"], facts["hardware_compatible"]) == (3, "NONE")
        assert len(facts["profiles"]) == len(plan.profiles)
        assert all(profile.keys() == plan.inputs.keys() for profile in facts["profiles"])
    prefill, decode = facts["profiles"]
    heads = decode[PAST][0][2:]
    assert prefill[PAST] == [[1, 1, *heads]] * 3
    assert decode[PAST] == [[512, 1, *heads], [1024, 1, *heads], [1024, 1, *heads]]
    assert (prefill["input_ids"], decode["input_ids"]) == ([[1, 1], [1, 800], [1, 1024]], [[1, 1]] * 3)


def test_bf16_needs_strong_types(bench: Bench, made: object) -> None:
    bundle = made("bf16")  # type: ignore[operator]
    other = Bench(bundle, bench.cache)
    assert other.refused() == (
        "the bundle is in bf16, which TensorRT 8.6.0 does not have. "
        "Use TensorRT 9 or newer, or export again with --precision fp16."
    )
    assert not (bundle / "engines").exists()


@pytest.mark.parametrize("version", ["8.6.0", "11.4.0"])
def test_options_reach_the_builder(bench: Bench, version: str) -> None:
    cache = bench.cache / "mine.cache"
    limits = ["--max_batch", 3, "--max_voxels", 5000, "--max_point_tokens", 300, "--max_length", 700]
    others = ["--opt_level", 5, "--workspace", 1.5, "--timing_cache", cache, "--device", "cuda:1"]
    bench.facts(*limits, *others, "--version_compatible", "--hardware_compatible", "--jobs", 3, version=version)
    facts, record = bench.plan_facts("encoder", version), bench.record(version)
    assert (facts["opt_level"], facts["hardware_compatible"], facts["version_compatible"]) == (5, "AMPERE_PLUS", True)
    assert (record.opt_level, record.hardware_compatible, record.version_compatible) == (5, True, True)
    encoder = record.plans["encoder"].profiles["encoder"]
    assert encoder["N0"] == (1, 3334, 5000)
    assert encoder["P"][2] == 300
    prefill, decode = record.plans["language_model"].profiles.values()
    assert prefill == {"B": (1, 1, 3), "M": (1, 1, 1), "T": (1, 700, 700)}
    assert decode == {"B": (1, 1, 3), "M": (512, 700, 700), "T": (1, 1, 1)}
    assert cache.is_file()


def test_islands_are_chosen(bench: Bench) -> None:
    pinned = {}
    for islands in (["norm", "softmax", "elementwise"], ["softmax"], []):
        bench.facts("--islands", *islands)
        encoder, told = (bench.plan_facts(graph) for graph in GRAPHS)
        assert (encoder["flags"], encoder["pinned"]) == ([], 0), "its body is float32 whatever the language model is"
        assert sorted(told["flags"]) == ["FP16", "PREFER_PRECISION_CONSTRAINTS"]
        assert bench.record().plans["language_model"].islands == tuple(islands)
        pinned[len(islands)] = told["pinned"]
    assert 0 == pinned[0] < pinned[1] < pinned[3]
    bench.facts("--islands", "norm", "all")
    told, record = bench.plan_facts("language_model"), bench.record()
    assert (told["flags"], told["pinned"], record.plans["language_model"].islands) == ([], 0, ()), "float32 as a whole"


def test_products_held_in_half(bench: Bench) -> None:
    bench.facts("--islands", "half")
    spec = Bundle.open(bench.bundle).manifest.language_model
    products = 4 * spec.layers + 1  # q k v, o, gate and up, down; the head
    assert bench.plan_facts("language_model")["pinned"] >= products


@pytest.mark.parametrize("version", VERSIONS)
def test_a_border_without_copies(bench: Bench, version: str) -> None:
    bench.facts("--direct_io", "--islands", "half", "all", version=version)
    assert bench.plan_facts("language_model", version)["flags"] == ["DIRECT_IO"]


@pytest.mark.parametrize("version", VERSIONS)
def test_separate_plans(bench: Bench, version: str) -> None:
    """Prefill and decode each with a plan and a profile of its own; the encoder stays when the layout changes."""
    bench.facts(version=version)
    separate = replace(bench, language_model="separate")
    facts = separate.facts("--graphs", "prefill", "decode", "--max_length", 700, "--jobs", 2, version=version)
    assert {name: graph["built"] for name, graph in facts["graphs"].items()} == {
        "encoder": False,
        "prefill": True,
        "decode": True,
    }
    record, manifest = bench.record(version), Bundle.open(bench.bundle).manifest
    assert (list(record.plans), record.language_model) == (["encoder", "prefill", "decode"], "separate")
    assert not (bench.folder(version) / "language_model.plan").exists()
    assert record.plans["prefill"].profiles == {"prefill": {"B": (1, 1, 1), "S": (1, 700, 700)}}
    assert record.plans["decode"].profiles == {"decode": {"B": (1, 1, 1), "T": (1, 1, 1), "M": (512, 700, 700)}}
    assert record.plans["decode"].inputs.keys() == {"input_ids", "cos", "sin", "past_length", PAST}
    for graph in ("prefill", "decode"):
        plan, told = record.plans[graph], separate.plan_facts(graph, version)
        assert (plan.source, plan.reformats) == (f"{graph}.stacked.onnx", 0)
        assert plan.source_sha256 == manifest.files[plan.source].sha256
        assert told["pinned"] == (NORM_LAYERS if version == "8.6.0" else 0)
        assert plan.islands == (("norm",) if version == "8.6.0" else ())
    assert "there is no language_model engine" not in separate.refused("--graphs", "language_model", version=version)
    said = bench.refused("--graphs", "encoder", version=version)
    assert "the record there has no language_model engine. Build all graphs: leave out --graphs." in said


@pytest.mark.parametrize("version", VERSIONS)
def test_cold_then_warm(bench: Bench, version: str) -> None:
    """Warm is said of a graph whose kernels a build before has timed, with the same settings."""

    def warm(*arguments: object) -> list[bool]:
        facts = bench.facts(*arguments, version=version)
        return [graph["warm"] for graph in facts["graphs"].values()]

    assert warm() == [False, False]
    assert warm() == [True, True]
    assert warm("--max_length", 600) == [True, False], "the encoder knows no length"
    assert warm("--max_length", 600) == [True, True]
    [cache] = (bench.cache / "spatiallm-export").glob("*.cache")
    assert cache.name == f"timing-nvidia-fake-9000-trt{version}.cache"
    assert len(json.loads(cache.read_bytes())["known"]) == 3
    cache.unlink()
    assert warm() == [False, False]


def test_jobs_at_the_same_time_share_one_cache(bench: Bench) -> None:
    bench.facts("--jobs", 3)
    [cache] = (bench.cache / "spatiallm-export").glob("*.cache")
    assert len(json.loads(cache.read_bytes())["known"]) == 2
    assert all(plan.warm for plan in (bench.facts(), bench.record())[1].plans.values())


def test_a_foreign_timing_cache_is_left_alone(bench: Bench, tmp_path: Path) -> None:
    cache = tmp_path / "foreign.cache"
    for content in (json.dumps({"version": "10.16.1", "known": ["k"]}), "damaged"):
        cache.write_text(content)
        facts = bench.facts("--timing_cache", cache)
        assert cache.read_text() == content
        note = (
            f"{cache}: the timing cache is damaged, or of another GPU or TensorRT; it is not used, nor changed. "
            "Delete it, or choose another --timing_cache."
        )
        assert facts["notes"].count(note) == 1


def test_progress_with_time_left_where_tensorrt_tells_it(bench: Bench) -> None:
    for version, percent in (("8.6.0", False), ("11.4.0", True)):
        ran = bench(version=version)
        assert "Building language_model" in ran.stderr
        assert ("100%" in ran.stderr and "left" in ran.stderr) == percent
        assert bench("--quiet", version=version).stderr == ""


def test_a_library_that_prints_disturbs_nothing(bench: Bench) -> None:
    facts = bench.facts(TROUBLE="print", TROUBLE_GRAPH="language_model")
    assert facts["graphs"]["language_model"]["bytes"] > 1000
    assert "noise of a library" in (bench.folder() / "language_model.log").read_text()


@pytest.mark.parametrize("version", VERSIONS)
def test_tensorrt_writes_the_log_itself(bench: Bench, version: str) -> None:
    """Python code is called for no message: of verbose ones a build has hundreds of thousands."""
    bench.facts(version=version, **WARNED)
    log = (bench.folder(version) / "language_model.log").read_text()
    assert "[TRT] [I] Total Host Persistent Memory" in log
    assert "[TRT] [W] a warning twice" in log
    assert "verbose" not in log
    warnings = bench.record(version).plans["language_model"].warnings
    assert warnings[-2:] == ("a warning twice", "another")
    assert "another" not in bench.record(version).plans["encoder"].warnings
    assert f"{len(warnings)} for language_model); they are in" in bench(version=version, **WARNED).stdout
    bench.facts(version=version, **WARNED, SPATIALLM_TENSORRT_LOG="verbose")
    assert "[TRT] [V] verbose" in (bench.folder(version) / "language_model.log").read_text()
    assert bench.record(version).plans["language_model"].warnings == warnings


@pytest.mark.parametrize("version", VERSIONS)
def test_neither_torch_nor_onnx_is_needed(bench: Bench, version: str) -> None:
    ran = bench("--quiet", version=version, TROUBLE="without:torch,onnx,transformers,safetensors,huggingface_hub")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert {path.name for path in bench.folder(version).iterdir()} == FILES
    ran = bench("--quiet", version=version, TROUBLE="without:tensorrt")
    assert ran.stderr == (
        "python -m export.build: building engines needs the package 'tensorrt', which is not installed. "
        "Install it: pip install '.[tensorrt]'\n"
    )
