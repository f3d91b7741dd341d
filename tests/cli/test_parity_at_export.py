"""The short check at the end of `export_model.py`, its verdict in the manifest, and who shows it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from export.parity import after_export
from runtime.bundle import Bundle
from runtime.errors import BundleError
from runtime.manifest import SIGNATURE, Manifest, signature
from tests.blocked import run_without
from tests.cli.conftest import Command
from tests.parity.faults import Scaled

TinyCheckpoint = Callable[..., Path]
EXPORT = "import sys; from export.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.mark.parametrize(
    ("options", "verdict", "reason"),
    [
        (["--VLM_PE", "3D_RoPE"], "equal", "all 4 greedy tokens are equal; float32 sums in another order."),
        (["--precision", "fp16"], "equal within precision", ""),
        (["--quantization", "int8"], "equal within precision", ""),
        (["--precision", "bf16"], "not checked", "ONNX Runtime does not compute bf16 on the CPU. Compare on a GPU"),
        (["--max_length", "77"], "not checked", "positions (.* point tokens), but the bundle's cache holds 77"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_the_verdict_stands_in_the_manifest(
    export_model: Command,
    run_engine: Command,
    tiny_checkpoint: TinyCheckpoint,
    tmp_path: Path,
    options: list[str],
    verdict: str,
    reason: str,
) -> None:
    folder = tmp_path / "bundle"
    said = export_model("-m", tiny_checkpoint("qwen"), "-o", folder, *options)
    assert said.code == 0
    parity = Bundle.open(folder).manifest.parity  # whose digest was checked on the way
    assert parity is not None
    assert parity.verdict == verdict
    assert str(tmp_path) not in parity.reason
    assert all(part in parity.reason for part in reason.split(".*"))
    assert f"Parity: {parity.sentence()}" in said.out
    ran = verdict != "not checked"
    assert (parity.rung, parity.against) == (("onnxruntime cpu", "torch modules") if ran else (None, None))
    assert f" {parity.sentence()}\n" in run_engine("--inspect", folder).out
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_it_can_be_left_out(
    export_model: Command, run_engine: Command, tiny_checkpoint: TinyCheckpoint, tmp_path: Path
) -> None:
    said = export_model("-m", tiny_checkpoint("qwen"), "-o", tmp_path / "bundle", "--no_parity")
    assert said.code == 0
    assert "Parity" not in said.out
    assert Bundle.open(tmp_path / "bundle").manifest.parity is None
    assert "not recorded" in run_engine("--inspect", tmp_path / "bundle").out


def test_a_bundle_that_computes_something_else(
    export_model: Command,
    run_engine: Command,
    tiny_checkpoint: TinyCheckpoint,
    tmp_path: Path,
    scene: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = after_export.torch_pipeline

    def altered(bundle: Bundle, checkpoint: Any) -> Any:
        return plain(bundle, Scaled(checkpoint, "model.layers.1.self_attn.k_proj.weight"))  # type: ignore[arg-type]

    monkeypatch.setattr(after_export, "torch_pipeline", altered)
    folder = tmp_path / "bundle"
    said = export_model("-m", tiny_checkpoint("qwen"), "-o", folder, "--json")
    assert said.code == 1
    assert said.err == f"export_model.py: {folder}: the graphs do not compute what the checkpoint computes.\n"
    summary = json.loads(said.out)
    assert summary["parity"]["verdict"] == "different"
    assert "keys of the prompt of layer 1" in summary["parity"]["reason"]
    ran = run_engine("-m", folder, "-p", scene, "-o", tmp_path / "o.txt", "--max_new_tokens", 2, "--threads", 1)
    assert ran.code == 0
    assert "Parity of the bundle at export: different.\n" in ran.out
    assert f"warning: {folder}: parity at export: different; onnxruntime cpu against torch modules" in ran.err
    ran = run_engine("-m", folder, "-p", scene, "-o", tmp_path / "o.txt", "--max_new_tokens", 2, "--json", "--quiet")
    assert json.loads(ran.out)["parity"] == "different"
    assert ran.err == ""


def test_an_interrupt_leaves_the_bundle(
    export_model: Command, tiny_checkpoint: TinyCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(after_export, "record_modules", stop)
    said = export_model("-m", tiny_checkpoint("qwen"), "-o", tmp_path / "bundle", "--quiet")
    assert said.code == 130
    assert said.err == "export_model.py: interrupted; the bundle stands, its parity was not checked.\n"
    assert Bundle.open(tmp_path / "bundle").manifest.parity is None


def test_a_bundle_that_was_replaced_meanwhile_keeps_its_own_manifest(
    export_model: Command, tiny_checkpoint: TinyCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two exports with one --output: the first to finish writing would put its facts over the second's."""
    folder, plain = tmp_path / "bundle", after_export.record_modules
    assert export_model("-m", tiny_checkpoint("llama"), "-o", tmp_path / "other", "--quiet", "--no_parity").code == 0

    def replaced(*arguments: Any) -> Any:
        folder.rename(tmp_path / "away")
        (tmp_path / "other").rename(folder)
        return plain(*arguments)

    monkeypatch.setattr(after_export, "record_modules", replaced)
    said = export_model("-m", tiny_checkpoint("qwen"), "-o", folder, "--quiet")
    assert said.code == 2
    assert f"{folder}: was exported anew while its parity was checked. Export one at a time." in said.err
    assert Bundle.open(folder).manifest.language_model.family == "llama"


@pytest.mark.parametrize(
    ("missing", "verdict"), [("transformers", "equal"), ("shapely", "equal"), ("onnxruntime", "not checked")]
)
def test_packages_that_an_export_does_not_need(
    tiny_checkpoint: TinyCheckpoint, tmp_path: Path, missing: str, verdict: str
) -> None:
    folder = tmp_path / "bundle"
    result = run_without([missing], EXPORT, "--model", tiny_checkpoint("qwen"), "--output", folder, "--json")
    assert result.returncode == 0, result.stderr
    parity = json.loads(result.stdout)["parity"]
    assert parity["verdict"] == verdict
    assert (missing in parity["reason"]) == (missing == "onnxruntime")
    assert Bundle.open(folder).manifest.parity is not None


def test_bundles_of_earlier_versions_still_open(
    export_model: Command, tiny_checkpoint: TinyCheckpoint, tmp_path: Path
) -> None:
    """Their manifests have no such key; whoever takes it out of a new one breaks its digest."""
    folder = tmp_path / "bundle"
    assert export_model("-m", tiny_checkpoint("qwen"), "-o", folder, "--quiet").code == 0
    path = folder / "manifest.json"
    facts = json.loads(path.read_text())
    del facts["parity"]
    path.write_text(json.dumps(facts))
    with pytest.raises(BundleError, match="it was altered, its digest is not the one that export wrote"):
        Manifest.read(folder)
    del facts[SIGNATURE]
    path.write_text(json.dumps(facts | {SIGNATURE: signature(facts)}))
    assert Manifest.read(folder).parity is None


def test_a_verdict_that_was_altered_is_refused(
    export_model: Command, run_engine: Command, tiny_checkpoint: TinyCheckpoint, tmp_path: Path
) -> None:
    folder = tmp_path / "bundle"
    assert export_model("-m", tiny_checkpoint("qwen"), "-o", folder, "--quiet", "--no_parity").code == 0
    path = folder / "manifest.json"
    facts = json.loads(path.read_text())
    record = {"verdict": "equal", "reason": "it is.", "rung": None, "against": None, "scene": None, "versions": None}
    path.write_text(json.dumps(facts | {"parity": record}))
    said = run_engine("--inspect", folder)
    assert said.code == 2
    assert "it was altered" in said.err
