"""Reports of the parity ladder in a few lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.gpu import verdicts
from export.parity import cli
from tests.cli.conftest import CLOUD, write_ply
from tests.exported import Export


def test_the_error_nearest_to_its_limit_is_kept() -> None:
    """Limits grow with depth, so the largest error need not be the nearest."""
    places = {"keys of layer 0": (3.12345e-5, 6e-5), "keys of layer 23": (4e-5, 1e-4), "logits": (1e-6, 6e-5)}
    given = [{"place": place, "error": error, "limit": limit} for place, (error, limit) in places.items()]
    assert verdicts.nearest(given) == {"place": "keys of layer 0", "error": 3.12e-5, "limit": 6e-5}


def test_a_real_report(exported: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_ply(tmp_path / "a.ply", CLOUD)
    made, report, output = exported(), tmp_path / "ladder.json", tmp_path / "verdicts.json"
    ladder = ["--bundle", made.bundle.folder, "--model", made.checkpoint.folder, "--point_cloud", tmp_path / "a.ply"]
    few = ["--forced_steps", 2, "--free_tokens", 4, "--quiet"]
    assert cli.main([str(word) for word in (*ladder, "--report", report, *few)]) == 0
    monkeypatch.setattr("sys.argv", ["verdicts", str(report), "--output", str(output)])
    verdicts.main()
    facts = json.loads(output.read_text(encoding="utf-8"))
    assert facts["command"] == "python -m benchmarks.gpu.verdicts ladder.json --output verdicts.json"
    assert facts["ladder"]["verdict"] == "equal"
    reference, modules, onnxruntime = facts["ladder"]["scenes"][0]["rungs"]
    assert "below" not in reference
    assert modules["below"]["against"] == "reference"
    assert onnxruntime["library"].startswith("onnxruntime ")
    assert onnxruntime["reference"]["tokens"] == {"count": 4, "equal": 4}
    assert onnxruntime["reference"]["nearest"]["error"] <= onnxruntime["reference"]["nearest"]["limit"]
