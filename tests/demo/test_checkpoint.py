"""The committed checkpoint is what the README says: small, read by the real export, and right about rooms."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from demo.rooms import SPLITS
from demo.run import MOST_TOKENS
from demo.score import summary
from export.cli import main as export_main
from runtime import Pipeline, Request
from runtime.layout import read_layout
from tests.docs.test_quickstart import CODE, run_cell

DEMO = Path(__file__).resolve().parents[2] / "demo"
CHECKPOINT = DEMO / "checkpoint"
SCORES = DEMO / "scores.json"  # written by `python -m demo.score --output`, the shipped precision first
SLACK = 0.1  # three rooms are not a hundred


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "bundle"
    assert export_main(["--model", str(CHECKPOINT), "--output", str(folder), "--no_parity"]) == 0
    return folder


@pytest.fixture(scope="module")
def pipeline(bundle: Path) -> Iterator[Pipeline]:
    with Pipeline.load(bundle) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def published() -> dict[str, Any]:
    return dict(json.loads(SCORES.read_text(encoding="utf-8")))


def test_it_is_small_and_in_half_precision() -> None:
    assert sum(path.stat().st_size for path in CHECKPOINT.rglob("*")) < 12_000_000
    with safe_open(CHECKPOINT / "model.safetensors", "pt") as tensors:
        found = [tensors.get_tensor(name) for name in tensors.keys()]  # noqa: SIM118 - it is no dictionary
    assert {tensor.dtype for tensor in found} == {torch.float16}
    assert all(tensor.isfinite().all() for tensor in found)


def test_the_published_scores_are_of_a_hundred_rooms(published: dict[str, Any]) -> None:
    assert published["rooms"] >= 100
    assert next(iter(published["scores"].values()))["wall"][0] > 0.5  # or the next test would ask for nothing


def test_layouts_are_about_as_good_as_published(pipeline: Pipeline, published: dict[str, Any]) -> None:
    scenes = sorted((DEMO / "scenes").glob("*.ply"))
    assert all(int(scene.stem) in SPLITS["test"] for scene in scenes)
    results = [pipeline(scene, Request(max_new_tokens=MOST_TOKENS)) for scene in scenes]
    assert [result.stopped_by for result in results] == ["stop token"] * len(scenes)
    pairs = [(it.layout, read_layout(scene.with_suffix(".txt"))) for it, scene in zip(results, scenes, strict=True)]
    own, wanted = summary(pairs), next(iter(published["scores"].values()))
    assert own["wall"][0] >= wanted["wall"][0] - SLACK, f"{own} on the committed scans, published: {wanted}"


def test_the_notebook_shows_a_room(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(DEMO.parent)
    names: dict[str, Any] = {}
    run_cell(CODE["settings"], names)
    names |= {"BUNDLE": bundle, "ROOT": tmp_path}
    for cell in list(CODE)[1:]:
        run_cell(CODE[cell], names)
    assert len(names["layout"].walls) >= 4
    assert read_layout(tmp_path / "out" / "quickstart.txt").walls
