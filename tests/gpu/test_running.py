"""A pipeline on a GPU in use: threads, memory, scenes that are too large, files that do not fit."""

from __future__ import annotations

import dataclasses
import gc
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runtime.bundle import Bundle
from runtime.engines.cuda.gpu import Gpu, free_memory
from runtime.engines.record import ENGINES, EngineRecord
from runtime.errors import EngineError, SceneError
from runtime.pipeline import Pipeline
from runtime.scene import Request
from tests.gpu.cases import Case
from tests.scenes import room

pytestmark = pytest.mark.gpu

CLOUDS = [room(seed, 400) for seed in (1, 2, 3)]
SHORT = Request(clean_up=False, max_new_tokens=48)
GROWTH = 8 << 20  # bytes; the driver rounds


@pytest.fixture
def running(smallest: Case, backend_here: str) -> Iterator[Pipeline]:
    with Pipeline.load(smallest.folder, backend=backend_here, device="cuda:0", verify=False) as loaded:
        yield loaded


def test_threads_give_what_one_after_the_other_gives(running: Pipeline, smallest: Case, backend: str) -> None:
    want = [running(cloud, SHORT).tokens for cloud in CLOUDS]
    with ThreadPoolExecutor(3) as threads:
        assert list(threads.map(lambda cloud: running(cloud, SHORT).tokens, CLOUDS * 3)) == want * 3
        with Pipeline.load(smallest.folder, backend=backend, device="cuda:0", verify=False) as second:
            both = [threads.submit(each, cloud, SHORT) for cloud in CLOUDS for each in (running, second)]
            assert [future.result().tokens for future in both] == [tokens for tokens in want for _ in range(2)]


def test_ten_times_load_run_and_close(smallest: Case, backend_here: str, gpu: Gpu) -> None:
    def once() -> int:
        with Pipeline.load(smallest.folder, backend=backend_here, device="cuda:0", verify=False) as pipeline:
            pipeline(CLOUDS[0], SHORT)
        del pipeline
        gc.collect()
        return free_memory()[0]

    before = once()  # what libraries keep for good
    after = [once() for _ in range(10)]
    # The driver gives some 30 MB back when it likes, now and then; what leaks never comes back.
    assert before - max(after[5:]) < GROWTH, f"bytes free: {before}, then {after}"


def test_memory_does_not_grow_from_scene_to_scene(running: Pipeline) -> None:
    for cloud in CLOUDS:
        running(cloud, SHORT)
    before = free_memory()[0]
    for _ in range(5):
        for cloud in CLOUDS:
            running(cloud, SHORT)
    assert before - free_memory()[0] < GROWTH


def test_a_scene_that_is_too_large_is_refused_and_the_next_one_runs(running: Pipeline) -> None:
    want = running(CLOUDS[0], SHORT).tokens
    with pytest.raises(SceneError, match=r"Crop the scene"):
        running(room(6, 12_000, (60.0, 50.0, 12.0)), SHORT)
    assert running(CLOUDS[0], SHORT).tokens == want
    engine, backend = running.engines.prefill, running.engines.backend
    if "S" in engine.limits:
        sizes = {"B": 1, "S": engine.limits["S"] + 1}
        with backend.exclusive(), pytest.raises(EngineError, match=r"built for \d+ to \d+ along S\. Crop the scene"):
            engine.run({
                name: backend.zeros([sizes.get(str(axis), axis) for axis in spec.shape], spec.dtype)  # type: ignore[misc]
                for name, spec in engine.inputs.items()
            })  # fmt: skip
        assert running(CLOUDS[0], SHORT).tokens == want


@pytest.fixture
def altered(smallest: Case, gpu: Gpu, tmp_path: Path) -> tuple[Path, Path, EngineRecord]:
    """A bundle of links with engines of its own: bundle, the engines' folder, their record."""
    pytest.importorskip("tensorrt")
    from runtime.engines import trt_compat
    from runtime.engines.plans import find_plans

    plans = find_plans(Bundle.open(smallest.folder, verify=False), gpu, trt_compat.version())
    bundle = tmp_path / "bundle"
    folder = bundle / ENGINES / plans.folder.name
    folder.mkdir(parents=True)
    for source, target in ((smallest.folder, bundle), (plans.folder, folder)):
        for path in source.iterdir():
            if path.is_file() and path.name != "engine.json":
                (target / path.name).symlink_to(path.resolve())
    plans.record.write(folder)
    return bundle, folder, plans.record


def refusal(bundle: Path, *, verify: bool) -> str:
    with pytest.raises(EngineError) as caught:
        Pipeline.load(bundle, backend="tensorrt", verify=verify)
    return str(caught.value)


def test_engines_of_another_place_are_refused(altered: tuple[Path, Path, EngineRecord]) -> None:
    bundle, folder, record = altered
    for changes, sentence in (
        ({"gpu": "NVIDIA Other"}, "built for NVIDIA Other (compute capability"),
        ({"tensorrt": "7.0.0"}, "built with TensorRT 7.0.0, but "),
        ({"precision": "int8"}, "built in int8, but the bundle is in "),
    ):
        dataclasses.replace(record, **changes).write(folder)  # type: ignore[arg-type]
        said = refusal(bundle, verify=False)
        assert sentence in said
        assert said.endswith(f"Build them: python -m export.build --bundle {bundle}")
    record.write(folder)
    Pipeline.load(bundle, backend="tensorrt").close()


def test_a_damaged_plan_is_refused(altered: tuple[Path, Path, EngineRecord]) -> None:
    """First by its digest; where digests are not compared, by TensorRT itself."""
    bundle, folder, record = altered
    plan = folder / record.plans["encoder"].plan
    data = bytearray(plan.read_bytes())
    data[:256] = bytes(256)
    plan.unlink()
    plan.write_bytes(data)
    assert f"{plan}: its SHA-256 is not the recorded one" in refusal(bundle, verify=True)
    assert f"{plan}: TensorRT " in refusal(bundle, verify=False)
    plan.write_bytes(data[:-7])
    assert f"{plan}: has {len(data) - 7:,} bytes, but its record says {len(data):,}." in refusal(bundle, verify=False)


def test_a_stale_record_is_refused(altered: tuple[Path, Path, EngineRecord]) -> None:
    bundle, folder, _ = altered
    facts = json.loads((folder / "engine.json").read_text())
    for plan in facts["plans"].values():
        plan["source_sha256"] = "0" * 64
    (folder / "engine.json").write_text(json.dumps(facts))
    assert "the bundle was exported anew since" in refusal(bundle, verify=False)
