"""What a run tells TensorRT: only what has changed since the last one, and all of it where nobody knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from runtime.arrays import Array
from runtime.bundle import ROWS, Bundle
from runtime.errors import EngineError
from tests.compare import EXACT, assert_close
from tests.engines.built import VERSIONS, Make, Place

INPUTS = ("input_ids", "cos", "sin", "past_length", "past")  # of decode
OUTPUTS = ("logits", ROWS)
ALL_SHAPES = [("set_input_shape", name) for name in sorted(INPUTS)]
ALL_ADDRESSES = [("set_tensor_address", name) for name in sorted((*INPUTS, *OUTPUTS))]
ALL = [*ALL_SHAPES, ("set_scratch", ""), *ALL_ADDRESSES]


class Bench:
    """An engine of its own plan, and all that its contexts are told or asked."""

    def __init__(self, here: Place, graph: str, patch: pytest.MonkeyPatch) -> None:
        from runtime.engines import trt_compat
        from runtime.engines.trt import TrtBackend

        self.backend = TrtBackend(0)
        self.engine: Any = self.backend.load(Bundle.open(here.folder), graph)
        self._patch, self._native, self._told = patch, here.gpu.tensorrt.IExecutionContext, list[tuple[str, str]]()
        for name in ("set_input_shape", "set_tensor_address", "get_tensor_shape"):
            self._note(self._native, name, lambda name, *_: name)
        self._note(trt_compat, "set_scratch", lambda *_: "")
        self._leave_out(self._native, "execute_async_v3")

    def told(self) -> list[tuple[str, str]]:
        """Since it was asked last, in order of names."""
        found = sorted(self._told)
        self._told.clear()
        return found

    def feeds(self, batch: int = 2, rows: int = 512) -> dict[str, Any]:
        """Rows of the cache or of the prompt. Two sequences, for loading has run one."""
        rng, sizes = np.random.default_rng(batch), {"B": batch, "T": 1, "M": rows, "S": rows}
        arrays = {
            name: rng.uniform(1, 9, [sizes.get(str(axis), axis) for axis in spec.shape]).astype(spec.dtype)
            for name, spec in self.engine.inputs.items()
        }
        return {name: self.backend.upload(array) for name, array in arrays.items()}

    def logits(self, feeds: dict[str, Any], outputs: dict[str, Any] | None = None) -> Array:
        return np.array(self.backend.download(self.engine.run(feeds, outputs)["logits"]))

    def fail(self, name: str) -> Callable[[], None]:
        """Have contexts refuse something until the result is called."""
        before = getattr(self._native, name)
        self._patch.setattr(self._native, name, lambda *_: False)
        return lambda: self._patch.setattr(self._native, name, before)

    def _note(self, owner: Any, name: str, about: Callable[..., str]) -> None:
        before = getattr(owner, name)

        def noted(first: Any, *more: Any) -> Any:
            self._told.append((name, about(*more)))
            return before(first, *more)

        self._patch.setattr(owner, name, noted)

    def _leave_out(self, owner: Any, name: str) -> None:
        """What the fake asks itself."""
        before = getattr(owner, name)

        def quiet(*arguments: Any) -> Any:
            kept = list(self._told)
            result = before(*arguments)
            self._told[:] = kept
            return result

        self._patch.setattr(owner, name, quiet)


@pytest.fixture
def bench(place: Make, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Bench]:
    made = Bench(place(getattr(request, "param", "10.16.1"), "3d separate"), "decode", monkeypatch)
    yield made
    made.backend.close()


@pytest.mark.parametrize("bench", VERSIONS, indirect=True)
def test_the_first_run_tells_all_and_the_second_nothing(bench: Bench) -> None:
    feeds = bench.feeds()
    outputs = bench.engine.run(feeds)
    asked = [("get_tensor_shape", name) for name in sorted(OUTPUTS)]
    assert bench.told() == [*asked, *ALL]
    want = bench.backend.download(outputs["logits"])
    assert_close("logits", bench.logits(feeds, outputs), want, EXACT)
    assert bench.told() == asked, "the outputs had no memory before, so it is checked now"
    assert_close("logits", bench.logits(feeds, outputs), want, EXACT)
    assert bench.told() == []


def test_another_address_is_all_that_is_told(bench: Bench) -> None:
    feeds = bench.feeds()
    outputs = bench.engine.run(feeds)
    before = bench.logits(feeds, outputs)
    bench.told()
    other = feeds | {"cos": bench.backend.zeros(feeds["cos"].shape, "float32")}
    after = bench.logits(other, outputs)
    assert bench.told() == [("set_tensor_address", "cos")]
    assert not np.array_equal(before, after)
    moved = outputs | {"logits": bench.backend.zeros(outputs["logits"].shape, "float32")}
    assert_close("logits", bench.logits(other, moved), after, EXACT)
    assert bench.told() == [("set_tensor_address", "logits")]
    assert_close("logits", bench.logits(feeds, outputs), before, EXACT)
    assert bench.told() == [("set_tensor_address", "cos"), ("set_tensor_address", "logits")]


def test_contexts_of_several_shapes_remember_each_their_own(bench: Bench) -> None:
    calls = [(feeds, bench.engine.run(feeds)) for feeds in (bench.feeds(1), bench.feeds(2), bench.feeds(2, 1024))]
    want = [bench.logits(*call) for call in calls]
    bench.told()
    for call, logits in zip([*calls, *calls], [*want, *want], strict=True):
        assert_close("logits", bench.logits(*call), logits, EXACT)
    assert {what for what, _ in bench.told()} == {"get_tensor_shape"}


def test_other_shapes_are_told_and_no_more(place: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefill has one context for all shapes."""
    bench = Bench(place(mode="3d separate"), "prefill", monkeypatch)
    calls = [bench.feeds(2, rows) for rows in (90, 91)]
    results = [bench.engine.run(feeds) for feeds in calls]
    assert [found[ROWS].shape[:2] for found in results] == [(90, 2), (91, 2)]
    want = [bench.backend.download(found["logits"]) for found in results]
    for feeds, logits in zip([*calls, *calls], [*want, *want], strict=True):
        bench.told()
        assert_close("logits", bench.logits(feeds), logits, EXACT)
        shaped = [name for what, name in bench.told() if what == "set_input_shape"]
        assert shaped == sorted(name for name in bench.engine.inputs if name != "lengths")
    bench.backend.close()


def test_scratch_memory_that_moved_is_told_with_all_else(bench: Bench) -> None:
    feeds = bench.feeds()
    outputs = bench.engine.run(feeds)
    want, scratch = bench.logits(feeds, outputs), bench.backend.scratch
    bench.told()
    address = scratch.address
    scratch.reserve(2 * scratch.bytes)
    assert scratch.address != address
    assert_close("logits", bench.logits(feeds, outputs), want, EXACT)
    assert bench.told() == ALL


def test_after_a_failure_all_is_told_anew(bench: Bench) -> None:
    feeds = bench.feeds()
    outputs = bench.engine.run(feeds)
    want = bench.logits(feeds, outputs)
    mend = bench.fail("execute_async_v3")
    with pytest.raises(EngineError, match="decode: TensorRT could not run it"):
        bench.engine.run(feeds, outputs)
    mend()
    bench.told()
    assert_close("logits", bench.logits(feeds, outputs), want, EXACT)
    assert bench.told() == ALL


def test_a_shape_that_is_refused_is_not_remembered(bench: Bench) -> None:
    feeds = bench.feeds()
    mend = bench.fail("set_input_shape")
    for _ in range(2):
        with pytest.raises(EngineError, match=r"decode: TensorRT refuses \[2, 1\] for 'input_ids'\."):
            bench.engine.run(feeds)
    mend()
    bench.told()
    bench.engine.run(feeds)
    assert [what for what in bench.told() if what[0] == "set_input_shape"] == ALL_SHAPES


def test_tensors_are_checked_however_often_others_were_right(bench: Bench) -> None:
    feeds = bench.feeds()
    outputs = bench.engine.run(feeds)
    wrong = [
        ({"cos": bench.backend.zeros((2, 1, 64), "float16")}, {}, "'cos' is float16.*but the engine takes float32"),
        ({"past_length": bench.backend.zeros((1,), "int32")}, {}, "axis B is"),
        ({}, {ROWS: bench.backend.zeros((3, *outputs[ROWS].shape[1:]), "float32")}, "'rows' is .*but has room for"),
        ({}, {"past": feeds["past"]}, "missing or unknown tensors: past"),
    ]
    for other, given, sentence in wrong:
        for _ in range(2):
            with pytest.raises(EngineError, match=sentence):
                bench.engine.run(feeds | other, outputs | given)
        bench.engine.run(feeds, outputs)
    small = bench.feeds(2, 100)
    for _ in range(2):
        with pytest.raises(EngineError, match=r"decode: 'past' is \[100, .*but this engine was built for 512 to 1024"):
            bench.engine.run(small)
    with pytest.raises(EngineError, match="missing or unknown tensors: past"):
        bench.engine.run({name: tensor for name, tensor in feeds.items() if name != "past"}, {"past": feeds["past"]})
