"""Where the point tokens stand, alone and in a batch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.arrays import Array
from runtime.errors import BundleError, SceneError
from runtime.manifest import PromptSpec
from runtime.prompt import Tokenizer, batch_prompts, merge_prompt, user_content
from tests.prompt.families import PromptFiles

START, END, PAD = 101, 102, 103
SPEC = PromptSpec(
    system_message=None,
    point_start_token_id=START,
    point_end_token_id=END,
    point_token_id=PAD,
    bos_token=None,
    eos_token=None,
)


def prompt(*ids: int) -> Array:
    return np.array(ids, dtype=np.int32)


def test_point_tokens_take_the_place_between_the_markers() -> None:
    merged = merge_prompt(prompt(7, 8, START, PAD, END, 9), 3, SPEC)
    assert merged.input_ids.tolist() == [7, 8, START, PAD, PAD, PAD, END, 9]
    assert merged.point_mask.tolist() == [False, False, False, True, True, True, False, False]
    assert (merged.point_start, merged.num_points, merged.length) == (3, 3, 8)
    assert (merged.input_ids.dtype, merged.point_mask.dtype) == (np.int32, np.bool_)


@given(
    before=st.lists(st.integers(0, 100), max_size=5),
    between=st.lists(st.integers(0, 100) | st.just(PAD), max_size=5),
    after=st.lists(st.integers(0, 100), max_size=5),
    num_points=st.integers(1, 20),
)
def test_length_mask_and_text_for_any_prompt(
    before: list[int], between: list[int], after: list[int], num_points: int
) -> None:
    ids = prompt(*before, START, *between, END, *after)
    merged = merge_prompt(ids, num_points, SPEC)
    start, end = len(before), len(before) + 1 + len(between)
    assert merged.length == len(ids) - (end - start - 1) + num_points
    assert merged.point_start == start + 1
    assert merged.input_ids[~merged.point_mask].tolist() == [*before, START, END, *after]
    assert np.flatnonzero(merged.point_mask).tolist() == list(range(start + 1, start + 1 + num_points))


def test_a_real_prompt_grows_by_the_points_less_the_pad_token(files: PromptFiles) -> None:
    ids = Tokenizer.load(files.folder, files.spec).encode_prompt(user_content("all", []))
    merged = merge_prompt(ids, 556, files.spec)
    assert merged.length == len(ids) - 1 + 556
    assert merged.input_ids[merged.point_start - 1] == files.spec.point_start_token_id
    assert merged.input_ids[merged.point_start + 556] == files.spec.point_end_token_id


@pytest.mark.parametrize(
    ("ids", "sentence"),
    [
        ([1, PAD, END], "holds 0 point_start tokens"),
        ([START, PAD, 1], "holds 0 point_end tokens"),
        ([START, START, PAD, END], "holds 2 point_start tokens"),
        ([START, END, PAD, END], "holds 2 point_end tokens"),
        ([END, PAD, START], "point_end token at position 0, before the point_start token at 2"),
        ([], "holds 0 point_start tokens"),
    ],
)
def test_wrong_markers_are_a_sentence(ids: list[int], sentence: str) -> None:
    with pytest.raises(BundleError, match=sentence):
        merge_prompt(prompt(*ids), 3, SPEC)


def test_a_cloud_without_points_is_a_sentence() -> None:
    with pytest.raises(SceneError, match="The cloud gave 0 point tokens, but at least 1"):
        merge_prompt(prompt(START, PAD, END), 0, SPEC)


def test_a_batch_is_filled_up_on_the_right_with_the_last_id() -> None:
    short = merge_prompt(prompt(7, START, PAD, END, 9), 1, SPEC)
    long = merge_prompt(prompt(START, END, 8), 4, SPEC)
    batch = batch_prompts([short, long])
    assert batch.input_ids.tolist() == [[7, START, PAD, END, 9, 9, 9], [START, PAD, PAD, PAD, PAD, END, 8]]
    assert batch.point_mask.astype(int).tolist() == [[0, 0, 1, 0, 0, 0, 0], [0, 1, 1, 1, 1, 0, 0]]
    assert batch.lengths.tolist() == [5, 7]
    assert batch.positions.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert batch.point_starts.tolist() == [2, 1]
    assert batch.point_counts.tolist() == [1, 4]
    ints = (batch.input_ids, batch.lengths, batch.positions, batch.point_starts, batch.point_counts)
    assert {array.dtype for array in ints} == {np.dtype(np.int32)}
    assert batch.point_mask.dtype == np.bool_


def test_padding_is_never_a_point_even_after_a_point() -> None:
    """A prompt whose last token is the end marker right after the points is filled up with the end marker."""
    batch = batch_prompts([merge_prompt(prompt(START, END), 2, SPEC), merge_prompt(prompt(START, END), 6, SPEC)])
    assert batch.input_ids[0].tolist() == [START, PAD, PAD, END, END, END, END, END]
    assert batch.point_mask.sum(axis=1).tolist() == [2, 6]


def test_a_batch_of_one_is_the_prompt_itself() -> None:
    merged = merge_prompt(prompt(7, START, PAD, END, 9), 5, SPEC)
    batch = batch_prompts([merged])
    assert batch.input_ids[0].tolist() == merged.input_ids.tolist()
    assert batch.point_mask[0].tolist() == merged.point_mask.tolist()


def test_no_prompt_is_a_sentence() -> None:
    with pytest.raises(SceneError, match="There is no prompt to run"):
        batch_prompts([])
