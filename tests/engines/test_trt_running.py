"""The TensorRT back end in use: threads, two GPUs, memory that comes back."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest

from runtime.scene import Request
from tests.engines.built import (
    CLOUDS,
    VERSIONS,
    Make,
    Place,
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


def test_the_second_gpu(here: Place) -> None:
    want = tokens_of(run(plain(here)))
    with here.load(device="cuda:1") as pipeline:
        assert tokens_of(run(pipeline)) == want
        first, second, pinned = here.used()
        assert (first, second > 0, pinned > 0) == (0, True, True)
