"""The loop that stays on the device gives what the plain loop gives: real graphs, and the kernels as numpy has them."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest

from export.passes.stack_cache import stack_cache
from runtime.bundle import Bundle
from runtime.decode import Sampling, TokenChooser
from runtime.decode.device import AHEAD, CHUNK
from runtime.engines.contract import Backend, Engine, Ring, StepState, Tensor, TensorSpec
from runtime.engines.host import host_array
from runtime.engines.host_steps import HostSteps
from runtime.engines.ort import OrtBackend
from runtime.errors import EngineError
from runtime.pipeline import Pipeline
from runtime.prompt import batch_prompts
from runtime.run import Run
from runtime.scene import Request
from tests.exported import FAMILIES, Export
from tests.scenes import room

CLOUDS = [room(1, 300), room(2, 2000, (5.0, 4.0, 2.5)), room(3, 900)]
STOPS = [0, 1, 4, CHUNK, CHUNK + 1, CHUNK + 3, 2 * CHUNK, 2 * CHUNK + 1]  # the first token is prefill's


class CountedSteps(HostSteps):
    """Counts the steps that were asked for."""

    def __init__(self) -> None:
        self.asked = 0

    def next_tokens(self, state: StepState, ring: Ring) -> None:
        self.asked += 1
        super().next_tokens(state, ring)


class StayingBackend(OrtBackend):
    """ONNX Runtime whose steps do not return to the host; here both are the same memory."""

    def __init__(self) -> None:
        super().__init__(threads=1)
        self.steps: CountedSteps = CountedSteps()


@dataclass(frozen=True, slots=True)
class Said:
    """What a loop gave, and the cache's lengths afterwards."""

    steps: list[list[int | None]]
    lengths: tuple[int, ...]

    def of(self, sequence: int) -> list[int]:
        return [token for step in self.steps if (token := step[sequence]) is not None]


def within(bundle: Bundle, capacity: int | None) -> Bundle:
    """The bundle with a smaller cache."""
    cache = dataclasses.replace(bundle.manifest.cache, capacity=capacity or bundle.manifest.cache.capacity)
    return Bundle(bundle.folder, dataclasses.replace(bundle.manifest, cache=cache))


@pytest.fixture(scope="module")
def stacked(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Bundle], Bundle]:
    """A copy of a bundle whose graphs take the cache of all layers as one tensor."""

    def convert(bundle: Bundle) -> Bundle:
        folder = Path(shutil.copytree(bundle.folder, tmp_path_factory.mktemp("stacked") / "bundle"))
        for name in ("prefill", "decode"):
            model = onnx.load(bundle.graph(name), load_external_data=False)
            stack_cache(model, bundle.manifest.language_model)
            onnx.save(model, folder / bundle.manifest.graphs[name])
        return Bundle(folder, bundle.manifest)

    return convert


def load(bundle: Bundle, backend: Backend | None = None) -> Pipeline:
    return Pipeline(bundle, backend or OrtBackend(threads=1))


def steps_of(pipeline: Pipeline) -> CountedSteps:
    steps = pipeline.engines.backend.steps
    assert isinstance(steps, CountedSteps)
    return steps


def generate(pipeline: Pipeline, batch: int, stop_ids: Sequence[int] = (), limit: int = 65) -> Iterator[object]:
    """Each step's tokens, then the cache's lengths."""
    scenes = [pipeline.prepare(cloud, Request(clean_up=False)) for cloud in CLOUDS[:batch]]
    prompt, run = batch_prompts([scene.prompt for scene in scenes]), Run(pipeline.engines)
    logits, cache = run.start(scenes, prompt, run.encode(scenes, prompt))
    chooser = TokenChooser(Sampling(), [scene.text_ids for scene in scenes])
    yield from run.decoder.generate(logits, cache, chooser, stop_ids, limit)
    yield cache.lengths


def say(pipeline: Pipeline, batch: int = 1, stop_ids: Sequence[int] = (), limit: int = 65) -> Said:
    *steps, lengths = generate(pipeline, batch, stop_ids, limit)
    return Said(steps, lengths)  # type: ignore[arg-type]


def both(bundle: Bundle, batch: int = 1, stop_ids: Sequence[int] = (), limit: int = 65) -> tuple[Said, Pipeline]:
    """What both loops say, once they agree, and the pipeline whose steps stayed."""
    staying = load(bundle, StayingBackend())
    want, got = say(load(bundle), batch, stop_ids, limit), say(staying, batch, stop_ids, limit)
    assert got == want
    return got, staying


def ends(said: Said) -> list[int]:
    """Index of each sequence's last token."""
    return [len(said.of(sequence)) - 1 for sequence in range(len(said.lengths))]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_sixty_four_steps(exported: Export, family: str, batch: int) -> None:
    said, staying = both(exported(family, "3D_RoPE", "3D_only").bundle, batch)
    assert len(said.steps) == 65
    assert len(set(said.of(0))) > 20, "a model that repeats itself would hide a stuck loop"
    assert steps_of(staying).asked == 64, "the limit is known, so no step is surplus"


@pytest.mark.parametrize("limit", [1, 2, CHUNK, CHUNK + 1, 2 * CHUNK + 1])
def test_max_new_tokens_is_exact(exported: Export, limit: int) -> None:
    said, staying = both(exported("qwen").bundle, limit=limit)
    assert len(said.steps) == limit
    assert steps_of(staying).asked == limit - 1


@pytest.mark.parametrize("at", STOPS)
def test_a_stop_token_at_any_place_of_a_chunk(exported: Export, at: int) -> None:
    bundle = exported("qwen", "3D_RoPE", "3D_only").bundle
    tokens = say(load(bundle)).of(0)
    assert tokens[at] not in tokens[:at]
    said, staying = both(bundle, stop_ids=[999, tokens[at]])
    assert said.of(0) == tokens[: at + 1]
    asked = steps_of(staying).asked
    assert asked == (0 if at == 0 else CHUNK * (-(-at // CHUNK) + AHEAD - 1)), "chunks under way are surplus"


def test_sequences_end_each_at_its_own_step(exported: Export) -> None:
    bundle = exported("qwen", "3D_RoPE", "3D_only").bundle
    free = say(load(bundle), batch=3)
    assert len({tuple(free.of(sequence)) for sequence in range(3)}) == len(set(free.lengths)) == 3
    stop_ids = [free.of(0)[3], free.of(1)[12], free.of(2)[21]]
    said, _ = both(bundle, 3, stop_ids)
    assert len(set(ends(said))) == 3
    assert min(ends(said)) < CHUNK < max(ends(said))
    assert any(None in step for step in said.steps)


def test_a_sequence_that_ended_with_its_first_token_takes_no_rows(exported: Export) -> None:
    bundle = exported("qwen", "3D_RoPE", "3D_only").bundle
    free = say(load(bundle), batch=3, limit=20)
    said, _ = both(bundle, 3, [free.of(1)[0]], limit=20)
    assert 0 in ends(said)
    assert said.lengths[1] == say(load(bundle), batch=3, limit=1).lengths[1]


@pytest.mark.parametrize("room_left", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 1])
@pytest.mark.parametrize("layers", ["by layer", "stacked"])
def test_the_cache_is_filled_to_its_last_row(
    exported: Export, stacked: Callable[[Bundle], Bundle], layers: str, room_left: int
) -> None:
    bundle = exported("qwen", "3D_RoPE", "3D_only").bundle
    (length,) = say(load(bundle), limit=1).lengths
    bundle = within(stacked(bundle) if layers == "stacked" else bundle, length + room_left)
    said, staying = both(bundle)
    assert (len(said.steps), said.lengths) == (room_left + 1, (length + room_left,))
    assert steps_of(staying).asked == room_left


def test_the_others_go_on_when_the_longest_has_ended(exported: Export) -> None:
    """Its end makes room, which the loop must notice although it had asked for all that there was."""
    bundle = exported("qwen", "3D_RoPE", "3D_only").bundle
    free = say(load(bundle), batch=3)
    longest = int(np.argmax(free.lengths))
    lengths = say(load(bundle), batch=3, limit=1).lengths
    for rows in (5, CHUNK, CHUNK + 2):  # it ends with the row that fills the cache, at different places of a chunk
        stop = free.of(longest)[rows]
        assert stop not in free.of(longest)[:rows]
        said, _ = both(within(bundle, lengths[longest] + rows), 3, [stop])
        assert ends(said)[longest] == rows
        assert max(ends(said)) > rows


@pytest.mark.parametrize("family", FAMILIES)
def test_stacked_graphs_give_the_tokens_of_graphs_by_layer(
    exported: Export, stacked: Callable[[Bundle], Bundle], family: str
) -> None:
    """Over the border of the first prefix, whose size doubles where that of caches by layer grows by 64."""
    bundle = exported(family, "3D_RoPE", "3D_with_1D").bundle
    by_layer, one = say(load(bundle), 2, limit=260), both(stacked(bundle), 2, limit=260)[0]
    assert one == by_layer
    assert min(one.lengths) > 512


class Damaged:
    """An engine whose logits of one sequence are no numbers at one step."""

    name = "decode"

    def __init__(self, engine: Engine, step: int, sequence: int, value: float) -> None:
        self._engine, self._left, self._place, self._value = engine, step, sequence, value
        self.inputs: Mapping[str, TensorSpec] = engine.inputs
        self.outputs: Mapping[str, TensorSpec] = engine.outputs
        self.limits: Mapping[str, int] = engine.limits

    def run(self, feeds: Mapping[str, Tensor], outputs: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        results = self._engine.run(feeds, outputs)
        self._left -= 1
        if self._left == 0:
            host_array(results["logits"])[self._place, 0, 17] = self._value
        return results


@pytest.mark.parametrize("step", [1, CHUNK, CHUNK + 3])
@pytest.mark.parametrize(("batch", "sequence", "value"), [(1, 0, np.nan), (2, 1, np.inf)])
def test_logits_that_are_no_numbers_end_the_run(
    exported: Export, step: int, batch: int, sequence: int, value: float
) -> None:
    bundle = exported("qwen", "3D_RoPE", "3D_only").bundle
    want = say(load(bundle), batch).steps[:step]
    for backend in (OrtBackend(threads=1), StayingBackend()):
        pipeline = load(bundle, backend)
        seen: list[object] = []
        decode = Damaged(pipeline.engines.decode, step, sequence, value)
        pipeline.engines = dataclasses.replace(pipeline.engines, decode=decode)
        with pytest.raises(EngineError, match=r"the model's largest logit is \[.*(nan|inf).*\], which is no number"):
            seen.extend(generate(pipeline, batch))
        assert seen == want, "no token comes after the damage"


def test_only_greedy_choices_stay(exported: Export) -> None:
    """A draw or a penalty needs what the device does not have."""
    pipeline = load(exported("qwen").bundle, StayingBackend())
    for sampling in (Sampling(temperature=0.7, seed=1), Sampling(repetition_penalty=1.2)):
        pipeline(CLOUDS[0], Request(clean_up=False, max_new_tokens=3, sampling=sampling))
    assert steps_of(pipeline).asked == 0
    pipeline(CLOUDS[0], Request(clean_up=False, max_new_tokens=3))
    assert steps_of(pipeline).asked == 2


def test_the_host_looks_once_for_a_chunk(exported: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is uploaded or downloaded from step to step."""
    pipeline = load(exported("qwen").bundle, StayingBackend())
    calls: list[str] = []
    for name in ("upload", "download", "write", "zeros", "copy"):
        real = getattr(OrtBackend, name)

        def counted(*arguments: object, name: str = name, real: object = real) -> object:
            calls.append(name)
            return real(*arguments)  # type: ignore[operator]

        monkeypatch.setattr(StayingBackend, name, counted)
    counts = []
    for limit in (10, 60):
        calls.clear()
        say(pipeline, limit=limit)
        counts.append(len(calls))
    assert counts[0] == counts[1] > 0
