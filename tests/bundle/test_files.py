"""The files of a bundle are the ones that were exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.bundle import INDEX_ENDING, Bundle
from runtime.errors import BundleError
from runtime.manifest import FILE_NAME, Manifest
from tests.compare import EXACT, assert_close

WEIGHTS = "language_model.weights"
INDEX = WEIGHTS + INDEX_ENDING
FILES = [
    "encoder.onnx", "prefill.onnx", "decode.onnx", "encoder.weights", WEIGHTS, "encoder.weights" + INDEX_ENDING, INDEX,
    "tokenizer.json", "chat_template.jinja", "language_model.stacked.onnx",
    "prefill.stacked.onnx", "decode.stacked.onnx",
]  # fmt: skip


def unchecked(folder: Path) -> Bundle:
    """As after Bundle.open, had the file been changed in between or by someone who changed the manifest as well."""
    return Bundle(folder, Manifest.read(folder))


def test_the_manifest_lists_every_file(folder: Path) -> None:
    bundle = Bundle.open(folder)
    assert sorted(bundle.manifest.files) == sorted(FILES)
    assert {path.name for path in folder.iterdir()} == {*FILES, FILE_NAME}


@pytest.mark.parametrize("name", FILES)
def test_one_altered_bit_is_noticed(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(BundleError, match=rf"{name}: its SHA-256 is \w+\.\.\., but the manifest says \w+\.\.\.: the f"):
        Bundle.open(folder)
    Bundle.open(folder, verify=False)


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("name", FILES)
def test_a_truncated_or_missing_file_is_noticed(folder: Path, name: str, verify: bool) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-1])
    with pytest.raises(BundleError, match=rf"{name}: has [\d,]+ bytes, but the manifest says .*incomplete"):
        Bundle.open(folder, verify=verify)
    (folder / name).unlink()
    with pytest.raises(BundleError, match=rf"{name}: missing, but the manifest lists it\. Copy the bundle again"):
        Bundle.open(folder, verify=verify)


def test_weights_are_views_of_one_read_only_map(folder: Path) -> None:
    weights = Bundle.open(folder).weights("prefill")
    content = (folder / WEIGHTS).read_bytes()
    for name, record in json.loads((folder / INDEX).read_text()).items():
        array = weights[name]
        assert not array.flags.writeable
        assert not array.flags.owndata
        want = np.frombuffer(content, record["dtype"], int(np.prod(record["shape"])), record["offset"])
        assert_close(name, array, want.reshape(record["shape"]), EXACT)


@pytest.mark.parametrize(
    "change",
    [
        {"offset": 1 << 40},
        {"offset": -4096},
        {"offset": 2},
        {"offset": "0"},
        {"bytes": 1 << 40},
        {"bytes": -4},
        {"shape": [10**30]},
        {"shape": [-1, -1]},
        {"shape": [1]},
        {"shape": None},
        {"dtype": "no dtype"},
        {"dtype": "object"},
        {"dtype": None},
        {"surplus": 1},
    ],
    ids=str,
)
def test_an_index_that_does_not_fit_the_file_is_refused(folder: Path, change: dict[str, Any]) -> None:
    path = folder / INDEX
    index = json.loads(path.read_text())
    index["model.norm.weight"] |= change
    path.write_text(json.dumps(index))
    with pytest.raises(BundleError, match=rf"{WEIGHTS}: the weights do not fit their index \(.*Export the bundle"):
        unchecked(folder).weights("decode")


@pytest.mark.parametrize("text", ["", "[]", "[1]", '{"a": 1}', '{"a": {}}', "[" * 100_000])
def test_an_index_of_another_form_is_refused(folder: Path, text: str) -> None:
    (folder / INDEX).write_text(text)
    with pytest.raises(BundleError, match="the weights do not fit their index"):
        unchecked(folder).weights("decode")
