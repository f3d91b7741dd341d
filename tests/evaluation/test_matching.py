"""Pairs at one threshold, against every permutation there is."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from runtime.arrays import Array
from runtime.evaluation.matching import true_positives


def best_by_permutations(iou: Array, threshold: float) -> int:
    """The most pairs above the threshold that any one-to-one assignment has."""
    short, long = sorted(iou.shape)
    table = iou if iou.shape[0] == short else iou.T
    return max(sum(table[i, j] > threshold for i, j in enumerate(order)) for order in permutations(range(long), short))


@settings(max_examples=150, deadline=None)
@given(arrays(np.float64, array_shapes(min_dims=2, max_dims=2, max_side=5), elements=st.floats(0, 1, width=16)))
@pytest.mark.parametrize("threshold", [0.25, 0.5])
def test_as_many_as_any_permutation(threshold: float, iou: Array) -> None:
    iou = np.where(iou == threshold, 0.0, iou)  # a tie is the business of the next test
    assert true_positives(iou, threshold) == best_by_permutations(iou, threshold)


def test_a_pair_at_the_threshold_counts_when_it_is_left_over() -> None:
    assert true_positives(np.array([[0.5]]), 0.5) == 1
    assert true_positives(np.array([[0.5, 0.6], [0.0, 0.0]]), 0.5) == 1
    assert true_positives(np.array([[0.9, 0.0], [0.0, 0.5]]), 0.5) == 2


def test_the_many_win_over_the_best() -> None:
    """One overlap of 0.99 is given up for two that suffice."""
    assert true_positives(np.array([[0.99, 0.6], [0.6, 0.0]]), 0.5) == 2


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_an_empty_side_has_none(shape: tuple[int, int]) -> None:
    assert true_positives(np.zeros(shape), 0.25) == 0


def test_nan_overlaps_nothing() -> None:
    assert true_positives(np.array([[np.nan, 0.9], [np.nan, np.nan]]), 0.25) == 1
