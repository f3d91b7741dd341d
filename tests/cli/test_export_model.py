"""`export_model.py`: the bundle, the notes, the refusals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.bundle import Bundle
from tests.blocked import run_without
from tests.cli.conftest import Command

TinyCheckpoint = Callable[..., Path]


def test_a_bundle_and_what_comes_next(export_model: Command, tiny_checkpoint: TinyCheckpoint, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    said = export_model("--model", tiny_checkpoint("qwen"), "--output", folder, "--max_length", 77)
    assert said.code == 0
    assert "[Config] VLM_PE = None (default)\n" in said.out
    assert f"Next: python run_engine.py --bundle {folder} --point_cloud scene.ply" in said.out
    manifest = Bundle.open(folder).manifest
    assert (manifest.cache.capacity, manifest.position.vlm_pe) == (77, None)


def test_engines_of_the_former_bundle_go_with_it_and_it_says_so(
    export_model: Command, tiny_checkpoint: TinyCheckpoint, tmp_path: Path
) -> None:
    command = ("-m", tiny_checkpoint("qwen"), "-o", tmp_path / "bundle", "--no_parity", "--json")
    assert export_model(*command).err == ""
    (tmp_path / "bundle" / "engines" / "some-gpu").mkdir(parents=True)
    said = export_model(*command)
    assert said.err == f"note: the engines in {tmp_path / 'bundle'} were of the former bundle and went with it.\n"
    assert not (tmp_path / "bundle" / "engines").exists()


def test_quiet_and_json(export_model: Command, tiny_checkpoint: TinyCheckpoint, tmp_path: Path) -> None:
    said = export_model("-m", tiny_checkpoint("qwen"), "-o", tmp_path / "quiet", "--quiet")
    assert (said.code, said.out, said.err) == (0, "", "")
    said = export_model("-m", tiny_checkpoint("qwen"), "-o", tmp_path / "json", "--json")
    summary = json.loads(said.out)
    assert summary["bundle"] == str(tmp_path / "json")
    files = [path for path in (tmp_path / "json").iterdir() if path.name != "manifest.json"]
    assert summary["bytes"] == sum(path.stat().st_size for path in files)
    assert summary["notes"] == ["[Config] VLM_PE = None (default)"]
    assert said.err == ""


def test_the_command_line_wins_over_the_config_and_says_so(
    export_model: Command, tiny_checkpoint: TinyCheckpoint, tmp_path: Path
) -> None:
    checkpoint, folder = tiny_checkpoint("llama", vlm_pe="3D_RoPE", merge_rule="3D_only"), tmp_path / "bundle"
    said = export_model("-m", checkpoint, "-o", folder)
    assert "[Config] VLM_PE = 3D_RoPE (from config)\n[Config] PCD_PE_Merge_Rule = 3D_only (from config)\n" in said.out
    assert Bundle.open(folder).manifest.position.merge_rule == "3D_only"

    said = export_model(
        "-m", checkpoint, "-o", folder, "--PCD_PE_Merge_Rule", "3D_with_1D", "--prefill_attention", "full"
    )
    assert "[Config] config.json has PCD_PE_Merge_Rule = 3D_only; the command line wins\n" in said.out
    position = Bundle.open(folder).manifest.position
    assert (position.merge_rule, position.prefill_attention) == ("3D_with_1D", "full"), "an export replaces the bundle"

    said = export_model("-m", checkpoint, "-o", folder, "--VLM_PE", "None")
    assert "[Config] VLM_PE = None (from command line)\n" in said.out
    assert "[Config] config.json has VLM_PE = 3D_RoPE; the command line wins\n" in said.out
    assert Bundle.open(folder).manifest.position.points is None


def test_an_encoding_that_is_not_the_config_s_is_noted(
    export_model: Command, tiny_checkpoint: TinyCheckpoint, tmp_path: Path
) -> None:
    options = ("-m", tiny_checkpoint("qwen"), "-o", tmp_path / "bundle", "--no_parity", "--VLM_PE", "3D_RoPE")
    note = "note: the checkpoint's config.json says nothing of VLM_PE, which means None; exporting VLM_PE = 3D_RoPE, "
    assert export_model(*options).err.count(note) == 1
    assert export_model(*options, "--json").err.startswith(note)
    assert export_model(*options, "--quiet").err == ""


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--VLM_PE", "CCA_2DProj"], "VLM_PE is 'CCA_2DProj', but only None and 3D_RoPE can be exported."),
        (["--VLM_PE", "3D_Sinusoidal"], "VLM_PE is '3D_Sinusoidal', but only None and 3D_RoPE can be exported."),
        (["--prefill_attention", "full"], "full"),
        (["--tensorrt_segment_layers", "0"], "--tensorrt_segment_layers is 0, but at least 1 is needed."),
        (["--tensorrt_segment_layers", "-1"], "--tensorrt_segment_layers is -1, but at least 1 is needed."),
        (["--max_length", "0"], "--max_length is 0, but the cache can have 1 to 1048576 positions."),
        (["--max_length", "99999999999"], "--max_length is 99999999999, but the cache can have 1 to"),
        (["-m", "absent"], "absent: no such directory, and not a hub id (owner/name) either."),
        (["-m", "empty"], "empty: there is neither model.safetensors nor model.safetensors.index.json."),
        (["-m", "no_config"], "config.json"),
        (
            ["-m", "scenescript"],
            "this is a SpatialLM 1.0 checkpoint (SceneScript encoder), which cannot be exported yet.",
        ),
        (["-m", "cut"], "safetensors"),
        (["-o", "taken"], "taken: exists and holds 'mine.txt', which is no part of a bundle, so it is not replaced."),
        (["-o", "taken/mine.txt"], "mine.txt: is a file, but the bundle is a folder. Choose another --output."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refused(
    export_model: Command,
    tiny_checkpoint: TinyCheckpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    sentence: str,
) -> None:
    checkpoint = tiny_checkpoint("qwen")
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("taken").mkdir()
    Path("taken/mine.txt").write_text("mine")
    shutil.copytree(checkpoint, "scenescript")
    config = json.loads(Path("scenescript/config.json").read_text()) | {"point_backbone": "scenescript"}
    Path("scenescript/config.json").write_text(json.dumps(config))
    shutil.copytree(checkpoint, "no_config")
    Path("no_config/config.json").unlink()
    shutil.copytree(checkpoint, "cut")
    weights = Path("cut/model.safetensors").read_bytes()
    Path("cut/model.safetensors").write_bytes(weights[: len(weights) // 2])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    said = export_model("-m", checkpoint, "-o", "bundle", *options)
    assert said.code == 2
    assert said.err.startswith("export_model.py: ")
    assert sentence in said.err
    assert said.err.count("\n") == 1, "one sentence, no traceback"
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before, "nothing was written"


def test_without_torch_it_says_what_to_install() -> None:
    code = "import runpy; sys.argv[0] = 'export_model.py'; runpy.run_path('export_model.py', run_name='__main__')"
    result = run_without(["torch"], code, "--model", "m", "--output", "o")
    assert result.returncode == 2
    assert result.stderr == (
        "export_model.py: needs the package 'torch', which is not installed. Install it: pip install '.[export]'\n"
    )
