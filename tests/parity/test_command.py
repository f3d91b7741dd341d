"""`python -m export.parity` and `python -m runtime.record` from the outside."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from export.bundle import ExportOptions, write_bundle
from export.parity.cli import main as parity
from runtime.commands.record import main as record
from runtime.rung import Recording
from tests.blocked import run_without
from tests.exported import Export, Exported
from tests.parity.reports import Page
from tests.scenes import room

SHORT = ("--forced_steps", "3", "--free_tokens", "5", "--no_cleanup")


@pytest.fixture
def case(exported: Export) -> Exported:
    return exported("qwen", "3D_RoPE", "3D_only", "causal")


@pytest.fixture
def cloud(tmp_path: Path) -> Path:
    path = tmp_path / "scene.npy"
    np.save(path, room(1, 4000, (4.0, 3.0, 2.5)).points)
    return path


def arguments(case: Exported, cloud: Path, *more: object) -> list[str]:
    fixed = ["--bundle", case.bundle.folder, "--model", case.checkpoint.folder, "--point_cloud", cloud]
    return [str(part) for part in (*fixed, *SHORT, *more)]


def test_a_ladder_with_a_rung_from_elsewhere(
    case: Exported, cloud: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rung, report, page = tmp_path / "rung.npz", tmp_path / "parity.json", tmp_path / "parity.html"
    fixed = ["--bundle", str(case.bundle.folder), "--point_cloud", str(cloud), "--output", str(rung)]
    assert record([*fixed, *SHORT, "--backend", "onnxruntime", "--rung", "robot", "--quiet"]) == 0
    assert parity(arguments(case, cloud, "--against", rung, "--report", report)) == 0
    said = capsys.readouterr().out
    for line in ("reference: the reference", "torch modules: equal;", "onnxruntime cpu: equal;", "robot: equal;"):
        assert line in said
    assert said.endswith("Verdict: equal.\n")
    assert parity(arguments(case, cloud, "--backends", "torch", "--report", page, "--quiet")) == 0
    assert "torch modules" in page.read_text()
    result = json.loads(report.read_text())
    rungs = result["scenes"][0]["rungs"]
    assert [each["rung"] for each in rungs] == ["reference", "torch modules", "onnxruntime cpu", "robot"]
    assert all(difference["within"] for each in rungs[1:] for difference in each["reference"]["differences"])


def test_a_bundle_of_another_checkpoint_is_different(
    case: Exported, exported: Export, cloud: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The checkpoint's weights changed after the export, say."""
    other = exported("qwen", "3D_RoPE", "3D_only", "causal", seed=5)
    wrong = Exported(other.checkpoint, case.bundle, case.prefill_attention)
    assert parity(arguments(wrong, cloud, "--json")) == 1
    result = json.loads(capsys.readouterr().out)
    assert result["verdict"] == "different"
    assert result["scenes"][0]["rungs"][2]["reference"]["departure"] == "point tokens"
    assert "differences" not in result["scenes"][0]["rungs"][2]["reference"]


def test_the_nine_checkpoints(case: Exported, cloud: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "parity.html"
    assert parity(arguments(case, cloud, "--taps", "1", "--report", page)) == 0
    sentence = "checkpoints 1, 2, 3, 4, 5, 6, 7, 8, 9 agree in 1 layer."
    assert f"checkpoints of onnxruntime cpu: equal; {sentence}" in capsys.readouterr().out
    assert sentence in page.read_text()
    assert parity(arguments(case, cloud, "--taps", "7")) == 2
    assert "--taps names layer '7', but the model has layers 0 to 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--forced_steps", "0"], "--forced_steps is 0, but at least 1 is needed."),
        (["--report", "parity.txt"], "parity.txt: the ending is '.txt', but .html or .json was expected."),
        (["--against", "nowhere.npz"], "nowhere.npz: not a recording of a rung"),
        (["--report", "nowhere/parity.html"], "nowhere/parity.html: cannot be written there."),
        (["--report", "{bundle}/manifest.json"], "manifest.json: lies inside the bundle"),
        (["--report", "{model}/config.json"], "config.json: lies inside the checkpoint"),
        (["--backends", "onnxruntime"], "scene.npy: there is one rung, which is compared with nothing. Add one:"),
        (["--backends", "torch", "onnxruntime-cuda", "--device", "cpu"], "--device is 'cpu', but it is of the rungs"),
        (["--taps", ""], "--taps names no layer."),
    ],
)
def test_refusals(
    case: Exported, cloud: Path, capsys: pytest.CaptureFixture[str], more: list[str], sentence: str
) -> None:
    places = {"{bundle}": str(case.bundle.folder), "{model}": str(case.checkpoint.folder)}
    for place, folder in places.items():
        more = [word.replace(place, folder) for word in more]
    assert parity(arguments(case, cloud, *more)) == 2
    assert sentence in capsys.readouterr().err


def test_the_nine_checkpoints_of_a_rung_from_elsewhere(
    case: Exported, cloud: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, rung, page = tmp_path / "bundle", tmp_path / "rung.npz", tmp_path / "parity.html"
    write_bundle(case.checkpoint, bundle, ExportOptions(precision="fp16", max_length=1024, taps=(1,)))
    there = ["--point_cloud", str(cloud), "--output", str(rung), *SHORT, "--backend", "onnxruntime", "--quiet"]
    assert record(["--bundle", str(bundle), *there, "--rung", "robot", "--taps"]) == 0
    assert parity(arguments(case, cloud, "--taps", "all", "--against", rung, "--report", page)) == 0
    said = capsys.readouterr().out
    assert "checkpoints of onnxruntime cpu: equal; checkpoints 1, 2, 3, 4, 5, 6, 7, 8, 9 agree in 2 layers." in said
    assert "checkpoints of robot: equal within precision; " in said
    assert "9 agree in 1 layer." in Page(page.read_text()).text
    recording = Recording.load(rung)
    del recording.arrays["tap9.key.1"]
    recording.save(rung)
    assert parity(arguments(case, cloud, "--taps", "all", "--against", rung)) == 2
    assert "robot: its recording has taps without tap9.key.1. Record it anew with --taps." in capsys.readouterr().err
    assert record(["--bundle", str(case.bundle.folder), *there, "--taps"]) == 2
    assert "has no graph 'prefill.taps', which shows queries and keys. Export it again with --taps all." in (
        capsys.readouterr().err
    )


def test_rungs_of_one_name_are_told_apart(
    case: Exported, cloud: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rung, other = tmp_path / "rung.npz", tmp_path / "other" / "rung.npz"
    fixed = ["--bundle", str(case.bundle.folder), "--point_cloud", str(cloud), "--output", str(rung)]
    assert record([*fixed, *SHORT, "--backend", "onnxruntime", "--quiet"]) == 0
    assert parity(arguments(case, cloud, "--backends", "onnxruntime", "--against", rung)) == 0
    assert "  onnxruntime cpu (rung.npz): equal;" in capsys.readouterr().out
    other.parent.mkdir()
    other.write_bytes(rung.read_bytes())
    assert parity(arguments(case, cloud, "--backends", "onnxruntime", "--against", rung, other)) == 2
    assert "--against names two recordings rung.npz of the rung onnxruntime cpu" in capsys.readouterr().err


def test_recordings_of_another_scene(
    case: Exported, cloud: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its name it would be left out without a word; by the same name it is another cloud."""
    rung = tmp_path / "rung.npz"
    fixed = ["--bundle", str(case.bundle.folder), "--point_cloud", str(cloud), "--output", str(rung)]
    assert record([*fixed, *SHORT, "--backend", "onnxruntime", "--quiet"]) == 0
    renamed = cloud.rename(tmp_path / "other.npy")
    assert parity(arguments(case, renamed, "--against", rung)) == 2
    assert "rung.npz: was recorded of 'scene.npy'. Give that scene too: --point_cloud" in capsys.readouterr().err
    np.save(cloud, room(2, 4000, (4.0, 3.0, 2.5)).points)
    assert parity(arguments(case, cloud, "--backends", "onnxruntime", "--against", rung)) == 2
    assert "its recording has another scene_sha256" in capsys.readouterr().err


def test_the_torch_rungs_need_a_checkpoint(case: Exported, cloud: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert parity(["--bundle", str(case.bundle.folder), "--point_cloud", str(cloud)]) == 2
    assert "--model must name the bundle's checkpoint" in capsys.readouterr().err


def test_recording_needs_neither_torch_nor_onnx(case: Exported, cloud: Path, tmp_path: Path) -> None:
    code = "import sys; from runtime.commands.record import main; sys.exit(main(sys.argv[1:]))"
    fixed = ["--bundle", str(case.bundle.folder), "--point_cloud", str(cloud), "--output", str(tmp_path / "r.npz")]
    result = run_without(("torch", "transformers", "onnx"), code, *fixed, *SHORT, "--backend", "onnxruntime", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["rung"] == "onnxruntime cpu"


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--output", "{cloud}"], "is the scene, which the output would replace. Name another output."),
        (["--output", "{bundle}/rung.npz"], "lies inside the bundle"),
        (["--output", "nowhere/rung.npz"], "nowhere/rung.npz: cannot be written there."),
        (["--output", "rung.npz", "--rung", "a\x1bb"], "--rung is 'a\\x1bb', but a name of printable characters"),
    ],
)
def test_recordings_that_are_refused_before_any_work(
    case: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], sentence: str
) -> None:
    cloud = tmp_path / "scene.npz"
    np.savez(cloud, points=room(1, 4000, (4.0, 3.0, 2.5)).points)
    before = cloud.read_bytes()
    places = {"{bundle}": str(case.bundle.folder), "{cloud}": str(cloud)}
    for place, name in places.items():
        more = [word.replace(place, name) for word in more]
    assert record(["--bundle", str(case.bundle.folder), "--point_cloud", str(cloud), *SHORT, *more]) == 2
    assert sentence in capsys.readouterr().err
    assert cloud.read_bytes() == before


def test_more_steps_than_the_cache_holds(case: Exported, cloud: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All rungs end where the cache does, the reference too, whose own cache has no end."""
    more = ("--forced_steps", "1000000000000", "--free_tokens", "1000000000000", "--json")
    assert parity(arguments(case, cloud, *more)) == 0
    tokens = [each["reference"]["tokens"] for each in json.loads(capsys.readouterr().out)["scenes"][0]["rungs"][1:]]
    assert {each["count"] == each["equal"] <= case.bundle.manifest.cache.capacity for each in tokens} == {True}


def test_numbers_that_are_none_become_null_in_json(
    case: Exported, cloud: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rung, report = tmp_path / "rung.npz", tmp_path / "parity.json"
    fixed = ["--bundle", str(case.bundle.folder), "--point_cloud", str(cloud), "--output", str(rung)]
    assert record([*fixed, *SHORT, "--backend", "onnxruntime", "--quiet"]) == 0
    recording = Recording.load(rung)
    recording.arrays["prefill.logits"][:] = np.nan
    recording.save(rung)
    more = ("--backends", "onnxruntime", "--against", rung, "--report", report, "--json")
    assert parity(arguments(case, cloud, *more)) == 1

    def refuse(word: str) -> None:
        raise AssertionError(word)

    for text in (capsys.readouterr().out, report.read_text()):
        assert json.loads(text, parse_constant=refuse)["verdict"] == "different"
    differences = json.loads(report.read_text())["scenes"][0]["rungs"][1]["reference"]["differences"]
    assert [d["error"] for d in differences if d["quantity"] == "logits after the prompt"] == [None]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
