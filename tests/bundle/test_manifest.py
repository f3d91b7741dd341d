"""The manifest: written, read, refused."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.bundle import MAX_CAPACITY, Bundle
from runtime.errors import BundleError
from runtime.manifest import FILE_NAME, SCHEMA, SIGNATURE, Manifest, signature
from tests.fakes import small_manifest

ADVICE = r"(export again|Export again|export the bundle again|Export the bundle again|Make one)"


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / FILE_NAME
    facts = json.loads(path.read_text(encoding="utf-8"))
    facts.pop(SIGNATURE)
    change(facts)
    path.write_text(json.dumps(facts | {SIGNATURE: signature(facts)}), encoding="utf-8")


def assert_refused(folder: Path, sentence: str) -> None:
    with pytest.raises(BundleError, match=sentence) as caught:
        Bundle.open(folder)
    assert str(folder) in str(caught.value)
    caught.match(ADVICE)
    assert len(str(caught.value)) < 500


def test_what_is_written_is_read(folder: Path, tmp_path: Path) -> None:
    manifest = Manifest.read(folder)
    assert manifest.position.points is not None
    manifest.write(tmp_path)
    assert Manifest.read(tmp_path) == manifest
    assert (tmp_path / FILE_NAME).read_bytes() == (folder / FILE_NAME).read_bytes()


@pytest.mark.parametrize("change", [("MBKD", "MBKD"), ('"capacity": 1024', '"capacity": 1025'), (SIGNATURE, "sha")])
def test_facts_changed_by_hand_are_refused(folder: Path, change: tuple[str, str]) -> None:
    path = folder / FILE_NAME
    text = path.read_text()
    assert change[0] in text
    path.write_text(text.replace(*change))
    if change[0] == change[1]:
        Bundle.open(folder)
    else:
        assert_refused(folder, r"it was altered|unknown keys")


def test_none_and_empty_survive(tmp_path: Path) -> None:
    manifest = small_manifest(7)
    manifest.write(tmp_path)
    assert Manifest.read(tmp_path) == manifest


def test_frequencies_keep_every_bit(folder: Path, tmp_path: Path) -> None:
    spec = small_manifest(7).position
    odd = dataclasses.replace(spec, text=dataclasses.replace(spec.text, inv_freq=(0.1, 1 / 3, 1e-45, 3.4e38)))
    small_manifest(7, position=odd).write(tmp_path)
    assert Manifest.read(tmp_path).position.text.inv_freq == (0.1, 1 / 3, 1e-45, 3.4e38)


@pytest.mark.parametrize("schema", [SCHEMA + 1, 0, None, "1", [1]])
def test_another_schema_is_refused(folder: Path, schema: object) -> None:
    edit(folder, lambda facts: facts.update(schema=schema, something_new=1))
    assert_refused(folder, rf"schema .*but this runtime reads {SCHEMA}\. Export again .*--model .*--output")


@pytest.mark.parametrize("place", ["", "encoder", "language_model", "position", "position.text", "cache", "generation"])
def test_keys_must_be_the_known_ones(folder: Path, place: str) -> None:
    def inner(facts: dict[str, Any]) -> dict[str, Any]:
        for key in filter(None, place.split(".")):
            facts = facts[key]
        return facts

    where = ".".join(filter(None, ["manifest", place]))
    edit(folder, lambda facts: inner(facts).update(a_new_key=1))
    assert_refused(folder, rf"missing or unknown keys in {where}: a_new_key\.")

    def swap(facts: dict[str, Any]) -> None:
        part = inner(facts)
        del part["a_new_key"], part[next(key for key in part if key != "schema")]

    edit(folder, swap)
    assert_refused(folder, rf"missing or unknown keys in {where}: \w+\.")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda f: f["encoder"].update(num_bins="640"), "manifest.encoder.num_bins is '640', but int was expected"),
        (lambda f: f["encoder"].update(num_bins=640.0), "num_bins is 640.0, but int was expected"),
        (lambda f: f["encoder"].update(num_bins=True), "num_bins is True, but int was expected"),
        (lambda f: f["encoder"].update(order="z"), "manifest.encoder.order is 'z', but a list was expected"),
        (lambda f: f["encoder"].update(stride=[2, None]), r"manifest.encoder.stride\[1\] is None, but int was"),
        (lambda f: f.update(cache=[8192]), r"manifest.cache is \[8192\], but an object was expected"),
        (lambda f: f.update(graphs=None), "manifest.graphs is None, but an object was expected"),
        (lambda f: f["generation"].update(top_k="ten"), "manifest.generation.top_k is 'ten', but int was expected"),
        (lambda f: f["position"]["text"].update(scaling=10**400), "too large to convert to float"),
    ],
)
def test_types_must_be_the_known_ones(folder: Path, change: Callable[[dict[str, Any]], object], sentence: str) -> None:
    edit(folder, change)
    assert_refused(folder, sentence)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda f: f["graphs"].pop("decode"), "graphs names no file for decode"),
        (lambda f: f["weights"].clear(), "weights names no file for encoder, prefill, decode"),
        (lambda f: f["graphs"].update(decode="other.onnx"), "graphs names 'other.onnx', which is not among its files"),
        (lambda f: f["files"].update({"../secret": f["files"]["decode.onnx"]}), "files lists '../secret', but a file"),
        (lambda f: f["cache"].update(layout="BKMD"), "cache layout is 'BKMD', but this runtime writes MBKD"),
        (lambda f: f["cache"].update(capacity=0), "cache capacity is 0, but 1 to"),
        (lambda f: f["cache"].update(capacity=MAX_CAPACITY + 1), "cache capacity is 1048577, but 1 to 1048576"),
    ],
)
def test_facts_that_the_runtime_cannot_use_are_refused(
    folder: Path, change: Callable[[dict[str, Any]], object], sentence: str
) -> None:
    edit(folder, change)
    assert_refused(folder, sentence)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "not readable as JSON"),
        ('{"schema": 1', "not readable as JSON"),
        ("\xff\xfe", "not readable as JSON"),
        ("[" * 100_000, "not readable as JSON"),
        ("[1]", "holds list, but an object was expected"),
        ("null", "holds NoneType, but an object was expected"),
    ],
)
def test_what_is_no_json_object_is_refused(folder: Path, text: str, sentence: str) -> None:
    (folder / FILE_NAME).write_bytes(text.encode("latin-1"))
    assert_refused(folder, sentence)


def test_what_is_no_bundle_is_refused(folder: Path, tmp_path: Path) -> None:
    assert_refused(tmp_path / "nowhere", "no such bundle. Make one: python export_model.py --model CHECKPOINT --output")
    assert_refused(folder / "decode.onnx", "no such bundle")
    (folder / FILE_NAME).unlink()
    assert_refused(folder, f"not a bundle, it has no {FILE_NAME}")


def test_a_pipe_is_no_manifest(folder: Path) -> None:
    """Reading it would wait for ever."""
    (folder / FILE_NAME).unlink()
    os.mkfifo(folder / FILE_NAME)
    assert_refused(folder, "no ordinary file")


def test_an_endless_manifest_is_not_read(folder: Path) -> None:
    (folder / FILE_NAME).unlink()
    (folder / FILE_NAME).symlink_to("/dev/zero")
    assert_refused(folder, "no ordinary file")
    (folder / FILE_NAME).unlink()
    with (folder / FILE_NAME).open("wb") as file:
        file.truncate(1 << 40)  # a hole: no disk is used
    assert_refused(folder, "expected at most")
