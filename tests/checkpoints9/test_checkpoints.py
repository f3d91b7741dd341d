"""All nine checkpoints of a graph, seen or derived, against the literal reference's own."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from export.parity.checkpoints import (
    Checkpoint,
    Taps,
    compare_layer,
    compare_taps,
    departure,
    derive,
    describe,
    restored,
)
from export.parity.limits import LIMITS
from export.parity.reference_checkpoints import run_reference
from export.reference import build_reference
from runtime.errors import SceneError
from runtime.rung import Recording
from runtime.rung.recording import AXES, INTEGERS
from runtime.rung.taps import POINT_MASK
from tests.checkpoints9.conftest import Tapped
from tests.checkpoints9.scene import against_reference, of_reference, prepared, taps_of
from tests.compare import EXACT, assert_close
from tests.exported import FAMILIES, MODES

SPATIAL, PLAIN = [1, 2, 3, 4, 5, 6, 7, 8, 9], [1, 6, 8, 9]
RELATIVE = 2e-5
FACTS = {"rung": "r", "precision": "fp32", "scene": "s", "scene_sha256": "0", "vlm_pe": "3D_RoPE"}
Mode = tuple[str | None, str | None, str]


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_all_that_exist_equal_the_references(tapped: Tapped, family: str, mode: Mode) -> None:
    case = tapped(family, *mode)
    differences = against_reference(case, case.bundle)
    numbers = PLAIN if mode[0] is None else SPATIAL
    assert [(d.layer, d.number) for d in differences] == [(i, n) for i in (0, 1) for n in numbers for _ in range(2)]
    assert {d.number for d in differences if d.derived} == {3, 4, 5, 7, 8} & set(numbers)
    assert max(difference.error for difference in differences) < RELATIVE
    assert departure(differences) is None
    assert describe(differences) == f"checkpoints {', '.join(map(str, numbers))} agree in 2 layers."


@pytest.mark.parametrize("merge_rule", ["3D_only", "3D_with_1D"])
def test_the_other_variant(tapped: Tapped, merge_rule: str) -> None:
    case = tapped("qwen", "3D_RoPE", merge_rule, variant="PE-B")
    assert max(difference.error for difference in against_reference(case, case.bundle)) < RELATIVE


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_derived_ninth_is_the_graphs_own(tapped: Tapped, family: str, mode: Mode) -> None:
    taps = taps_of(tapped(family, *mode).bundle)
    for layer in taps.layers:
        checkpoints = taps.checkpoints(layer)
        made = restored(checkpoints, taps.arrays[POINT_MASK]).tensors
        for name, tensor in checkpoints[9].tensors.items():
            assert np.linalg.norm(made[name] - tensor) < 1e-6 * np.linalg.norm(tensor)


@pytest.mark.parametrize("merge_rule", ["3D_only", "3D_with_1D"])
@pytest.mark.parametrize("family", FAMILIES)
def test_derived_from_the_references_own_they_are_the_references(tapped: Tapped, family: str, merge_rule: str) -> None:
    """Bit by bit: the order of operations is the literal form's."""
    case = tapped(family, "3D_RoPE", merge_rule)
    mask = prepared(case.bundle)[1].prompt.point_mask
    for layer, want in of_reference(case).items():
        made = derive(want[1].tensors, mask, want[2].tensors, want[6].tensors)
        assert sorted(made) == [3, 4, 5, 7, 8]
        made[9] = restored({**made, 1: want[1]}, mask)
        for number, checkpoint in made.items():
            for name, tensor in checkpoint.tensors.items():
                assert_close(f"layer {layer}, {number} {name}", tensor, want[number].tensors[name], EXACT)


def test_the_checkpoints_differ_where_the_steps_differ(tapped: Tapped) -> None:
    """Otherwise the comparisons above would prove nothing."""
    case = tapped("llama")
    mask = prepared(case.bundle)[1].prompt.point_mask
    for want in of_reference(case).values():
        key = {number: checkpoint.tensors.get("key") for number, checkpoint in want.items()}
        assert np.abs(key[3] - key[4]).max() > 0.1, "turned in 3D"
        assert np.abs(key[5] - key[8])[mask].max() > 0.1, "turned in 1D too"
        assert np.abs(key[8] - key[9])[mask].max() > 0.1, "restored"
        assert_close("text", key[9][~mask], key[8][~mask], EXACT)


def test_watching_changes_nothing_and_ends(tapped: Tapped, capsys: pytest.CaptureFixture[str]) -> None:
    case = tapped("qwen")
    reference, scene = build_reference(case.checkpoint), prepared(case.bundle)[1]
    prompt = [scene.text_ids], [reference.encode(scene.inputs.feeds)], [scene.patch_coords]
    want, _ = reference.prefill(*prompt)
    run_reference(reference, scene, [0, 1], lambda *_: None)
    seen: list[int] = []
    run_reference(reference, scene, [1], lambda layer, _: seen.append(layer))
    got, _ = reference.prefill(*prompt)
    assert seen == [1]
    assert_close("logits", got, want, EXACT)
    assert all(layer.self_attn.watch is None for layer in reference.language_model.model.layers)
    assert capsys.readouterr().out == ""


def test_record_keeps_what_the_projections_gave(tapped: Tapped) -> None:
    """The literal form writes into them later."""
    case = tapped("qwen")
    reference, scene = build_reference(case.checkpoint), prepared(case.bundle)[1]
    with reference.record() as seen:
        run_reference(reference, scene, [], lambda *_: None)
    want = of_reference(case)[1][1].tensors
    assert_close("q_proj.1", seen["q_proj.1"][0], want["query"].reshape(len(want["query"]), -1), EXACT)
    assert_close("k_proj.1", seen["k_proj.1"][0], want["key"].reshape(len(want["key"]), -1), EXACT)


def test_without_a_3d_table_the_reference_is_seen_plain(tapped: Tapped) -> None:
    """Coordinates that are not finite leave the point tokens in 1D."""
    case = tapped("qwen")
    scene = prepared(case.bundle)[1]
    coords = scene.patch_coords.copy()
    coords[0, 0] = np.nan
    broken = dataclasses.replace(scene, inputs=dataclasses.replace(scene.inputs, patch_coords=coords))
    found = {}
    with pytest.warns(UserWarning, match="3D RoPE is skipped"):
        run_reference(build_reference(case.checkpoint), broken, [0, 1], found.__setitem__)
    assert [list(found[layer]) for layer in (0, 1)] == [PLAIN, PLAIN]
    assert_close("key", found[1][8].tensors["key"], found[1][9].tensors["key"], EXACT)
    with pytest.raises(SceneError, match=r"layer 0: checkpoints \[1, 6, 8, 9\] stand against \[1, 2, 3, 4"):
        list(compare_layer(0, found[0], taps_of(case.bundle).checkpoints(0), LIMITS["fp32"]))


def test_fp16_is_equal_within_precision(tapped: Tapped) -> None:
    case = tapped("qwen", precision="fp16")
    differences = against_reference(case, case.bundle, "fp16")
    assert departure(differences) is None
    assert max(d.error for d in differences) > 1e-5, "the graph is not in float32"
    assert departure(against_reference(case, case.bundle)) is not None


def test_taps_travel_in_a_recording(tapped: Tapped, tmp_path: Path) -> None:
    taps = taps_of(tapped("qwen").bundle)
    rest = zeros_beside(taps)
    Recording(FACTS, {**rest, **taps.arrays}).save(tmp_path / "rung.npz")
    loaded = Taps.of(Recording.load(tmp_path / "rung.npz"))
    assert loaded is not None
    differences = compare_taps(taps, loaded, LIMITS["fp32"])
    assert len(differences) == 36
    assert {d.error for d in differences} == {0.0}
    assert Taps.of(Recording({"vlm_pe": None}, rest)) is None
    with pytest.raises(SceneError, match="none in common"):
        compare_taps(taps, Taps({}, True), LIMITS["fp32"])


@pytest.mark.parametrize(
    ("name", "array"),
    [
        (POINT_MASK, np.ones(3, bool)),
        (POINT_MASK, np.ones(3, np.float32)),
        ("tap1.key.x", np.ones(3, np.float32)),
        ("tap1.key.99", None),
        ("tap9.key.0", np.ones((3, 2, 64), np.float32)),
        ("tap9.key.0", np.float32(1)),
        ("tap2.cos", np.ones((3, 64), np.float32)),
    ],
)
def test_taps_that_do_not_fit_their_recording(tapped: Tapped, name: str, array: np.ndarray | None) -> None:
    taps = taps_of(tapped("qwen").bundle)
    altered = taps.arrays["tap1.key.0"] if array is None else np.asarray(array)
    with pytest.raises(SceneError, match=rf"r: its recording has {re.escape(name)} as .*does not fit its prompt"):
        Taps.of(Recording(FACTS, {**zeros_beside(taps), **taps.arrays, name: altered}))


def zeros_beside(taps: Taps) -> dict[str, np.ndarray]:
    """What a recording of the same prompt and model has besides taps, all zero."""
    positions, _, size = taps.arrays["tap1.key.0"].shape
    sizes = {"S": positions, "D": size, "2L": 4}
    shapes = {name: [sizes.get(axis, 2) for axis in axes] for name, axes in AXES.items()}
    return {name: np.zeros(shape, np.int32 if name in INTEGERS else np.float32) for name, shape in shapes.items()}


def test_what_is_no_number_departs() -> None:
    good = Checkpoint({"query": np.ones((2, 1, 4), np.float32)})
    bad = Checkpoint({"query": np.full((2, 1, 4), np.nan, np.float32)})
    first = departure(list(compare_layer(3, {1: good}, {1: bad}, LIMITS["fp32"])))
    assert first is not None
    assert first.place == "checkpoint 1 (query) of layer 3"
    assert torch.isnan(torch.tensor(first.error))
