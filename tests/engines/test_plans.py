"""Which engines of a bundle fit: every reason why they do not is a sentence that says what to do."""

from __future__ import annotations

import dataclasses
import json
import os
import re

import pytest

from runtime.engines.cuda.gpu import Gpu
from runtime.engines.plans import find_plans
from runtime.engines.record import SEPARATE, SHARED, EngineRecord, plan_names
from runtime.errors import EngineError
from tests.engines.shop import HERE, TENSORRT, Shop, content, rebuild


def test_no_engines_at_all(shop: Shop) -> None:
    want = f"{shop.bundle.folder}: has no engines for NVIDIA H200 with TensorRT 10.16.1. {rebuild(shop.bundle)}"
    assert shop.refusal() == want
    (shop.bundle.folder / "engines").mkdir()
    (shop.bundle.folder / "engines" / "notes.txt").touch()
    (shop.bundle.folder / "engines" / ".nvidia-h200-trt10.16.1-fp32.tmp").mkdir()  # a build under way
    assert shop.refusal() == want


OTHER_GPU = dataclasses.replace(HERE, name="NVIDIA L4", compute_capability="8.9")
OTHER_CAPABILITY = dataclasses.replace(HERE, compute_capability="9.1")


@pytest.mark.parametrize(
    ("gpu", "changes", "reason"),
    [
        (OTHER_GPU, {}, "built for NVIDIA L4 (compute capability 8.9), but this is NVIDIA H200"),
        (OTHER_CAPABILITY, {}, "built for compute capability 9.1, but this GPU has 9.0"),
        (HERE, {"tensorrt": "8.6.0"}, "built with TensorRT 8.6.0, but 10.16.1 is installed"),
        (HERE, {"tensorrt": "10.16.0"}, "built with TensorRT 10.16.0, but 10.16.1 is installed"),
        (HERE, {"precision": "fp16"}, "built in fp16, but the bundle is in fp32"),
    ],
)
def test_engines_of_another_place(shop: Shop, gpu: Gpu, changes: dict[str, object], reason: str) -> None:
    folder = shop.build(gpu=gpu, **changes)
    assert shop.refusal() == (
        f"{shop.bundle.folder}: none of its engines can run here. {folder.name}: {reason}. {rebuild(shop.bundle)}"
    )


@pytest.mark.parametrize("graph", ["encoder", "language_model"])
@pytest.mark.parametrize("field", ["source_sha256", "weights_sha256"])
def test_engines_of_an_earlier_export(shop: Shop, graph: str, field: str) -> None:
    plans = shop.record(HERE).plans
    plans[graph] = dataclasses.replace(plans[graph], **{field: "0" * 64})  # type: ignore[arg-type]
    folder = shop.build(plans=plans)
    reason = f"{folder.name}: the bundle was exported anew since {graph} was built"
    assert shop.refusal() == f"{shop.bundle.folder}: none of its engines can run here. {reason}. {rebuild(shop.bundle)}"


def test_a_graph_without_plan_and_a_bundle_without_stacked_graphs(shop: Shop) -> None:
    folder = shop.build(plans={"language_model": shop.plan("language_model")})
    assert f"{folder.name}: the plan of encoder is missing. " in shop.refusal()
    half = shop.build(name="a-half", plans={name: shop.plan(name) for name in ("encoder", "prefill")})
    assert f"{half.name}: the plan of decode is missing. " in shop.refusal()
    graphs = {name: file for name, file in shop.bundle.manifest.graphs.items() if "stacked" not in name}
    old = Shop(dataclasses.replace(shop.bundle, manifest=dataclasses.replace(shop.bundle.manifest, graphs=graphs)))
    full = shop.build(name="b-whole")
    assert f"{full.name}: the bundle was exported anew since language_model was built" in old.refusal()


@pytest.mark.parametrize("language_model", [SHARED, SEPARATE])
def test_engines_of_either_layout_fit(shop: Shop, language_model: str) -> None:
    here = dataclasses.replace(shop, language_model=language_model)
    folder = here.build()
    found = find_plans(here.bundle, HERE, TENSORRT)
    assert (found.folder, found.record.language_model) == (folder, language_model)
    assert list(found.record.plans) == list(plan_names(language_model))


def test_records_from_before_islands_were_in_them(shop: Shop) -> None:
    path = shop.build() / "engine.json"
    facts = json.loads(path.read_text())
    for plan in facts["plans"].values():
        del plan["islands"]
    path.write_text(json.dumps(facts))
    assert find_plans(shop.bundle, HERE, TENSORRT).record.plans["encoder"].islands == ()


def test_all_reasons_are_told(shop: Shop) -> None:
    shop.build(gpu=OTHER_GPU)
    shop.build(tensorrt="8.6.0")
    assert re.fullmatch(
        r".*: none of its engines can run here\. nvidia-h200-trt8\.6\.0-fp32: built with TensorRT 8\.6\.0, but "
        r"10\.16\.1 is installed; nvidia-l4-trt10\.16\.1-fp32: built for NVIDIA L4 \(compute capability 8\.9\), but "
        r"this is NVIDIA H200\. Build them: python -m export\.build --bundle .*",
        shop.refusal(),
    )


@pytest.mark.parametrize(
    ("built", "here", "fits"),
    [
        ("10.2.0", "10.2.0", True),
        ("10.2.0", "10.16.1", True),
        ("10.16.1", "10.16.1.11", True),  # packages of one version differ behind the third number
        ("10.16.1", "10.2.0", False),  # by number, not by letter
        ("10.16.1", "11.4.0", False),
        ("8.6.0", "8.6.1.post1", True),
        ("10.0.0b6", "10.0.1", True),
        ("someday", "10.0.1", False),
    ],
)
def test_version_compatible_engines_run_on_newer_ones_of_the_same_series(
    shop: Shop, built: str, here: str, fits: bool
) -> None:
    folder = shop.build(tensorrt=built, version_compatible=True)
    if fits:
        assert find_plans(shop.bundle, HERE, here).folder == folder
    else:
        assert f"{folder.name}: built with TensorRT {built}, but {here} is installed" in shop.refusal(tensorrt=here)


@pytest.mark.parametrize(("capability", "fits"), [("8.0", True), ("10.3", True), ("7.5", False)])
def test_hardware_compatible_engines_run_since_ampere(shop: Shop, capability: str, fits: bool) -> None:
    folder = shop.build(hardware_compatible=True)
    there = dataclasses.replace(HERE, name="NVIDIA Other", compute_capability=capability)
    if fits:
        assert find_plans(shop.bundle, there, TENSORRT).folder == folder
    else:
        assert f"{folder.name}: built for NVIDIA H200 (compute capability 9.0)" in shop.refusal(gpu=there)


def test_own_engines_come_before_compatible_ones(shop: Shop) -> None:
    shop.build(name="a-compatible", gpu=OTHER_GPU, hardware_compatible=True, version_compatible=True)
    own = shop.build()
    assert find_plans(shop.bundle, HERE, TENSORRT).folder == own


RANGE = re.compile(r'"B": \[[^]]*\]')


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda text: "", r"Expecting value"),
        (lambda text: text[: len(text) // 2], r"delimiter|Expecting|Unterminated"),
        (lambda text: "[1]", r"its schema is not 1"),
        (lambda text: text.replace('"schema": 1', '"schema": 2'), r"its schema is not 1"),
        (lambda text: text.replace('"opt_level"', '"optimum"'), r"optimum|opt_level"),
        (lambda text: text.replace('"bytes": ', '"bytes": "x", "bytes2": '), r"bytes"),
        (lambda text: "[" * 100_000, "recursion|Expecting"),
        *(
            (lambda text, sizes=sizes: RANGE.sub(f'"B": {sizes}', text), r"encoder\.encoder\.B is \[.*\], but smallest")
            for sizes in ([], [1, 1], [1, 2, 1], [0, 1, 1], [1, 1, 1, 1])
        ),
    ],
)
def test_a_damaged_record(shop: Shop, damage: object, sentence: str) -> None:
    path = shop.build() / "engine.json"
    path.write_text(damage(path.read_text()))  # type: ignore[operator]
    text = shop.refusal()
    assert "nvidia-h200-trt10.16.1-fp32: its record cannot be used (" in text
    with pytest.raises(EngineError, match=rf"{path}: not a usable record of engines \(.*\)\. Build them: "):
        EngineRecord.read(path.parent)
    assert re.search(sentence, text)
    assert text.endswith(rebuild(shop.bundle))


def test_a_damaged_record_does_not_hide_engines_that_fit(shop: Shop) -> None:
    (shop.build(name="a-damaged") / "engine.json").write_text("{}")
    (shop.build(name="b-empty") / "engine.json").unlink()
    shop.build(tensorrt="8.6.0")
    assert "a-damaged" in shop.refusal()
    good = shop.build(name="z-compatible", gpu=OTHER_GPU, hardware_compatible=True)
    assert find_plans(shop.bundle, HERE, TENSORRT).folder == good


@pytest.mark.parametrize("file", ["../encoder.weights", "/etc/hostname", "sub/decode.plan", ".."])
def test_a_plan_lies_beside_its_record(shop: Shop, file: str) -> None:
    folder = shop.build()
    facts = json.loads((folder / "engine.json").read_text())
    facts["plans"]["language_model"]["plan"] = file
    (folder / "engine.json").write_text(json.dumps(facts))
    with pytest.raises(
        EngineError, match=rf"the plan of language_model is '{file}', but language_model\.plan lies beside the record"
    ):
        find_plans(shop.bundle, HERE, TENSORRT)


def test_a_plan_that_is_missing_short_or_altered(shop: Shop) -> None:
    folder = shop.build()
    plans, path = find_plans(shop.bundle, HERE, TENSORRT), folder / "encoder.plan"
    path.write_bytes(content("encoder")[:-1] + b"!")
    assert plans.check("encoder", verify=False) == path
    with pytest.raises(EngineError) as altered:
        plans.check("encoder", verify=True)
    assert str(altered.value) == f"{path}: its SHA-256 is not the recorded one; it was altered. {rebuild(shop.bundle)}"
    os.truncate(path, 5)
    with pytest.raises(EngineError) as short:
        plans.check("encoder", verify=False)
    assert str(short.value) == (f"{path}: has 5 bytes, but its record says 19. Copy it again. {rebuild(shop.bundle)}")
    path.unlink()
    with pytest.raises(EngineError) as missing:
        plans.check("encoder", verify=False)
    assert str(missing.value) == f"{path}: missing, but the record beside it lists it. {rebuild(shop.bundle)}"
