"""The TensorRT back end over a GPU that is none: the tokens of ONNX Runtime, and what is asked of the device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.decode.device import CHUNK
from runtime.engines.record import EngineRecord
from runtime.errors import EngineError
from runtime.recording import Recorder
from tests.compare import Tol, assert_close
from tests.engines.built import (
    CLOUDS,
    MAX_BATCH,
    MAX_POINT_TOKENS,
    MODES,
    VERSIONS,
    Make,
    Place,
    Spent,
    build,
    plain,
    run,
    tokens_of,
)


@pytest.mark.parametrize("mode", MODES)
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


@pytest.mark.parametrize("mode", MODES[:3])
@pytest.mark.parametrize("version", VERSIONS)
def test_steps_are_captured_once_and_replayed(place: Make, version: str, mode: str) -> None:
    here = place(version, mode)
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


@pytest.mark.parametrize("mode", MODES[:3])
@pytest.mark.parametrize("version", VERSIONS)
def test_without_graphs_and_in_the_plain_loop_the_same_tokens(place: Make, version: str, mode: str) -> None:
    here = place(version, mode)
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


def test_a_step_asks_for_nothing_but_its_launch(either: Place) -> None:
    """Forty steps more: forty launches more, and a look of the host for each chunk. No copy, no memory."""
    with either.load() as pipeline:
        run(pipeline, tokens=57)
        run(pipeline, tokens=57)
        spent = Spent(either)
        run(pipeline, tokens=17)
        short, spent = spent.all(), Spent(either)
        run(pipeline, tokens=57)
        more = {name: count - short.get(name, 0) for name, count in spent.all().items()}
        looks = 40 // CHUNK
        assert {name: count for name, count in more.items() if count} == {
            "cudaGraphLaunch": 40, "execute": 40, "ran:append_rows": 40, "ran:next_tokens": 40,
            "cudaEventCreateWithFlags": looks, "cudaEventRecord": looks, "cudaEventSynchronize": looks,
            "cudaEventDestroy": looks,
        }  # fmt: skip


def test_prefill_writes_into_the_cache_and_the_encoder_into_the_prompt(either: Place) -> None:
    """Between the engines nothing is copied: two table rows for the first step, and one download, of logits."""
    with either.load() as pipeline:
        spent = Spent(either)
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


def test_limits_come_from_the_profile(either: Place, tmp_path: Path) -> None:
    """Engines for a shorter cache than the bundle's: generation ends there."""
    with either.load() as pipeline:
        assert pipeline.engines.decode.limits == {"B": MAX_BATCH, "T": 1, "M": 1024}
        assert pipeline.engines.prefill.limits == {"B": MAX_BATCH, "S": MAX_POINT_TOKENS + 512}
    short = either.copied(tmp_path / "short")
    build(short.folder, "--max_length", "400", "--language_model", EngineRecord.read(either.engines).language_model)
    with short.load() as pipeline:
        assert pipeline.manifest.cache.capacity == 400
        (result,) = run(pipeline, tokens=500)
        assert (result.stopped_by, len(result.tokens)) == ("cache capacity", 400 - result.report.prompt_tokens + 1)
        want = run(plain(either), tokens=len(result.tokens))
        assert result.tokens == want[0].tokens


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


def test_a_captured_step_keeps_its_context(either: Place) -> None:
    """Each set of shapes has a context of its own: another scene's shapes must not reach what a graph was made of."""
    with either.load() as pipeline:
        decode: Any = pipeline.engines.decode
        for clouds in (CLOUDS[:1], CLOUDS, CLOUDS[:2]):
            run(pipeline, clouds, tokens=20)
        contexts = [context.native for context in decode._contexts.values()]
        assert len({id(context) for context in contexts}) == len(contexts) == 3
        batches = [tuple(context.get_tensor_shape("input_ids")) for context in contexts]
        assert sorted(batches) == [(1, 1), (2, 1), (3, 1)]


def test_teacher_forced_logits_are_those_of_onnx_runtime(either: Place) -> None:
    """Recorded step by step, the cache left out."""
    arrays = []
    for pipeline in (either.load(), plain(either)):
        recorder = Recorder(pipeline.engines.backend, 4)
        run(pipeline, tokens=6, recorder=recorder)
        arrays.append(recorder.arrays)
    got, want = arrays
    for name in [f"decode.{step}.logits" for step in range(4)] + ["prefill.logits", "encoder.point_tokens"]:
        assert_close(name, got[name], want[name], Tol(1e-4, why="the cache of all layers in one tensor"))
    assert not [name for name in got if name.endswith(".past")], "the cache itself is not kept"
    rows = np.concatenate([want[f"decode.0.{kind}.{layer}"] for kind in ("key", "value") for layer in range(2)], axis=2)
    assert_close("rows", got["decode.0.rows"], rows, Tol(1e-5))
