"""Records of engines in segments: the plans of this bundle's segments and no others, in the order of the layers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.engines.record import SEGMENTED, EngineRecord
from runtime.errors import EngineError
from tests.engines.built import CLOUDS, Make, Place, plain, run, tokens_of
from tests.engines.shop import rebuild
from tests.exported import Export

PLANS = ["encoder", *(f"{graph}.{number}" for graph in ("prefill", "decode") for number in range(3))]
Plans = dict[str, Any]


@pytest.fixture
def here(place: Make, tmp_path: Path) -> Place:
    return place("10.16.1", "3d segmented").copied(tmp_path / "bundle")


def edit(here: Place, change: Callable[[Plans], Plans]) -> None:
    path = here.engines / "engine.json"
    facts = json.loads(path.read_text())
    assert list(facts["plans"]) == PLANS
    path.write_text(json.dumps(facts | {"plans": change(facts["plans"])}))


def refusal(here: Place) -> str:
    with pytest.raises(EngineError, match="none of its engines can run here") as caught:
        here.load()
    return str(caught.value)


def test_the_order_of_a_record_means_nothing(here: Place) -> None:
    with plain(here) as pipeline:
        want = tokens_of(run(pipeline, CLOUDS, tokens=12))
    edit(here, lambda plans: dict(reversed(plans.items())))
    assert EngineRecord.read(here.engines).plans_of("decode") == ["decode.0", "decode.1", "decode.2"]
    with here.load() as pipeline:
        assert tokens_of(run(pipeline, CLOUDS, tokens=12)) == want


@pytest.mark.parametrize(
    ("name", "like"),
    [
        ("decode.3", "decode.1"), ("decode.7", "decode.0"), ("decode.-1", "decode.0"), ("decode.x", "decode.0"),
        ("decode.", "decode.0"), ("decode.00", "decode.0"), (f"decode.{10**30}", "decode.0"),
        ("prefill.x", "prefill.0"), ("prefill", "prefill.0"), ("encoder.0", "encoder"), ("../x", "decode.0"),
    ],
)  # fmt: skip
def test_a_plan_too_many(here: Place, name: str, like: str) -> None:
    edit(here, lambda plans: plans | {name: plans[like] | {"plan": f"{name}.plan"}})
    assert (
        f"{here.engines.name}: its plan of {name!r} does not go with this bundle and its other plans. Build them"
        in (refusal(here))
    )


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_too_few(here: Place, name: str) -> None:
    edit(here, lambda plans: {plan: facts for plan, facts in plans.items() if plan != name})
    assert EngineRecord.read(here.engines).language_model == SEGMENTED
    assert f"{here.engines.name}: the plan of {name} is missing. " in refusal(here)


def test_engines_of_an_export_in_other_segments(here: Place, exported: Export, tmp_path: Path) -> None:
    """The encoder is the same, so it alone does not tell: the language model may be another one."""
    whole = exported("qwen", "3D_RoPE", "3D_only").bundle
    folder = Path(shutil.copytree(whole.folder, tmp_path / "anew"))
    shutil.copytree(here.folder / "engines", folder / "engines")
    said = refusal(Place(here.gpu, folder))
    assert f"{here.engines.name}: its plan of 'decode.0' does not go with this bundle" in said
    assert said.endswith(rebuild(whole).replace(str(whole.folder), str(folder)))
