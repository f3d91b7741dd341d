"""The TensorRT back end over a GPU that is none: the tokens of ONNX Runtime, and what is asked of the device."""

from __future__ import annotations

import gc
import re
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.decode.device import CHUNK
from runtime.errors import CapacityError, EngineError
from runtime.pipeline import Pipeline
from runtime.recording import Recorder
from runtime.scene import Request
from tests.compare import Tol, assert_close
from tests.engines.built import (
    CLOUDS,
    MAX_BATCH,
    MAX_POINT_TOKENS,
    MAX_VOXELS,
    VERSIONS,
    Place,
    build,
    run,
    tokens_of,
)
from tests.scenes import room

Make = Callable[..., Place]
MODEL = "language_model"  # the plan of prefill and decode, as faults name it


def plain(place: Place) -> Pipeline:
    return Pipeline.load(place.folder, backend="onnxruntime", threads=1)


@pytest.fixture
def here(place: Make) -> Place:
    return place("10.16.1")


class Spent:
    """What was asked of the device since it was made."""

    def __init__(self, place: Place) -> None:
        self._counts = place.gpu.device.counts
        self._before = Counter(self._counts)

    def __getitem__(self, name: str) -> int:
        return int(self._counts[name] - self._before[name])

    def all(self) -> dict[str, int]:
        return {name: self[name] for name in self._counts if self[name]}


@pytest.mark.parametrize("mode", ["3d", "text"])
@pytest.mark.parametrize("deferred", [False, True], ids=["at once", "deferred"])
@pytest.mark.parametrize("version", VERSIONS)
def test_tokens_and_layout_are_those_of_onnx_runtime(place: Make, version: str, deferred: bool, mode: str) -> None:
    here = place(version, mode)
    here.gpu.device.deferred = deferred
    reference = plain(here)
    with here.load() as pipeline:
        for clouds in ([CLOUDS[0]], CLOUDS, CLOUDS[1:], [CLOUDS[0]]):
            got, want = run(pipeline, clouds), run(reference, clouds)
            assert tokens_of(got) == tokens_of(want)
            assert [str(result.layout) for result in got] == [str(result.layout) for result in want]
            assert all(len(result.tokens) == 65 for result in got)


@pytest.mark.parametrize("version", VERSIONS)
def test_steps_are_captured_once_and_replayed(place: Make, version: str) -> None:
    here = place(version)
    with here.load() as pipeline:
        first, spent = run(pipeline), Spent(here)
        captured = Spent(here)
        run(pipeline)
        assert captured["cudaStreamBeginCapture"] <= 1, "memory that came back in another order"
        spent = Spent(here)
        again = run(pipeline)
        assert (spent["cudaGraphLaunch"], spent["ran:next_tokens"], spent["launch:next_tokens"]) == (64, 64, 0)
        assert spent["cudaStreamBeginCapture"] == spent["cudaMalloc"] == 0, "a scene like the last allocates nothing"
        assert tokens_of(first) == tokens_of(again)
        assert pipeline.engines.backend.steps.graphs.refused is None  # type: ignore[union-attr]


@pytest.mark.parametrize("version", VERSIONS)
def test_without_graphs_and_in_the_plain_loop_the_same_tokens(place: Make, version: str) -> None:
    here = place(version)
    with here.load() as pipeline:
        want = tokens_of(run(pipeline, CLOUDS[:2]))
    with here.load(cuda_graphs=False) as pipeline:
        spent = Spent(here)
        assert tokens_of(run(pipeline, CLOUDS[:2])) == want
        assert spent["cudaStreamBeginCapture"] == spent["cudaGraphLaunch"] == 0
        assert spent["launch:next_tokens"] == 64
        spent, recorder = Spent(here), Recorder(pipeline.engines.backend, 0)
        assert tokens_of(run(pipeline, CLOUDS[:2], recorder=recorder)) == want
        assert spent["launch:next_tokens"] == 0, "the plain loop"
        assert spent["launch:append_rows"] == 64, "the rows are appended on the device all the same"


def test_a_step_asks_for_nothing_but_its_launch(here: Place) -> None:
    """Forty steps more: forty launches more, and a look of the host for each chunk. No copy, no memory."""
    with here.load() as pipeline:
        run(pipeline, tokens=57)
        run(pipeline, tokens=57)
        spent = Spent(here)
        run(pipeline, tokens=17)
        short, spent = spent.all(), Spent(here)
        run(pipeline, tokens=57)
        more = {name: count - short.get(name, 0) for name, count in spent.all().items()}
        looks = 40 // CHUNK
        assert {name: count for name, count in more.items() if count} == {
            "cudaGraphLaunch": 40, "execute": 40, "ran:append_rows": 40, "ran:next_tokens": 40,
            "cudaEventCreateWithFlags": looks, "cudaEventRecord": looks, "cudaEventSynchronize": looks,
            "cudaEventDestroy": looks,
        }  # fmt: skip


def test_prefill_writes_into_the_cache_and_the_encoder_into_the_prompt(here: Place) -> None:
    """Between the engines nothing is copied: two table rows for the first step, and one download, of logits."""
    with here.load() as pipeline:
        spent = Spent(here)
        run(pipeline, CLOUDS[:2], tokens=2)
        assert spent["DeviceToDevice"] == 2 * 2
        assert spent["DeviceToHost"] == 1


def test_a_stop_token_drops_the_steps_behind_it(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with here.load() as pipeline:
        (free,) = tokens_of(run(pipeline))
        at = next(index for index in range(10, 30) if free[index] not in free[:index])
        generation = pipeline.manifest.generation
        object.__setattr__(generation, "stop_token_ids", (free[at],))  # this pipeline's own manifest
        (stopped,) = run(pipeline)
        assert (stopped.tokens, stopped.stopped_by) == (free[: at + 1], "stop token")
        (again,) = run(pipeline)
        assert again.tokens == stopped.tokens, "surplus steps left nothing behind"
        counts = here.gpu.device.counts
        assert counts["cudaEventDestroy"] == counts["cudaEventCreateWithFlags"], "nor did the marks nobody waited for"


def test_two_threads_on_one_pipeline(here: Place) -> None:
    want = [tokens_of(run(plain(here), [cloud])) for cloud in CLOUDS]
    with here.load() as pipeline:
        got = together([lambda cloud=cloud: tokens_of(run(pipeline, [cloud])) for cloud in CLOUDS for _ in range(3)])
    assert got == [tokens for tokens in want for _ in range(3)]


def test_two_pipelines_in_two_threads(here: Place) -> None:
    want = [tokens_of(run(plain(here), [cloud])) for cloud in CLOUDS]

    def all_scenes(device: str) -> list[list[tuple[int, ...]]]:
        with here.load(device=device) as pipeline:
            return [tokens_of(run(pipeline, [cloud])) for cloud in CLOUDS for _ in range(2)]

    before = here.used()
    got = together([lambda device=device: all_scenes(device) for device in ("cuda:0", "cuda:0", "cuda:1")])
    assert got == [[tokens for tokens in want for _ in range(2)]] * 3
    assert here.used() == before


def together(actions: list[Callable[[], Any]]) -> list[Any]:
    """Results of actions that run at the same time, each in a thread."""
    results: list[Any] = [None] * len(actions)
    begin = threading.Barrier(len(actions))

    def work(index: int) -> None:
        begin.wait()
        try:
            results[index] = actions[index]()
        except BaseException as error:
            results[index] = error

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(actions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive(), "two threads wait for each other"
    return results


@pytest.mark.parametrize("version", VERSIONS)
def test_ten_times_load_run_and_close(place: Make, version: str) -> None:
    here = place(version)
    before = here.used()
    for _ in range(10):
        pipeline = here.load()
        run(pipeline, tokens=12)
        pipeline.close()
        del pipeline
        assert here.used() == before, "right away, without Python's collector"
    counts = here.gpu.device.counts
    for made, gone in [
        ("cudaStreamCreateWithFlags", "cudaStreamDestroy"), ("cudaEventCreateWithFlags", "cudaEventDestroy"),
        ("cudaGraphInstantiate", "cudaGraphExecDestroy"),
    ]:  # fmt: skip
        assert counts[made] == counts[gone] > 0, made


def test_closing_twice_and_leaving_early(here: Place) -> None:
    before = here.used()
    pipeline = here.load()
    request = Request(clean_up=False, max_new_tokens=30)
    with pytest.raises(KeyboardInterrupt):
        pipeline(CLOUDS[0], request, on_text=interrupt)
    want = tokens_of(run(plain(here)))
    assert tokens_of(run(pipeline)) == want, "an interrupted scene leaves nothing behind"
    pipeline.close()
    pipeline.close()
    del pipeline
    gc.collect()
    assert here.used() == before


def interrupt(_: str) -> None:
    raise KeyboardInterrupt


def test_memory_does_not_grow_from_scene_to_scene(here: Place) -> None:
    with here.load() as pipeline:
        gc.disable()
        try:
            for _ in range(2):
                for clouds in (CLOUDS, CLOUDS[:1], CLOUDS[1:]):
                    run(pipeline, clouds, tokens=20)
            before = here.used()
            for _ in range(3):
                for clouds in (CLOUDS, CLOUDS[:1], CLOUDS[1:]):
                    run(pipeline, clouds, tokens=20)
            assert here.used() == before
        finally:
            gc.enable()


def test_scenes_beyond_the_profile_are_refused_and_the_next_one_runs(here: Place) -> None:
    want = tokens_of(run(plain(here)))
    with here.load() as pipeline:
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
            r"prefill: '\w+' is \[4, .*\], but this engine was built for 1 to 3 along B\. Crop the scene, or build the "
            r"engines again with a larger --max_batch\.",
            str(batch.value),
        )
        assert tokens_of(run(pipeline)) == want


def test_limits_come_from_the_profile(here: Place, tmp_path: Path) -> None:
    """Engines for a shorter cache than the bundle's: generation ends there."""
    with here.load() as pipeline:
        assert pipeline.engines.decode.limits == {"B": MAX_BATCH, "T": 1, "M": 1024}
        assert pipeline.engines.prefill.limits == {"B": MAX_BATCH, "S": MAX_POINT_TOKENS + 512}
    short = here.copied(tmp_path / "short")
    build(short.folder, "--max_length", "400")
    with short.load() as pipeline:
        assert pipeline.manifest.cache.capacity == 400
        (result,) = run(pipeline, tokens=500)
        assert (result.stopped_by, len(result.tokens)) == ("cache capacity", 400 - result.report.prompt_tokens + 1)
        want = run(plain(here), tokens=len(result.tokens))
        assert result.tokens == want[0].tokens


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


def test_a_gpu_without_room(here: Place) -> None:
    want = tokens_of(run(plain(here)))
    device, before = here.gpu.device, here.used()
    total = device.memory
    with here.load() as pipeline:
        device.memory = device.bytes_allocated() + 600_000
        with pytest.raises(EngineError) as caught:
            run(pipeline, CLOUDS)
        assert str(caught.value).startswith("the GPU has no room left (")
        del caught
        device.memory = total
        assert tokens_of(run(pipeline)) == want, "the process goes on"
    device.memory = 6_000_000  # less than the plans take
    with pytest.raises(EngineError, match=r"the GPU has not the memory to load it|the GPU has no room left") as caught:
        here.load()
    assert "export.build" not in str(caught.value), "building again would not help"
    del caught
    device.memory = total
    gc.collect()
    del pipeline
    assert here.used() == before


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


def test_the_second_gpu(here: Place) -> None:
    want = tokens_of(run(plain(here)))
    with here.load(device="cuda:1") as pipeline:
        assert tokens_of(run(pipeline)) == want
        first, second, pinned = here.used()
        assert (first, second > 0, pinned > 0) == (0, True, True)


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


def test_compatible_engines_run_elsewhere(place: Make, fake_gpu: Any, tmp_path: Path) -> None:
    """Built on one GPU and one version, run on others; their host code is allowed."""
    here = place("10.16.1")
    there = here.copied(tmp_path / "there")
    (engines,) = (there.folder / "engines").iterdir()
    for path in sorted(engines.rglob("*")):
        path.unlink()
    engines.rmdir()
    build(there.folder, "--version_compatible", "--hardware_compatible")
    want = tokens_of(run(plain(here)))
    other = Place(fake_gpu("10.16.1", FAKE_GPU_NAMES="NVIDIA Other@8.6"), there.folder)
    with other.load() as pipeline:
        assert tokens_of(run(pipeline)) == want
    with pytest.raises(EngineError, match=r"built with TensorRT 10\.16\.1, but 8\.6\.0 is installed"):
        Place(fake_gpu("8.6.0"), there.folder).load()


def test_a_captured_step_keeps_its_context(here: Place) -> None:
    """Each set of shapes has a context of its own: another scene's shapes must not reach what a graph was made of."""
    with here.load() as pipeline:
        decode: Any = pipeline.engines.decode
        for clouds in (CLOUDS[:1], CLOUDS, CLOUDS[:2]):
            run(pipeline, clouds, tokens=20)
        contexts = [context for context, _ in decode._contexts.values()]
        assert len({id(context) for context in contexts}) == len(contexts) == 3
        batches = [tuple(context.get_tensor_shape("input_ids")) for context in contexts]
        assert sorted(batches) == [(1, 1), (2, 1), (3, 1)]


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


def test_teacher_forced_logits_are_those_of_onnx_runtime(here: Place) -> None:
    """Recorded step by step, the cache left out."""
    arrays = []
    for pipeline in (here.load(), plain(here)):
        recorder = Recorder(pipeline.engines.backend, 4)
        run(pipeline, tokens=6, recorder=recorder)
        arrays.append(recorder.arrays)
    got, want = arrays
    for name in [f"decode.{step}.logits" for step in range(4)] + ["prefill.logits", "encoder.point_tokens"]:
        assert_close(name, got[name], want[name], Tol(1e-4, why="the cache of all layers in one tensor"))
    assert not [name for name in got if name.endswith(".past")], "the cache itself is not kept"
    rows = np.concatenate([want[f"decode.0.{kind}.{layer}"] for kind in ("key", "value") for layer in range(2)], axis=2)
    assert_close("rows", got["decode.0.rows"], rows, Tol(1e-5))
