"""`run_engine.py` on a good day: what it writes and what it prints."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import runtime.pipeline
from runtime import Pipeline, Request, Sampling
from runtime.arrays import Array
from runtime.points import clean_up, grid_sample
from runtime.prompt import Tokenizer
from tests.blocked import ROOT
from tests.cli.conftest import CLOUD, Command
from tests.compare import EXACT, Tol, assert_close
from tests.exported import Export, Exported

ANSWER = """\
wall_0=Wall(0,0,0,40,0,0,50,2)
door_0=Door(wall_0,20,0,21,18,42)
wall_1=Wall(too,few)
bbox_0=Bbox(bed,10,20,5,320,64,32,16)"""
MILLIMETRE = Tol(1e-9, why="float64")


@pytest.fixture
def answering(exported: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model says ANSWER and stops, whatever its logits are."""
    case: Exported = exported("qwen", "3D_RoPE", "3D_only")
    tokenizer = Tokenizer.load(case.bundle.folder, case.bundle.manifest.prompt)
    ids = tokenizer._tokenizer.encode(ANSWER, add_special_tokens=False).ids
    script = [*ids, case.bundle.manifest.generation.stop_token_ids[0]]

    class Answer:
        def __init__(self, *_: object) -> None:
            self.rest = iter(script)

        def __call__(self, _: Array) -> Array:
            return np.array([next(self.rest)], np.int32)

    monkeypatch.setattr(runtime.pipeline, "TokenChooser", Answer)


@pytest.mark.usefixtures("answering")
def test_text_and_json_hold_the_layout_in_metres(
    run_engine: Command, bundle: Path, scene: Path, tmp_path: Path
) -> None:
    low = CLOUD.points.min(axis=0)  # without cleaning, the cloud's own corner
    for ending in (".txt", ".json", ".TXT"):
        said = run_engine("-m", bundle, "-p", scene, "-o", tmp_path / f"out{ending}", "--no_cleanup")
        assert said.code == 0
        assert said.out.startswith(ANSWER + "\n")
        assert "1 wall, 1 door, 0 windows, 1 box (" in said.out
        assert "ended by stop token" in said.out
        assert said.err == "warning: line 3 of the generated text was not used (2 numbers, but Wall needs 8: " + (
            "ax, ay, az, bx, by, bz, height, thickness)\n"
        )
    lines = (tmp_path / "out.txt").read_text().split("\n")
    assert [line.split("=")[0] for line in lines] == ["wall_0", "door_0", "bbox_0"]
    wall = [float(value) for value in re.findall(r"[\d.e-]+(?=[,)])", lines[0].split("(")[1])]
    assert_close("wall", wall, [*low, low[0] + 2.0, *low[1:], 2.0, 0.08], MILLIMETRE)
    assert (tmp_path / "out.TXT").read_bytes() == (tmp_path / "out.txt").read_bytes()
    layout = json.loads((tmp_path / "out.json").read_text())
    box = layout["boxes"][0]
    assert_close("box", [box[f"position_{axis}"] for axis in "xyz"], np.add(low, (0.5, 1.0, 0.25)), MILLIMETRE)
    assert_close("sizes", [box[f"scale_{axis}"] for axis in "xyz"], [2.0, 1.0, 0.5], MILLIMETRE)
    assert [issue["line"] for issue in layout["issues"]] == [3]
    assert not list(tmp_path.glob(".*")), "no temporary file stays"


@pytest.mark.usefixtures("answering")
def test_the_notebook_lines(exported: Export, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README shows them; they are the package's docstring."""
    shown = (ROOT / "README.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    lines = [line for line in shown.splitlines() if line]
    assert lines == [line.strip() for line in (runtime.__doc__ or "").strip().splitlines()[2:]]
    assert len(lines) == 3
    shutil.copytree(exported("qwen", "3D_RoPE", "3D_only").bundle.folder, tmp_path / "bundle")
    monkeypatch.chdir(scene.parent)
    names: dict[str, object] = {}
    exec("\n".join(lines), names)
    layout = names["layout"]
    assert isinstance(layout, runtime.Layout)
    assert (len(layout.walls), len(layout.doors), len(layout.boxes), len(layout.issues)) == (1, 1, 1, 1)
    assert str(layout).startswith("wall_0=Wall(")


def test_an_output_without_ending_is_a_folder(engine: Command, tmp_path: Path) -> None:
    """As upstream has it."""
    assert engine("-o", tmp_path / "out.txt").code == 0
    assert engine("-o", tmp_path / "layouts").code == 0
    assert (tmp_path / "layouts" / "scene.txt").read_text() == (tmp_path / "out.txt").read_text()


def test_the_demos_room(run_engine: Command, bundle: Path, tmp_path: Path) -> None:
    said = run_engine(
        "-m", bundle, "-p", ROOT / "demo" / "room.ply", "-o", tmp_path / "out.txt", "--max_new_tokens", 2, "--json"
    )
    summary = json.loads(said.out)
    assert summary["points"] > 10_000
    assert summary["prompt_tokens"] > summary["point_tokens"] > 50


def test_json_is_one_object_on_stdout_and_nothing_else(engine: Command, bundle: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.txt"
    said = engine("-o", output, "--json", "--timings")
    summary = json.loads(said.out)
    assert said.out.count("\n") == 1
    result = Pipeline.load(bundle, threads=1)(CLOUD, Request(max_new_tokens=6))
    assert summary["text"] == result.text
    assert summary["output"] == str(output)
    assert summary["generated_tokens"] == 6
    assert summary["stopped_by"] == "max_new_tokens"
    assert (summary["points"], summary["voxels"]) == (300, result.report.voxels)
    assert (summary["point_tokens"], summary["prompt_tokens"]) == (
        result.report.point_tokens,
        result.report.prompt_tokens,
    )
    assert set(summary["milliseconds"]) == set(result.milliseconds)
    assert summary["tokens_per_second"] > 0
    assert f"{output}: " in said.err, "what people read goes to stderr"
    quiet = engine("-o", output, "--json", "--quiet")
    assert json.loads(quiet.out)["text"] == result.text
    assert quiet.err == ""


def test_quiet_prints_nothing(engine: Command, tmp_path: Path) -> None:
    said = engine("-o", tmp_path / "out.txt", "--quiet", "--timings")
    assert (said.code, said.out, said.err) == (0, "", "")
    assert (tmp_path / "out.txt").is_file()


def test_text_is_streamed_and_reported(engine: Command, bundle: Path, tmp_path: Path) -> None:
    text = Pipeline.load(bundle, threads=1)(CLOUD, Request(max_new_tokens=6)).text
    said = engine("-o", tmp_path / "out.txt")
    shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
    assert shown != text, "the case has a control character, which must not reach the terminal"
    assert said.out.startswith(shown + "\n")
    assert said.out.endswith("(6 tokens, ended by max_new_tokens).\n")


def test_timings_name_every_stage(engine: Command, tmp_path: Path) -> None:
    said = engine("-o", tmp_path / "out.txt", "--timings")
    stages = ["reading", "geometry", "prompt", "encoder", "prefill", "decode", "layout", "total"]
    found = re.findall(r"^  (\w+) +([\d.]+) ms$", said.out, re.MULTILINE)
    assert [stage for stage, _ in found] == stages
    times = [float(value) for _, value in found]
    assert sum(times[:-1]) == pytest.approx(times[-1], abs=0.5)
    assert re.search(r"^  [\d.]+ tokens/s while decoding$", said.out, re.MULTILINE)


def tensors(engine: Command, folder: Path, *more: object) -> dict[str, Array]:
    path = folder / "tensors.npz"
    assert engine("-o", folder / "out.txt", "--save_tensors", path, *more).code == 0
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def test_saved_tensors_are_what_entered_and_left_each_graph(engine: Command, bundle: Path, tmp_path: Path) -> None:
    got = tensors(engine, tmp_path, "--save_steps", 3)
    manifest = runtime.pipeline.Bundle.open(bundle).manifest
    spec = manifest.language_model
    rows = {f"{kind}.{layer}" for kind in ("key", "value") for layer in range(spec.layers)}
    tables = {f"{name}_{kind}" for name in ("cos", "sin") for kind in ("1d", "3d")}
    by_graph: dict[str, set[str]] = {}
    for name in got:
        graph, _, tensor = name.partition(".")
        by_graph.setdefault(graph, set()).add(tensor)
    assert by_graph.keys() == {"encoder", "prefill", "decode", "patch_coords", "tokens"}
    inputs = {"input_ids", "point_embeds", "point_mask", "lengths", *tables}
    assert by_graph["prefill"] == {*inputs, "logits", *rows}
    assert {"features", "grid", "neighbours.0", "order.4.1", "children.3", "point_tokens"} <= by_graph["encoder"]
    steps = {name.partition(".")[0] for name in by_graph["decode"]}
    assert steps == {"0", "1", "2"}
    for step in steps:
        found = {name.partition(".")[2] for name in by_graph["decode"] if name.startswith(f"{step}.")}
        assert found - {"past_length"} == {"input_ids", "cos", "sin", "logits", *rows}

    points, batch = len(got["patch_coords"]), 1
    length = got["prefill.input_ids"].shape[1]
    row = (spec.kv_heads, spec.head_dim)
    shapes = {
        "patch_coords": (points, 3),
        "tokens": (6,),
        "encoder.features": (got["encoder.neighbours.0"].shape[0], 6),
        "encoder.grid": (points, 3),
        "encoder.point_tokens": (points, spec.hidden_size),
        "prefill.point_embeds": (batch, length, spec.hidden_size),
        "prefill.cos_3d": (batch, length, spec.head_dim),
        "prefill.logits": (batch, spec.vocab_size),
        "prefill.key.1": (length, batch, *row),
        "decode.2.input_ids": (batch, 1),
        "decode.2.cos": (batch, 1, spec.head_dim),
        "decode.2.logits": (batch, 1, spec.vocab_size),
        "decode.2.value.0": (1, batch, *row),
    }
    assert {name: got[name].shape for name in shapes} == shapes
    mask = got["prefill.point_mask"][0]
    assert mask.sum() == points
    assert_close("embeds", got["prefill.point_embeds"][0, mask], got["encoder.point_tokens"], EXACT)
    assert_close("first token", got["tokens"][0], got["prefill.logits"][0].argmax(), EXACT)
    for step in range(3):
        assert_close("fed", got[f"decode.{step}.input_ids"][0, 0], got["tokens"][step], EXACT)
        assert_close("said", got["tokens"][step + 1], got[f"decode.{step}.logits"][0, 0].argmax(), EXACT)


@pytest.mark.parametrize(("steps", "kept"), [([], 5), (["--save_steps", 0], 0), (["--save_steps", 100], 5)])
def test_save_steps_limits_the_decode_steps(engine: Command, tmp_path: Path, steps: list[object], kept: int) -> None:
    got = tensors(engine, tmp_path, *steps)
    assert len({name.split(".")[1] for name in got if name.startswith("decode.")}) == kept


@pytest.mark.parametrize(
    ("options", "task"),
    [
        ([], "Detect walls, doors, windows, boxes. The"),
        (["-d", "arch"], "Detect walls, doors, windows. The"),
        (["-d", "object"], "Detect boxes. The"),
        (["--detect_type", "object", "--category", "bed", "nightstand"], "Detect bed, nightstand. The"),
        (["-c", "sofa"], "Detect walls, doors, windows, sofa. The"),
    ],
)
def test_type_and_categories_reach_the_prompt(
    engine: Command, bundle: Path, tmp_path: Path, options: list[str], task: str
) -> None:
    got = tensors(engine, tmp_path, *options)
    tokenizer = Tokenizer.load(bundle, runtime.pipeline.Bundle.open(bundle).manifest.prompt)
    assert task in tokenizer.decode(got["prefill.input_ids"][0])


def test_no_cleanup_takes_the_points_as_they_are(engine: Command, bundle: Path, tmp_path: Path) -> None:
    spec = runtime.pipeline.Bundle.open(bundle).manifest.encoder
    clean, raw = (
        json.loads(engine("-o", tmp_path / "out.txt", "--json", *more).out) for more in ([], ["--no_cleanup"])
    )
    assert raw["voxels"] == len(grid_sample(CLOUD, spec.num_bins))
    assert clean["voxels"] == len(grid_sample(clean_up(CLOUD, spec.grid_size), spec.num_bins))
    assert raw["voxels"] != clean["voxels"]


def test_drawing_repeats_with_a_seed(engine: Command, bundle: Path, tmp_path: Path) -> None:
    options = ["-o", tmp_path / "out.txt", "--json", "--temperature", 0.9, "--top_k", 50, "--top_p", 0.99]
    texts = [json.loads(engine(*options, "--seed", seed).out)["text"] for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    sampling = Sampling(temperature=0.9, top_k=50, top_p=0.99, seed=1)
    result = Pipeline.load(bundle, threads=1)(CLOUD, Request(max_new_tokens=6, sampling=sampling))
    assert result.text == texts[0]


def test_verbose_prints_the_hosts_part(engine: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPATIALLM_VERBOSE", "1")
    coords = tensors(engine, tmp_path)["patch_coords"]
    low, high = coords.min(axis=0), coords.max(axis=0)
    scale = (high - low).max()

    def ranges(low: Array, high: Array) -> str:
        return ", ".join(f"{axis}=[{a:.3f}, {b:.3f}]" for axis, a, b in zip("XYZ", low, high, strict=True))

    want = (
        "[Config] VLM_PE = 3D_RoPE (from bundle)\n"
        "[Config] PCD_PE_Merge_Rule = 3D_only\n"
        "[3D_RoPE] Initialized with PCD_PE_Merge_Rule=3D_only\n"
        f"[3D PE] Original patch_coords range: {ranges(low, high)}\n"
        f"[3D PE] Normalized with max_range={scale:.3f}, final range: {ranges(0 * low, (high - low) / scale)}\n"
    )
    assert want in engine("-o", tmp_path / "out.txt").out
    said = engine("-o", tmp_path / "out.txt", "--json")
    assert want in said.err
    json.loads(said.out)


def test_verbose_without_a_3d_encoding(
    run_engine: Command, exported: Export, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPATIALLM_VERBOSE", "1")
    said = run_engine(
        "-m", exported("llama").bundle.folder, "-p", scene, "-o", tmp_path / "o.txt", "--max_new_tokens", 1
    )
    assert "[Config] VLM_PE = None (from bundle)\n" in said.out
    assert "[3D" not in said.out
