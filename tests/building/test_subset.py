"""`--graphs`: some graphs are built anew, and the plans of the others stay if they still fit."""

from __future__ import annotations

from runtime.engines.record import FILE_NAME
from tests.building.conftest import Bench, contents, resigned


def test_a_subset_keeps_the_other_plans(bench: Bench) -> None:
    assert (
        "there is no encoder engine yet to go with the others. Build all graphs: leave out --graphs."
        in bench.refused("--graphs", "language_model")
    )
    bench.facts("--max_voxels", 9000)
    before, first = contents(bench.folder()), bench.record()
    facts = bench.facts("--graphs", "language_model", "--opt_level", 1, "--max_length", 600)
    after, second = contents(bench.folder()), bench.record()
    assert [name for name, graph in facts["graphs"].items() if graph["built"]] == ["language_model"]
    changed = {name for name in before if before[name] != after[name]}
    assert changed <= {"language_model.plan", "language_model.log", "language_model.inspector.json", FILE_NAME}
    assert {"language_model.plan", FILE_NAME} <= changed
    assert second.plans["language_model"].profiles["decode"]["M"] == (512, 600, 600)
    assert second.plans["encoder"] == first.plans["encoder"]
    ran = bench("--graphs", "encoder")
    [row] = [line for line in ran.stdout.splitlines() if line.startswith("language_model ")]
    assert " kept " in row


def test_a_subset_refuses_plans_that_do_not_fit(bench: Bench) -> None:
    bench.facts()
    before = contents(bench.folder())
    said = bench.refused("--graphs", "language_model", "--version_compatible")
    assert "the engines there have another version_compatible. Build all graphs" in said
    plan = bench.folder() / "encoder.plan"
    whole = plan.read_bytes()
    plan.write_bytes(whole[:-1])
    assert f"{plan}: missing or altered since it was built." in bench.refused("--graphs", "language_model")
    plan.write_bytes(whole)
    path = bench.bundle / "encoder.onnx"
    path.write_bytes(path.read_bytes() + b"\x72\x00")  # an empty field more: the same graph, another digest
    resigned(bench.bundle, path)
    said = bench.refused("--graphs", "language_model")
    assert "the encoder engine there was built from another graph. Build all graphs" in said
    assert contents(bench.folder()) == before
