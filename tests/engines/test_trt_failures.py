"""What goes wrong on a GPU is a sentence, and the next scene runs."""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import CapacityError, EngineError
from runtime.scene import Request
from tests.engines.built import (
    CLOUDS,
    MAX_BATCH,
    MAX_POINT_TOKENS,
    MAX_VOXELS,
    MODEL,
    Place,
    Spent,
    plain,
    run,
    tokens_of,
)
from tests.scenes import room


def test_scenes_beyond_the_profile_are_refused_and_the_next_one_runs(either: Place) -> None:
    want = tokens_of(run(plain(either)))
    with either.load() as pipeline:
        with pytest.raises(EngineError) as voxels:
            run(pipeline, [room(5, 6000, (2.0, 1.5, 1.0))])
        assert re.fullmatch(
            rf"encoder: '[\w.]+' is \[\d+(, \d+)*\], but this engine was built for 1 to {MAX_VOXELS} along N0\. "
            r"Crop the scene, or build the engines again with a larger --max_voxels\.",
            str(voxels.value),
        )
        assert tokens_of(run(pipeline)) == want
        with pytest.raises(CapacityError) as points:
            run(pipeline, [room(6, 1000, (40.0, 30.0, 10.0))])
        assert re.fullmatch(
            rf"the prompt has \d+ positions \(\d+ point tokens\), but the engines were built for "
            rf"{MAX_POINT_TOKENS + 512}\. Crop the scene, or build them again with larger --max_point_tokens and "
            r"--max_length\.",
            str(points.value),
        )
        assert tokens_of(run(pipeline)) == want
        with pytest.raises(EngineError) as batch:
            run(pipeline, [CLOUDS[0]] * (MAX_BATCH + 1))
        assert re.fullmatch(
            r"prefill: '\w+' is \[4, .*\], but this engine was built for 1 to 3 along B\. Run fewer scenes at a time, "
            r"or build the engines again with a larger --max_batch\.",
            str(batch.value),
        )
        assert tokens_of(run(pipeline)) == want


TRIED = r"{}: a first decode step failed on NVIDIA Fake 9000: "


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("deserialize:encoder", r"{}/encoder\.plan: TensorRT 10\.16\.1 cannot load it \(.*Deserialization failed\)\. "),
        (f"deserialize:{MODEL}", r"{}/language_model\.plan: TensorRT 10\.16\.1 cannot load it \(.*\)\. "),
        (f"context:{MODEL}", TRIED + r"decode: TensorRT made no context \(.*out of memory\)\. "),
        (f"execute:{MODEL}", TRIED + r"decode: TensorRT could not run it \(.*CUDA launch failed\)\. "),
    ],
)
def test_a_load_that_fails_is_a_sentence_and_gives_all_back(here: Place, fault: str, sentence: str) -> None:
    before = here.used()
    here.gpu.device.faults.add(fault)
    with pytest.raises(EngineError) as caught:
        here.load()
    advice = rf"Build them: python -m export\.build --bundle {here.folder}"
    assert re.fullmatch(sentence.format(re.escape(str(here.engines))) + advice, str(caught.value))
    here.gpu.device.faults.clear()
    del caught
    gc.collect()
    assert here.used() == before
    with here.load() as pipeline:
        assert len(run(pipeline, tokens=5)[0].tokens) == 5


def refusals(here: Place) -> list[str]:
    """What loading says with more and more memory, until it succeeds."""
    said: list[str] = []
    for memory in range(1_000_000, 100_000_000, 250_000):
        here.gpu.device.memory = memory
        try:
            here.load().close()
        except EngineError as error:
            said.append(str(error))
        else:
            break
    return said


def test_a_gpu_without_room(either: Place) -> None:
    want = tokens_of(run(plain(either)))
    device, before = either.gpu.device, either.used()
    total = device.memory
    with either.load() as pipeline:
        device.memory = device.bytes_allocated() + 600_000
        with pytest.raises(EngineError) as caught:
            run(pipeline, CLOUDS)
        assert str(caught.value).startswith("the GPU has no room left (")
        del caught
        device.memory = total
        assert tokens_of(run(pipeline)) == want, "the process goes on"
    for said in refusals(either):  # with less than the plans, scratch memory or a first step take
        assert re.search(r"the GPU has not the memory to load it|^the GPU has no room left", said)
        assert "Build them: " not in said, "building the same again would not help"
    device.memory = total
    gc.collect()
    del pipeline
    assert either.used() == before


@pytest.mark.parametrize(("graph", "name"), [("encoder", "encoder"), (MODEL, "prefill")])
def test_a_run_that_fails_is_a_sentence_and_the_next_scene_runs(here: Place, graph: str, name: str) -> None:
    with here.load() as pipeline:
        want = tokens_of(run(pipeline))
        here.gpu.device.faults.add(f"execute:{graph}")
        with pytest.raises(EngineError, match=rf"{name}: TensorRT could not run it \(.*launch failed\)\."):
            run(pipeline)
        here.gpu.device.faults.clear()
        assert tokens_of(run(pipeline)) == want


def test_a_decode_that_fails_later_is_a_sentence(here: Place) -> None:
    """Once the first token is there, decode is what runs."""
    request, faults = Request(clean_up=False, max_new_tokens=65), here.gpu.device.faults
    with here.load() as pipeline:
        want = pipeline(CLOUDS[0], request).tokens
        pipeline.engines.backend.steps.graphs.clear()  # type: ignore[union-attr]
        with pytest.raises(EngineError, match=r"decode: TensorRT could not run it \(.*launch failed\)\."):
            pipeline(CLOUDS[0], request, on_text=lambda _: faults.add(f"execute:{MODEL}"))
        faults.clear()
        assert pipeline(CLOUDS[0], request).tokens == want


def test_an_engine_that_cannot_be_captured_runs_step_by_step(here: Place) -> None:
    want = tokens_of(run(plain(here)))
    here.gpu.device.faults.add(f"capture:{MODEL}")
    with here.load() as pipeline:
        spent = Spent(here)
        assert tokens_of(run(pipeline)) == want
        assert tokens_of(run(pipeline)) == want
        assert spent["cudaGraphInstantiate"] == 0
        assert spent["cudaStreamBeginCapture"] == 1
        refused = pipeline.engines.backend.steps.graphs.refused  # type: ignore[union-attr]
        assert refused is not None
        assert "decode: TensorRT could not run it" in refused


def test_a_gpu_that_is_not_there(here: Place) -> None:
    with pytest.raises(EngineError) as caught:
        here.load(device="cuda:2")
    assert str(caught.value) == ("there is no device cuda:2, only devices cuda:0 to cuda:1. Choose another --device.")


def test_an_altered_plan(here: Place, tmp_path: Path) -> None:
    altered = here.copied(tmp_path / "altered")
    plan = altered.engines / "language_model.plan"
    data = bytearray(plan.read_bytes())
    data[len(data) // 2] ^= 1
    plan.write_bytes(data)
    with pytest.raises(EngineError, match=rf"{plan}: its SHA-256 is not the recorded one; it was altered\. Build"):
        altered.load()
    with pytest.raises(EngineError, match=rf"{plan}: TensorRT 10\.16\.1 cannot load it \(.*damaged\)\. Build them: "):
        altered.load(verify=False)


WRONG_RECORDS: dict[str, tuple[str, Callable[[dict[str, Any]], object]]] = {
    "an input is missing": ("input 'input_ids' is another one", lambda plan: plan["inputs"].pop("input_ids")),
    "an input too many": ("input 'x' is another one", lambda plan: plan["inputs"].update(x=["B"])),
    "an axis too many": ("input 'lengths' is another one", lambda plan: plan["inputs"]["lengths"].append("B")),
    "a letter of no profile": ("input 'lengths' is another one", lambda plan: plan["inputs"].update(lengths=["Q"])),
    "a size": ("input 'lengths' is another one", lambda plan: plan["inputs"].update(lengths=["1"])),
    "another size": ("input 'cos_1d' is another one", lambda plan: plan["inputs"]["cos_1d"].__setitem__(2, "65")),
    "a profile is missing": (
        r"profiles \(decode\) are not prefill and decode", lambda plan: plan["profiles"].pop("prefill"),
    ),
    "profiles in another order": (
        r"profiles \(decode, prefill\) are not prefill and decode",
        lambda plan: plan["profiles"].update(prefill=plan["profiles"].pop("prefill")),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG_RECORDS)
def test_a_record_of_another_plan(here: Place, tmp_path: Path, case: str) -> None:
    altered = here.copied(tmp_path / "altered")
    path = altered.engines / "engine.json"
    facts = json.loads(path.read_text())
    sentence, change = WRONG_RECORDS[case]
    change(facts["plans"][MODEL])
    path.write_text(json.dumps(facts))
    before = here.used()
    with pytest.raises(EngineError, match=rf"{path}: it is not about {MODEL}\.plan: its {sentence}\. Build them: "):
        altered.load()
    gc.collect()
    assert here.used() == before


def test_feeds_are_checked(here: Place) -> None:
    from runtime.bundle import Bundle
    from runtime.engines.trt import TrtBackend

    backend = TrtBackend(0)
    decode = backend.load(Bundle.open(here.folder), "decode")
    sizes = {"B": 2, "T": 1, "M": 512}
    feeds = {
        name: backend.zeros([sizes.get(str(axis), axis) for axis in spec.shape], spec.dtype)
        for name, spec in decode.inputs.items()
    }
    assert decode.run(feeds)["logits"].shape[:2] == (2, 1)
    with pytest.raises(EngineError, match=r"decode: missing or unknown tensors: cos\. The bundle and the runtime"):
        decode.run({name: tensor for name, tensor in feeds.items() if name != "cos"})
    with pytest.raises(
        EngineError, match=r"decode: 'cos' is float16\[2, 1, 64\], but the engine takes float32\[B, T, 64\]"
    ):
        decode.run(feeds | {"cos": backend.zeros((2, 1, 64), "float16")})
    with pytest.raises(EngineError, match=r"decode: axis B is 1 in 'past_length', but 2 in '\w+'; they must agree"):
        decode.run(feeds | {"past_length": backend.zeros((1,), "int32")})
    with pytest.raises(EngineError, match=r"decode: 'past' is \[100, 2, .*but this engine was built for 512 to 1024"):
        decode.run(feeds | {"past": backend.zeros((100, 2, *feeds["past"].shape[2:]), "float32")})
    rows = backend.zeros((3, 2, *decode.outputs["rows"].shape[2:]), "float32")  # type: ignore[misc]
    with pytest.raises(EngineError, match=r"decode: 'rows' is \[1, 2, \d+, 64\], but has room for \[3, 2, \d+, 64\]\."):
        decode.run(feeds, {"rows": rows})
    backend.close()
