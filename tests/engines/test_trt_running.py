"""The TensorRT back end in use: threads, two GPUs, memory that comes back."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.bundle import Bundle
from runtime.engines import open_backend
from runtime.errors import EngineError
from runtime.pipeline import Pipeline
from runtime.scene import Request
from tests.engines.built import (
    CLOUDS,
    MODES,
    VERSIONS,
    Make,
    Place,
    build,
    plain,
    run,
    tokens_of,
)


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


@pytest.mark.parametrize("mode", MODES[:3])
@pytest.mark.parametrize("version", VERSIONS)
def test_ten_times_load_run_and_close(place: Make, version: str, mode: str) -> None:
    here = place(version, mode)
    before = here.used()
    for _ in range(10):
        pipeline = here.load()
        run(pipeline, tokens=12)
        pipeline.close()
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


def test_closing_waits_for_the_scene_of_another_thread(here: Place) -> None:
    want, before = tokens_of(run(plain(here))), here.used()
    pipeline, begun, closed = here.load(), threading.Event(), threading.Event()

    def close(opened: Pipeline) -> None:
        begun.wait(timeout=60)
        opened.close()
        closed.set()

    def slowly(_: str) -> None:
        begun.set()
        assert not closed.wait(timeout=0.02)

    closer = threading.Thread(target=close, args=(pipeline,))
    closer.start()
    assert tokens_of(run(pipeline, on_text=slowly)) == want
    closer.join(timeout=60)
    del closer
    with pytest.raises(EngineError) as caught:
        run(pipeline)
    assert str(caught.value) == "the pipeline was closed. Load the bundle again."
    del pipeline, caught
    gc.collect()
    assert here.used() == before


def test_a_scene_within_a_scene_is_refused(here: Place) -> None:
    """Both would write into one ring."""
    want = tokens_of(run(plain(here)))
    with here.load() as pipeline:
        for action in (lambda: run(pipeline), pipeline.close):
            with pytest.raises(EngineError) as caught:
                run(pipeline, on_text=lambda _: action())  # noqa: B023
            assert str(caught.value) == (
                "a scene is still running in this thread. Start the next one when its result is there."
            )
            assert tokens_of(run(pipeline)) == want


def test_closing_on_a_device_that_failed(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the device stays: every call has it. What can be given back is given back, in silence."""
    from cuda.bindings import runtime as cudart

    before, pipeline = here.used(), here.load()
    failure = cudart.cudaError_t.cudaErrorInvalidValue
    monkeypatch.setattr(cudart, "cudaStreamSynchronize", lambda _: (failure,))
    with pytest.raises(EngineError, match="CUDA refused"):
        run(pipeline)
    pipeline.close()
    del pipeline
    gc.collect()
    assert here.used() == before


def test_engines_go_on_when_there_is_no_room_for_one_more(here: Place) -> None:
    opened: Any = open_backend("tensorrt", "cuda:0")
    pipeline = Pipeline(Bundle.open(here.folder), opened)
    want, had, device = tokens_of(run(pipeline)), opened.scratch.bytes, here.gpu.device
    with pytest.raises(EngineError, match="the GPU has no room left"), opened.exclusive():
        opened.scratch.reserve(device.memory)
    assert opened.scratch.bytes == had
    opened.steps.graphs.clear()
    assert tokens_of(run(pipeline)) == want
    opened.close()


def test_engines_built_anew_are_loaded_anew(here: Place, tmp_path: Path) -> None:
    """By a back end that stays: what it has loaded is known by digest, not by path."""
    place, opened = here.copied(tmp_path / "copied"), open_backend("tensorrt", "cuda:0")
    for capacity in (1024, 400):
        build(place.folder, "--max_length", str(capacity))
        pipeline = Pipeline(Bundle.open(place.folder), opened)
        assert pipeline.manifest.cache.capacity == capacity
        assert len(run(pipeline, tokens=5)[0].tokens) == 5
    opened.close()


def test_a_back_end_of_another_thread_loads_and_runs_on_its_own_gpu(here: Place) -> None:
    want, before = tokens_of(run(plain(here))), here.used()
    opened = open_backend("tensorrt", "cuda:1")
    bundle = Bundle.open(here.folder)
    assert together([lambda: tokens_of(run(Pipeline(bundle, opened)))]) == [want]
    assert here.used()[0] == before[0], "nothing came to the first GPU"
    opened.close()


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


def test_the_second_gpu(here: Place) -> None:
    want = tokens_of(run(plain(here)))
    with here.load(device="cuda:1") as pipeline:
        assert tokens_of(run(pipeline)) == want
        first, second, pinned = here.used()
        assert (first, second > 0, pinned > 0) == (0, True, True)
