"""The choice of tokens against transformers' own processors."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.arrays import Array
from runtime.decode import Sampling, TokenChooser, filtered_chances
from tests.compare import EXACT, Tol, assert_close

CHANCES = Tol(1e-6, 1e-4, why="their softmax is float32, ours float64")


def random_logits(seed: int, ties: bool, batch: int = 8, vocabulary: int = 300) -> Array:
    logits = np.random.default_rng(seed).normal(0, 3, (batch, vocabulary)).astype(np.float32)
    return np.round(logits) if ties else logits


def transformers_chances(logits: Array, sampling: Sampling) -> Array:
    torch = pytest.importorskip("torch")
    processors = pytest.importorskip("transformers.generation.logits_process")
    scores = torch.from_numpy(logits)
    ids = torch.zeros((len(logits), 1), dtype=torch.long)
    steps = [processors.TemperatureLogitsWarper(sampling.temperature)]
    if sampling.top_k:
        steps.append(processors.TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1.0:
        steps.append(processors.TopPLogitsWarper(sampling.top_p))
    for step in steps:
        scores = step(ids, scores)
    return torch.softmax(scores, dim=-1).numpy()


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("top_p", [1.0, 0.95, 0.3, 1e-6])
@pytest.mark.parametrize("top_k", [0, 1, 10, 300, 1000])
@pytest.mark.parametrize("temperature", [0.6, 1.7])
def test_chances_equal_transformers(temperature: float, top_k: int, top_p: float, ties: bool) -> None:
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    logits = random_logits(top_k, ties)
    got = np.stack([filtered_chances(row, sampling) for row in logits])
    want = transformers_chances(logits, sampling)
    if ties and top_p < 1.0:  # which of equal scores is cut is nobody's promise, how many are is
        got, want = np.sort(got, axis=1), np.sort(want, axis=1)
    assert_close("chances", got, want, CHANCES)
    assert_close("sum", got.sum(axis=1), np.ones(len(got)), Tol(1e-12))


def test_a_tiny_temperature_is_greedy() -> None:
    logits = random_logits(1, ties=False)
    for temperature in (1e-6, 1e-40, 1e-310):
        for row in logits:
            chances = filtered_chances(row, Sampling(temperature=temperature, top_k=10, top_p=0.9))
            assert_close("chances", chances, np.eye(len(row))[row.argmax()], EXACT)


@pytest.mark.parametrize("penalty", [1.3, 0.7])
def test_repetition_penalty_equals_transformers(penalty: float) -> None:
    torch = pytest.importorskip("torch")
    processors = pytest.importorskip("transformers.generation.logits_process")
    processor = processors.RepetitionPenaltyLogitsProcessor(penalty)
    prompts = [np.array([3, 5, 5, 7]), np.array([299, 0, 1, 1])]
    chooser = TokenChooser(Sampling(repetition_penalty=penalty), prompts)
    seen = np.stack(prompts)
    for step in range(30):
        logits = random_logits(step, ties=False, batch=2)
        logits[:, 5] = 6.0  # a favourite, so that the penalty decides
        before = logits.copy()
        want = processor(torch.from_numpy(seen), torch.from_numpy(logits.copy())).numpy().argmax(axis=1)
        got = chooser(logits)
        np.testing.assert_array_equal(got, want, err_msg=f"step {step}")
        assert_close("the caller's logits", logits, before, EXACT)
        seen = np.concatenate([seen, got[:, None]], axis=1)


def test_greedy_takes_the_first_of_the_largest() -> None:
    logits = np.array([[1.0, 3.0, 3.0, 2.0], [0.0, 0.0, 0.0, 0.0], [-5.0, -np.inf, -4.0, -4.0]], np.float32)
    got = TokenChooser(Sampling(), [np.array([0])] * 3)(logits)
    assert got.tolist() == [1, 0, 2]
    assert got.dtype == np.int32


def draws(seed: int | None, count: int = 50, **sampling: float) -> list[int]:
    chooser = TokenChooser(Sampling(temperature=1.0, seed=seed, **sampling), [np.array([0])])  # type: ignore[arg-type]
    return [int(chooser(random_logits(step, ties=False, batch=1))[0]) for step in range(count)]


def test_a_seed_repeats_and_another_does_not() -> None:
    assert draws(7) == draws(7)
    assert draws(7) != draws(8)
    assert draws(None) != draws(None)


def test_draws_follow_the_chances() -> None:
    logits = np.log(np.array([[0.5, 0.3, 0.15, 0.05]], np.float32))
    chooser = TokenChooser(Sampling(temperature=1.0, top_k=3, seed=0), [np.array([0])])
    counts = np.bincount([int(chooser(logits)[0]) for _ in range(4000)], minlength=4)
    want = np.array([0.5, 0.3, 0.15, 0.0]) / 0.95
    assert counts[3] == 0
    assert_close("share", counts / 4000, want, Tol(0.03, why="four standard deviations of 4000 draws"))
