"""The GPU's benchmarks, on the CPU and on a GPU made of host memory, and what they measure with."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.gpu import case, compare, compiled, loaded, profile, report, table
from benchmarks.gpu.static_model import ATTENTIONS, StaticModel, TokenLoop
from export.modules import Decode, Encoder, LanguageModel, Prefill
from runtime.bundle import Bundle
from runtime.points import encoder_inputs, grid_sample
from tests.benchmarks.conftest import Benchmark
from tests.cli.conftest import CLOUD, write_ply
from tests.compare import EXACT, Tol, assert_close
from tests.exported import FAMILIES, Export, Exported
from tests.fake_gpu_fixture import fake_gpu  # noqa: F401
from tests.scenes import room

SIZES = ("--prompt", 60, "--points", 40, "--new_tokens", 24, "--forced", 6)
FLOAT32 = Tol(2e-4, 1e-4, why="two layers of float32 in another order, logits of size 10")
PARITY = ("prefill_parity", "forced_parity", "followed_parity", "free_parity", "encoder_parity")


@pytest.fixture
def made(exported: Export) -> Exported:
    return exported("qwen", "3D_RoPE", "3D_only", segment_layers=1)


@pytest.fixture
def reference(benchmark: Benchmark, made: Exported, tmp_path: Path) -> Path:
    """A small reference of the bundle's checkpoint, on the CPU."""
    path, scene = tmp_path / "ref.npz", write_ply(tmp_path / "scene.ply", CLOUD)
    mode = ("--VLM_PE", "3D_RoPE", "--PCD_PE_Merge_Rule", "3D_only", "--precision", "fp32", "--device", "cpu")
    arguments = ("--model", made.checkpoint.folder, "--output", path, "--point_cloud", scene)
    facts = benchmark("gpu.reference", *arguments, *SIZES, *mode).facts
    assert facts["transformers"]["max_abs"] < 1e-4
    return path


def engines(benchmark: Benchmark, made: Exported, reference: Path, *more: object) -> dict[str, Any]:
    output = reference.with_name("result.json")
    few = ("--tokens", 12, "--runs", 2)
    arguments = ("--bundle", made.bundle.folder, "--reference", reference, "--output", output)
    facts = benchmark("gpu.engines", *arguments, *few, *more).facts
    assert facts == json.loads(output.read_text())
    return facts


def test_engines_agree_with_the_reference(benchmark: Benchmark, made: Exported, reference: Path) -> None:
    facts = engines(benchmark, made, reference, "--backend", "onnxruntime")
    assert [facts[name]["passed"] for name in PARITY] == [True] * 5
    assert facts["parity_passed"] is True
    assert facts["followed_parity"]["equal"] == facts["free_parity"]["equal_until"] == 24
    assert facts["decode_plain_speed"]["per_token"]["runs"] == 11
    assert facts["load"]["first_token"] == int(case.Case.read(reference).arrays["free.tokens"][0])


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("wanted.logits", "prefill_parity"),
        ("wanted.rows", "prefill_parity"),
        ("forced.logits", "forced_parity"),
        ("free.tokens", "followed_parity"),
        ("wanted.point_tokens", "encoder_parity"),
    ],
)
def test_engines_that_disagree_are_found(
    benchmark: Benchmark, made: Exported, reference: Path, name: str, part: str
) -> None:
    arrays = {key: value for key, value in case.Case.read(reference).arrays.items() if key != "facts"}
    wrong = arrays[name].copy()
    wrong[-1] = wrong[-1][..., ::-1] if wrong.ndim > 1 else (wrong[-1] + 1) % 1000
    case.write_case(reference, arrays | {name: wrong}, {})
    facts = engines(benchmark, made, reference, "--backend", "onnxruntime", "--parts", "parity")
    assert facts[part]["passed"] is False
    assert facts["parity_passed"] is False


def test_a_part_that_fails_leaves_the_others(benchmark: Benchmark, made: Exported, reference: Path) -> None:
    arrays = {key: value for key, value in case.Case.read(reference).arrays.items() if key != "facts"}
    del arrays["forced.logits"]
    case.write_case(reference, arrays, {})
    facts = engines(benchmark, made, reference, "--backend", "onnxruntime", "--parts", "parity")
    assert "forced.logits" in facts["forced_parity"]["error"]
    assert facts["encoder_parity"]["passed"] is True
    assert facts["parity_passed"] is False


@pytest.mark.parametrize("version", ["8.6.0", "10.16.1"])
def test_on_a_gpu_of_host_memory(
    fake_gpu: Callable[..., Any],  # noqa: F811
    benchmark: Benchmark,
    made: Exported,
    reference: Path,
    tmp_path: Path,
    version: str,
) -> None:
    gpu = fake_gpu(version)
    copy = shutil.copytree(made.bundle.folder, tmp_path / "bundle")  # other tests share the exported one
    made = dataclasses.replace(made, bundle=Bundle.open(copy))
    built(benchmark, made, reference)
    facts = engines(benchmark, made, reference)
    assert facts["parity_passed"] is True
    for name in ("decode_device_loop_speed", "decode_device_graph_speed"):
        assert facts[name]["same_as_plain_loop"] is True
        assert facts[name]["graph_refused"] is None
    assert facts["load"]["tensorrt"] == version
    assert facts["load"]["plans_forgotten_by_system"] is hasattr(os, "posix_fadvise")
    [folder] = [found for name, found in facts["memory"]["plans"].items() if f"trt{version}-" in name]
    decode = ["decode.0", "decode.1", "decode.2"] if version == "8.6.0" else ["decode"]
    assert [plan for plan in folder["plans"] if plan.startswith("decode")] == decode
    assert list(folder["plans"][decode[0]]["profiles"]) == ["decode"]
    assert not [plan for plan in folder["plans"].values() if None in plan.values()]
    assert facts["memory"]["scratch_bytes"] > 0
    assert facts["load"]["total_mb"] > 0
    profiled(benchmark, gpu, made, reference)
    scene(benchmark, made, reference)


def built(benchmark: Benchmark, made: Exported, reference: Path) -> None:
    """Cold, then warm, with a timing cache of its own."""
    output, cache = reference.with_name("build.json"), reference.with_name("timing.cache")
    limits = ("--max_length", 1000, "--opt_level", 2)
    arguments = ("--bundle", made.bundle.folder, "--output", output, "--rounds", 2, "--timing_cache", cache, *limits)
    facts = benchmark("gpu.build", *arguments).facts
    assert facts["opt_level"] == 2
    for number, warm in ((1, False), (2, True)):
        part = facts[f"build_{number}"]
        assert [plan["warm"] for plan in part["graphs"].values()] == [warm] * len(part["graphs"])
        assert part["seconds"] >= max(plan["seconds"] for plan in part["graphs"].values())
        decode = next(ranges for plan, ranges in part["profiles"].items() if plan.startswith("decode"))
        assert decode["decode"]["M"] == [512, 1000, 1000]
    assert (
        table.again([facts], table.label(facts), "engines", "encoder")
        == facts["build_2"]["graphs"]["encoder"]["seconds"]
    )


def profiled(benchmark: Benchmark, gpu: Any, made: Exported, reference: Path) -> None:
    """Every run reports two layers; the profile has them once, averaged."""

    def report_to_profiler(context: Any) -> bool:
        assert context.enqueue_emits_profile is False
        context.profiler.report_layer_time("Reformatting CopyNode for Input Tensor 0 to x", 0.25)
        context.profiler.report_layer_time("{ForeignNode[a...b]}", 1.0)
        return True

    gpu.tensorrt.IExecutionContext.report_to_profiler = report_to_profiler
    output = reference.with_name("profile.json")
    arguments = ("--bundle", made.bundle.folder, "--reference", reference, "--output", output, "--runs", 4)
    facts = benchmark("gpu.profile", *arguments).facts
    for graph in profile.GRAPHS:
        segments = 3 if gpu.tensorrt.__version__ == "8.6.0" and graph != "encoder" else 1  # whose layers have one name
        times = {"compiled node": 1.0 * segments, "reformat": 0.25 * segments}
        kinds = {kind: {"layers": 1, "ms": ms} for kind, ms in times.items()}
        assert facts[graph]["kinds"] == kinds
        assert facts[graph]["run_ms"] > 0
    assert [layer["ms"] for layer in facts["encoder"]["slowest"]] == [1.0, 0.25]


def scene(benchmark: Benchmark, made: Exported, reference: Path) -> None:
    """Both back ends, the same stages; the text goes on past stop tokens."""
    output, cloud = reference.with_name("scene.json"), reference.with_name("scene.ply")
    common = ("--bundle", made.bundle.folder, "--output", output, "--point_cloud", cloud, "--repeats", 1)
    ours = benchmark("gpu.scene", *common, "--new_tokens", 30).facts
    torch_side = ("--backend", "torch", "--model", made.checkpoint.folder, "--device", "cpu")
    theirs = benchmark("gpu.scene", *common, "--new_tokens", 30, *torch_side).facts
    assert tuple(ours["stages"]["milliseconds"]) == tuple(theirs["stages"]["milliseconds"]) == table.STAGES
    assert ours["stages"]["generated_tokens"] == theirs["stages"]["generated_tokens"] == 30
    assert ours["stages"]["prompt_tokens"] == theirs["stages"]["prompt_tokens"]
    assert ours["pipeline"]["total_ms"] > 0


def test_the_pytorch_baseline(benchmark: Benchmark, made: Exported, reference: Path) -> None:
    scene = reference.with_name("scene.ply")
    arguments = ("--model", made.checkpoint.folder, "--output", reference.with_name("torch.json"), "--device", "cpu")
    ways = ("--candidates", "heads/none", "sdpa/none", "--prefills", "none", "--reference", reference)
    few = ("--prompt", 60, "--points", 40, "--tokens", 10, "--eager_tokens", 4, "--precision", "fp32")
    facts = benchmark("gpu.torch_baseline", *arguments, *ways, *few, "--point_cloud", scene).facts
    assert facts["static_parity"]["max_abs"] < 1e-4
    assert facts["reference_parity"]["forced"]["max_abs"] < 1e-4
    assert facts["decode_sdpa/none"]["tokens_of_uncompiled_kept"] == 10
    times = [facts[f"decode_{name}/none"]["per_token"]["ms"] for name in ("heads", "sdpa")]
    assert facts["best"]["decode"]["ms"] == min(times)


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_static_model_computes_what_the_modules_do(exported: Export, family: str, attention: str) -> None:
    made = exported(family)
    spec, tensors = made.bundle.manifest.language_model, made.checkpoint.float_tensor
    rng = np.random.default_rng(3)
    arrays = case.prefill_inputs(spec, made.bundle.manifest.position, 28, 9, "fp32")
    table_ = torch.from_numpy(rng.uniform(-1, 1, (2, 32, spec.head_dim)).astype(np.float32))
    static = StaticModel(spec, tensors, (table_[0], table_[1]), attention)
    modules = LanguageModel(made.checkpoint.config, tensors)
    inputs = {name: torch.from_numpy(array) for name, array in arrays.items()}
    want = Prefill(modules)(**inputs)
    names = ("input_ids", "point_embeds", "point_mask", "cos_1d", "sin_1d")
    got = static.prefill(*(inputs[name][0] for name in names))
    assert_close("prefill", got, want["logits"], FLOAT32)
    past = {f"past_{name}": rows for name, rows in want.items() if name != "logits"}
    step = Decode(modules)(torch.tensor([[7]]), *table_[:, None, 28:29], torch.tensor([28]), **past)
    assert_close("step", static.step(torch.tensor([7]), torch.tensor([28])), step["logits"][:, 0], FLOAT32)
    assert_close("row", static.layers[1].key[:, 28], step["key.1"][0, 0], FLOAT32)


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_left_on_the_host(exported: Export, family: str) -> None:
    """On the meta device a tensor that was made elsewhere is an error, as it would be on a GPU."""
    made, meta = exported(family, "3D_RoPE", "3D_only", "full"), torch.device("meta")
    spec = made.bundle.manifest.language_model

    def tensors(name: str) -> torch.Tensor:
        return made.checkpoint.float_tensor(name).to(meta)

    def place(arrays: dict[str, Any]) -> dict[str, torch.Tensor]:
        return {name: torch.from_numpy(np.ascontiguousarray(array)).to(meta) for name, array in arrays.items()}

    model = LanguageModel(made.checkpoint.config, tensors)
    inputs = place(case.prefill_inputs(spec, made.bundle.manifest.position, 28, 9, "fp16"))
    rows = Prefill(model)(**inputs)
    Prefill(model, "full")(**inputs)
    past = {f"past_{name}": tensor for name, tensor in rows.items() if name != "logits"}
    half = torch.zeros(1, 1, spec.head_dim, device=meta)
    ids, length = torch.zeros(1, 1, dtype=torch.int32, device=meta), torch.full((1,), 28, device=meta)
    Decode(model)(ids, half, half, length, **past)
    encoder = made.bundle.manifest.encoder
    feeds = place(encoder_inputs(grid_sample(room(1, 300), encoder.num_bins), encoder).feeds)
    points = Encoder(made.checkpoint.config, tensors)(feeds)
    assert points.device == rows["logits"].device == meta
    static = StaticModel(spec, tensors, (half[0].expand(32, -1), half[0].expand(32, -1)))
    loop = TokenLoop(static.step, meta, 4)
    loop.once()
    assert loop.tokens.device == meta


def test_inputs_fit_into_the_precision_and_mark_the_points(exported: Export) -> None:
    manifest = exported("qwen", "3D_RoPE", "3D_only").bundle.manifest
    arrays = case.prefill_inputs(manifest.language_model, manifest.position, 50, 30, "fp16")
    embeds, mask = arrays["point_embeds"], arrays["point_mask"][0]
    assert embeds.dtype == np.float32
    assert_close("fp16", embeds.astype(np.float16), embeds, EXACT)
    assert mask.sum() == 30
    assert np.array_equal((arrays["cos_3d"] != arrays["cos_1d"]).any(-1)[0], mask)
    cut = case.rounded(embeds, "bf16")
    assert_close("bf16", torch.from_numpy(cut).bfloat16().float(), cut, EXACT)


def test_points_must_fit_into_the_prompt(exported: Export) -> None:
    manifest = exported("qwen").bundle.manifest
    with pytest.raises(ValueError, match="40 point tokens behind 15 others need a prompt of 55, not 54"):
        case.prefill_inputs(manifest.language_model, manifest.position, 54, 40, "fp16")


def test_rows_of_both_dialects_are_the_same() -> None:
    rng, (layers, heads) = np.random.default_rng(0), (3, 2)
    stacked = rng.normal(size=(7, 1, 2 * layers * heads, 4)).astype(np.float16)
    pieces = np.split(stacked, 2 * layers, axis=2)
    names = [f"{kind}.{layer}" for kind in ("key", "value") for layer in range(layers)]
    by_layer = compare.layer_rows(dict(zip(names, pieces, strict=True)), layers, heads)
    assert by_layer.shape == (6, 7, 2, 4)
    assert_close("rows", compare.layer_rows({"rows": stacked}, layers, heads), by_layer, EXACT)


def test_tokens_may_differ_only_where_it_was_a_coin_toss() -> None:
    want, margin = np.array([1, 2, 3, 4]), np.array([1.0, 0.1, 1.0, 1.0])
    tossed, wrong = np.array([1, 9, 9, 9]), np.array([1, 2, 9, 4])
    assert compare.tokens_running_free(want, want, margin, 0.05)["passed"]
    free = compare.tokens_running_free(tossed, want, margin, 0.05)
    assert free == {"of": 4, "equal_until": 1, "margin_there": 0.1, "passed": True}
    assert not compare.tokens_running_free(tossed, want, margin, 0.04)["passed"]
    assert not compare.tokens_running_free(wrong, want, margin, 0.05)["passed"]
    assert not compare.tokens_running_free(want[:3], want, margin, 0.05)["passed"]
    assert compare.tokens_in_step(np.array([1, 9, 3, 4]), want, margin, 0.05)["passed"]
    assert not compare.tokens_in_step(wrong, want, margin, 0.05)["passed"]


def test_closeness_sees_one_bad_row() -> None:
    want = np.random.default_rng(0).normal(size=(5, 40)).astype(np.float32)
    got = want.copy()
    got[3, 7] += 0.5
    facts = compare.closeness(got, want)
    assert facts["cosine_min"] < 0.9999 < compare.closeness(want, want)["cosine_min"]
    assert facts["max_abs"] == pytest.approx(0.5, abs=1e-6)
    got[0, 0] = np.nan
    assert not compare.closeness(got, want)["cosine_min"] >= 0.0


def test_a_report_names_what_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = report.Report(tmp_path / "result.json", "nothing", {"precision": "fp16"})

    def fails() -> dict[str, Any]:
        raise ValueError("no such thing")

    assert facts.part("good", lambda: {"ms": 1.0}) is not None
    assert facts.finish() == 0
    assert facts.part("bad", fails) is None
    assert facts.finish() == 1
    written = json.loads((tmp_path / "result.json").read_text())
    assert written["good"]["ms"] == 1.0
    assert written["bad"]["error"] == "ValueError: no such thing"
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == written


def test_files_that_the_system_cannot_forget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (whole := tmp_path / "a.plan").write_bytes(b"x" * 5000)
    assert loaded.forget_pages([whole]) is hasattr(os, "posix_fadvise")
    assert not loaded.forget_pages([tmp_path / "none.plan"])
    monkeypatch.delattr(os, "posix_fadvise", raising=False)
    assert not loaded.forget_pages([whole])
    assert whole.read_bytes() == b"x" * 5000


def test_absolute_paths_stay_out_of_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["x", "--bundle", "/somewhere/else/bundle", "--output", "results/a.json"])
    assert report.command_line("scene") == "python -m benchmarks.gpu.scene --bundle bundle --output results/a.json"


def test_compiling_has_a_time_limit() -> None:
    with pytest.raises(TimeoutError, match="not done after 1 s"), compiled.limit(1):
        while True:
            pass
    with compiled.limit(1):
        pass


def test_kinds_of_layers() -> None:
    types = {"a": "gemm", "b": "Reformat"}
    kinds = [profile.kind(name, types) for name in ("a", "b", "Reformatting CopyNode for x", "__myl_Fc", "c")]
    assert kinds == ["gemm", "reformat", "reformat", "compiled node", "other"]


def result(benchmark: str, **facts: Any) -> dict[str, Any]:
    model = {"family": "qwen", "layers": 24, "hidden_size": 896}
    return {"benchmark": benchmark, "model": model, "precision": "fp16", **facts}


def test_tables_join_results_of_one_model() -> None:
    made = {"bytes": 1_270_000_000, "seconds": 120.4, "layers": 9, "reformats": 3}
    plans, warm = {"h200": {"plans": {"language_model": made}}}, {"language_model": {"warm": True, "seconds": 60.2}}
    results = [
        result("torch_baseline", eager={"prefill": {"ms": 16.7}, "per_token": {"ms": 28.8}}, best={"error": "x"}),
        result(
            "engines",
            prefill_speed={"to_logits": {"ms": 3.991}},
            decode_device_graph_speed={"per_token": {"ms": 2.02}},
            forced_parity={"cosine_min": 0.99997},
            followed_parity={"equal": 255},
            prefill_parity={"error": "x"},
            parity_passed=False,
            reference={"vlm_pe": "3D_RoPE", "merge_rule": "3D_only"},
            memory={"plans": plans, "scratch_bytes": 2e6},
            load={"error": "out of memory"},
        ),
        result("build", build_1={"graphs": {"language_model": {"warm": False, "seconds": 90.0}}}),
        result("build", build_1={"graphs": warm}, build_2={"error": "x"}),
        result("scene", backend="tensorrt", stages={"milliseconds": {"encoder": 20.04}, "total_ms": 1_100.0}),
        result("scene", backend="torch", stages={"milliseconds": {"encoder": 80.0}, "total_ms": 12_000.0}),
    ]
    lines = table.tables(results).splitlines()
    assert "|  | Qwen 24x896 fp16: prefill ms | ms/token |" in lines
    assert "| transformers, eager | 16.70 | 28.80 |" in lines
    assert "| PyTorch: static cache, compiled, CUDA graph | – | – |" in lines
    assert "| the same, in a CUDA graph | 3.99 | 2.02 |" in lines
    assert "| logits of forced steps, least cosine | 0.9999700 |" in lines
    assert "| greedy tokens equal along PyTorch's text | 255 |" in lines
    assert "| encoder | 20.0 | 80.0 |" in lines
    assert "| total | 1,100.0 | 12,000.0 |" in lines
    assert "| language_model plan, MB | 1,270 |" in lines
    assert "| language_model built in s | 120 |" in lines
    assert "| language_model built again in s | 60 |" in lines
    assert "| language_model layers that only reformat | 3 |" in lines
    assert "| encoder built again in s | – |" in lines
    assert "|  | Qwen 24x896 fp16, 3D_only |" in lines
    assert "| all within what is promised | no |" in lines
    assert "| encoder plan, MB | – |" in lines
    assert "| from disk to the first token, s | – |" in lines


def test_modes_of_one_model_have_columns_of_their_own() -> None:
    modes = ({"vlm_pe": None, "merge_rule": None}, *({"vlm_pe": "3D_RoPE", "merge_rule": f"3D_{n}"} for n in "ab"))
    results = [
        result("engines", reference=facts, prefill_parity={}, followed_parity={"equal": place}, parity_passed=True)
        for place, facts in enumerate(modes)
    ]
    lines = table.parity_table(results).splitlines()
    assert lines[0] == "|  | Qwen 24x896 fp16 | Qwen 24x896 fp16, 3D_a | Qwen 24x896 fp16, 3D_b |"
    assert "| greedy tokens equal along PyTorch's text | 0 | 1 | 2 |" in lines
    assert lines[-1] == "| all within what is promised | yes | yes | yes |"


def test_engines_of_other_makers_have_rows_of_their_own() -> None:
    """Whichever file comes last: neither our kernel's nor ONNX Runtime's figures stand where TensorRT's belong."""

    def engines(token: float, **facts: Any) -> dict[str, Any]:
        speed = {"decode_device_graph_speed": {"per_token": {"ms": token}}}
        return result("engines", prefill_parity={}, parity_passed=True, **speed, **facts)

    results = [
        engines(1.64, backend="tensorrt", memory={"plans": {"h100": {"plugins": 0, "plans": {}}}}),
        engines(0.49, backend="tensorrt", memory={"plans": {"h100": {"plugins": 1, "plans": {}}}}),
        engines(7.65, backend="onnxruntime", memory={"plans": {}}),
    ]
    for given in (results, results[::-1]):
        lines = table.speed_table(given).splitlines()
        assert "| the same, in a CUDA graph | – | 1.64 |" in lines
        assert "| the same, with our kernels | – | 0.49 |" in lines
        assert "| ONNX Runtime | – | 7.65 |" in lines
    columns = "Qwen 24x896 fp16 | Qwen 24x896 fp16, our kernels | Qwen 24x896 fp16, ONNX Runtime"
    assert table.parity_table(results).splitlines()[0] == f"|  | {columns} |"
    assert table.size_table(results).splitlines()[0] == "|  | Qwen 24x896 fp16 | Qwen 24x896 fp16, our kernels |"


def test_scenes_and_builds_with_our_kernels_are_told_apart() -> None:
    """Whichever file comes last."""

    def build(seconds: float, plugins: bool) -> dict[str, Any]:
        return result("build", plugins=plugins, build_1={"graphs": {"prefill": {"warm": True, "seconds": seconds}}})

    plans = {"h100": {"plugins": 1, "plans": {"prefill": {"bytes": 1e6, "seconds": 9.0, "layers": 1, "reformats": 0}}}}
    results = [
        result("engines", backend="tensorrt", memory={"plans": plans}),
        build(60.0, plugins=False),
        build(7.0, plugins=True),
        *(
            result("scene", backend=backend, plugins=version, stages={"total_ms": total})
            for backend, version, total in (("tensorrt", 1, 300.0), ("tensorrt", 0, 900.0), ("torch", 0, 9000.0))
        ),
    ]
    for given in (results, results[::-1]):
        assert "| prefill built again in s | 7 |" in table.size_table(given).splitlines()
        lines = table.scene_table(given).splitlines()
        assert (
            lines[0] == "| ms | Qwen 24x896 fp16, our kernels | Qwen 24x896 fp16, tensorrt | Qwen 24x896 fp16, torch |"
        )
        assert lines[-1] == "| total | 300.0 | 900.0 | 9,000.0 |"


def test_tables_of_nothing_are_empty() -> None:
    assert table.tables([]) == ""
