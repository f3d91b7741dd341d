"""An export appears whole or not at all, and replaces nothing but a bundle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import export.bundle
from export.bundle import ExportOptions, write_bundle
from export.checkpoint import Checkpoint, open_checkpoint
from runtime.bundle import Bundle
from runtime.errors import BundleError, CheckpointError
from runtime.manifest import FILE_NAME

OPTIONS = ExportOptions(max_length=99)


@pytest.fixture
def checkpoint(tiny_checkpoint: Callable[..., Path]) -> Checkpoint:
    return open_checkpoint(tiny_checkpoint("qwen"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_bundle_replaces_an_older_one(folder: Path, checkpoint: Checkpoint) -> None:
    (folder / "engines").mkdir()
    (folder / "engines" / "old.plan").write_text("built from the old graphs")
    write_bundle(checkpoint, folder, OPTIONS)
    assert Bundle.open(folder).manifest.cache.capacity == 99
    assert not (folder / "engines").exists()
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_bundle_of_a_newer_schema_is_replaced(folder: Path, checkpoint: Checkpoint) -> None:
    path = folder / FILE_NAME
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 99'))
    write_bundle(checkpoint, folder, OPTIONS)
    assert Bundle.open(folder).manifest.cache.capacity == 99


def test_parents_are_made_and_an_empty_folder_is_taken(tmp_path: Path, checkpoint: Checkpoint) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "a" / "b" / "bundle"):
        write_bundle(checkpoint, folder, OPTIONS)
        assert Bundle.open(folder).manifest.cache.capacity == 99


@pytest.mark.parametrize("error", [KeyboardInterrupt, CheckpointError("x"), OSError(28, "No space left on device")])
@pytest.mark.parametrize("place", ["_write_tokenizer", "prefill_graph", "_record"])
def test_a_failure_leaves_the_old_bundle_and_nothing_else(
    folder: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, error: BaseException, place: str
) -> None:
    before = contents(folder.parent)

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(export.bundle, place, fail)
    expected = BundleError if isinstance(error, OSError) else error if isinstance(error, type) else type(error)
    with pytest.raises(expected) as caught:
        write_bundle(checkpoint, folder, OPTIONS)
    if isinstance(error, OSError):
        caught.match(r"bundle: cannot be written \(No space left on device\)\. Make room or choose another --output")
    assert contents(folder.parent) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(5, "Input/output error")])
def test_a_stop_between_the_two_moves_puts_the_old_bundle_back(
    folder: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    before, replace = contents(folder.parent), Path.replace

    def replace_but_last(self: Path, target: Path) -> Path:
        if self.suffix == ".partial":
            assert not folder.exists(), "the old bundle stands aside"
            raise error
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", replace_but_last)
    with pytest.raises((KeyboardInterrupt, BundleError)):
        write_bundle(checkpoint, folder, OPTIONS)
    assert contents(folder.parent) == before


def test_a_foreign_folder_is_not_replaced(tmp_path: Path, checkpoint: Checkpoint) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BundleError, match=r"exists and holds 'notes\.txt', which is no part of a bundle"):
        write_bundle(checkpoint, tmp_path, OPTIONS)
    assert contents(tmp_path) == {"notes.txt": b"mine"}


@pytest.mark.parametrize("manifest", ['{"name": "an extension", "manifest_version": 3}', "[]", "{", '{"files": ["a"]}'])
def test_a_folder_with_another_manifest_is_not_replaced(tmp_path: Path, checkpoint: Checkpoint, manifest: str) -> None:
    """Browser extensions and web pages have a manifest.json too."""
    (tmp_path / FILE_NAME).write_text(manifest)
    with pytest.raises(BundleError, match="so it is not replaced"):
        write_bundle(checkpoint, tmp_path, OPTIONS)
    assert contents(tmp_path) == {FILE_NAME: manifest.encode()}


def test_a_bundle_with_a_file_of_the_users_is_not_replaced(folder: Path, checkpoint: Checkpoint) -> None:
    (folder / "scene.txt").write_text("a layout")
    before = contents(folder)
    with pytest.raises(BundleError, match=r"holds 'scene\.txt', which is no part .*or move that away"):
        write_bundle(checkpoint, folder, OPTIONS)
    assert contents(folder) == before


def test_a_file_is_not_replaced(tmp_path: Path, checkpoint: Checkpoint) -> None:
    (tmp_path / "bundle").write_text("mine")
    with pytest.raises(BundleError, match=r"is a file, but the bundle is a folder\. Choose another --output"):
        write_bundle(checkpoint, tmp_path / "bundle", OPTIONS)
    with pytest.raises(BundleError, match="cannot be written"):
        write_bundle(checkpoint, tmp_path / "bundle" / "inside", OPTIONS)
    assert contents(tmp_path) == {"bundle": b"mine"}


def test_full_attention_belongs_to_the_3d_modes(tmp_path: Path, checkpoint: Checkpoint) -> None:
    with pytest.raises(CheckpointError, match=r"(?i)full.*VLM_PE|VLM_PE.*full"):
        write_bundle(checkpoint, tmp_path / "bundle", ExportOptions(prefill_attention="full"))
    assert contents(tmp_path) == {}
    assert list(tmp_path.iterdir()) == []
