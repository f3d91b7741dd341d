"""The decode loop over a scripted model: when it ends, what it feeds, what crosses between host and device."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.decode import Sampling, TokenChooser
from runtime.errors import EngineError
from tests.fakes import LAYERS, VOCABULARY, ScriptedModel

STOP = 9


def generate(
    model: ScriptedModel,
    prompts: list[list[int]],
    max_new_tokens: int = 100,
    stop_ids: tuple[int, ...] = (STOP,),
) -> list[list[int | None]]:
    """Tokens by step."""
    logits, cache = model.start(prompts)
    chooser = TokenChooser(Sampling(), [np.array(prompt) for prompt in prompts])
    return list(model.decoder.generate(logits, cache, chooser, stop_ids, max_new_tokens))


def test_a_stop_token_ends_the_sequence_and_is_its_last() -> None:
    model = ScriptedModel([[4, 5, STOP, 6, 7]], capacity=30)
    assert generate(model, [[1, 2, 3]]) == [[4], [5], [STOP]]
    assert len(model.decode.fed) == 2, "the stop token is not fed back"


def test_a_stop_token_may_come_first() -> None:
    model = ScriptedModel([[STOP, 5]], capacity=30)
    assert generate(model, [[1]]) == [[STOP]]
    assert model.decode.fed == []


def test_any_of_several_stop_tokens_ends() -> None:
    assert generate(ScriptedModel([[4, 8, 5]], capacity=30), [[1]], stop_ids=(STOP, 8)) == [[4], [8]]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_max_new_tokens_is_exact(count: int) -> None:
    model = ScriptedModel([[4, 5, 6, 7, 8, 10]], capacity=30)
    assert generate(model, [[1, 2, 3]], count) == [[4], [5], [6], [7], [8]][:count]
    assert len(model.decode.fed) == count - 1


@pytest.mark.parametrize("room", [0, 1, 3])
def test_the_end_of_the_cache_ends_generation(room: int) -> None:
    """One token comes with prefill, then one for each row that is left."""
    model = ScriptedModel([[4, 5, 6, 7, 8, 10]], capacity=6 + room)
    assert generate(model, [[1] * 6]) == [[4], [5], [6], [7]][: 1 + room]
    assert len(model.decode.fed) == room


def test_sequences_end_each_at_its_own_step() -> None:
    model = ScriptedModel([[4, STOP, 1, 1, 1], [5, 6, 7, STOP, 1], [8, 8, STOP, 1, 1]], capacity=30)
    steps = generate(model, [[1, 2, 3], [1], [1, 2]])
    assert steps == [[4, 5, 8], [STOP, 6, 8], [None, 7, STOP], [None, STOP, None]]


def test_an_ended_sequence_does_not_limit_the_others() -> None:
    """The first fills the cache with its prompt and ends at once; the second still has all its room."""
    model = ScriptedModel([[STOP, 1, 1, 1, 1], [5, 6, 7, 8, STOP]], capacity=6)
    assert generate(model, [[1] * 6, [1, 2]]) == [[STOP, 5], [None, 6], [None, 7], [None, 8], [None, STOP]]


def test_a_stop_token_outside_the_vocabulary_leaves_the_other_limits() -> None:
    model = ScriptedModel([[4, 5, 6, 7]], capacity=30)
    assert generate(model, [[1]], 3, stop_ids=(VOCABULARY + 1,)) == [[4], [5], [6]]
    assert generate(ScriptedModel([[4, 5, 6, 7]], capacity=3), [[1]], stop_ids=()) == [[4], [5], [6]]


def test_each_sequence_goes_on_at_its_own_position() -> None:
    model = ScriptedModel([[4, 5, 6], [7, 8, 10]], capacity=30)
    generate(model, [[1] * 11, [1] * 3], 3)
    for step, fed in enumerate(model.decode.fed):
        want = np.array([11 + step, 3 + step])
        np.testing.assert_array_equal(fed["past_length"], want)
        np.testing.assert_array_equal(fed["cos"], np.repeat(want[:, None, None], 4, axis=2))
        np.testing.assert_array_equal(fed["sin"], -fed["cos"])
        np.testing.assert_array_equal(fed["input_ids"], np.array([[4, 7], [5, 8]][step])[:, None])
        assert fed["past_length"].dtype == fed["input_ids"].dtype == np.int32
        assert fed["cos"].dtype == np.float32


def test_five_tokens_at_once_take_five_positions() -> None:
    model = ScriptedModel([[4, 5], [4, 5]], capacity=30)
    _, cache = model.start([[1] * 4, [1] * 7])
    logits = model.decoder.step(np.ones((2, 5), np.int32), cache)
    assert logits.shape == (2, 5, VOCABULARY)
    np.testing.assert_array_equal(model.decode.fed[0]["cos"][:, :, 0], [[4, 5, 6, 7, 8], [7, 8, 9, 10, 11]])
    assert cache.lengths == (9, 12)


def test_a_step_makes_four_uploads_one_download_and_one_scatter() -> None:
    model = ScriptedModel([[4, 5, 6, 7, 8, 10]], capacity=200)
    _, cache = model.start([[1] * 62])
    assert model.backend.calls == {"upload": 1, "zeros": 1, "download": 1}, "prefill writes into the cache itself"
    model.decoder.step(np.array([[4]]), cache)  # the first step makes the staging rows
    model.backend.calls.clear()
    for step in range(1, 4):  # over the border of a bucket
        model.decoder.step(np.array([[4]]), cache)
        assert model.backend.calls == {"upload": 4 * step, "download": step, "scatter_rows": step}
    assert set(model.decode.fed[0]) == {"input_ids", "cos", "sin", "past_length"} | {
        f"past_{kind}.{layer}" for kind in ("key", "value") for layer in range(LAYERS)
    }


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_logits_that_are_no_numbers_are_refused(value: float, temperature: float) -> None:
    logits = np.zeros((2, 10), np.float32)
    logits[1, 3] = value
    with pytest.raises(EngineError, match=r"largest logit is \[0\.0, (nan|inf)\]"):
        TokenChooser(Sampling(temperature=temperature), [np.array([1])] * 2)(logits)
