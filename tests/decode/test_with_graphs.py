"""Cache and loop over the real graphs."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.arrays import Array
from runtime.decode import KVCache
from runtime.engines import open_backend
from runtime.engines.host import host_array
from runtime.errors import CapacityError
from runtime.pipeline import Pipeline
from runtime.prompt import batch_prompts, merge_prompt, user_content
from runtime.recording import Recorder
from runtime.run import Run
from runtime.scene import Request
from tests.compare import EXACT, assert_close
from tests.exported import Export
from tests.scenes import room

CLOUD = room(1, 300)


def load(exported: Export, **options: object) -> Pipeline:
    return Pipeline(exported("qwen", "3D_RoPE", "3D_only", **options).bundle, open_backend(threads=1))


def start(pipeline: Pipeline) -> tuple[Run, Array, KVCache]:
    """Two sequences of different lengths, after prefill."""
    scenes = [pipeline.prepare(cloud, Request(clean_up=False)) for cloud in (CLOUD, room(2, 900, (5.0, 4.0, 2.5)))]
    ids = pipeline.tokenizer.encode_prompt(user_content("all"))
    prompt = batch_prompts([merge_prompt(ids, len(s.patch_coords), pipeline.manifest.prompt) for s in scenes])
    run = Run(pipeline.engines)
    return run, *run.start(scenes, prompt, run.encode(scenes, prompt))


def test_the_first_decode_position_is_the_merged_prompts_length(exported: Export) -> None:
    """Point tokens advance the position by their count."""
    pipeline = load(exported)
    recorder = Recorder(pipeline.engines.backend, 2)
    result = pipeline(CLOUD, Request(clean_up=False, max_new_tokens=3), recorder=recorder)
    text_ids = pipeline.tokenizer.encode_prompt(user_content("all"))
    length = len(text_ids) - 1 + result.report.point_tokens
    assert result.report.prompt_tokens == length == recorder.arrays["prefill.input_ids"].shape[1]
    cos, sin = pipeline.engines.text_table
    for step in range(2):
        assert recorder.arrays[f"decode.{step}.logits"].shape == (1, 1, pipeline.manifest.language_model.vocab_size)
        assert_close("cos", recorder.arrays[f"decode.{step}.cos"][0, 0], cos[length + step], EXACT)
        assert_close("sin", recorder.arrays[f"decode.{step}.sin"][0, 0], sin[length + step], EXACT)


def test_unused_rows_are_never_read(exported: Export) -> None:
    pipeline = load(exported)
    tokens = np.random.default_rng(0).integers(0, 600, (2, 70)).astype(np.int32)
    logits = []
    for poison in (0.0, 1e30):
        run, _, cache = start(pipeline)
        assert cache.lengths[0] != cache.lengths[1]
        for step, count in enumerate([1, 5, 64]):  # the prefix grows by a bucket and more
            for tensor in cache.past().values():
                for sequence, length in enumerate(cache.lengths):
                    host_array(tensor)[length:, sequence] = poison
            done = sum([1, 5, 64][:step])
            logits.append(run.decoder.step(tokens[:, done : done + count], cache))
    for clean, poisoned in zip(logits[:3], logits[3:], strict=True):
        assert_close("logits", poisoned, clean, EXACT)


@pytest.mark.parametrize("room_left", [0, 1, 2])
def test_generation_fills_the_cache_to_its_last_row(exported: Export, room_left: int) -> None:
    prompt_tokens = load(exported)(CLOUD, Request(clean_up=False, max_new_tokens=1)).report.prompt_tokens
    free = load(exported)(CLOUD, Request(clean_up=False, max_new_tokens=room_left + 1))
    result = load(exported, max_length=prompt_tokens + room_left)(CLOUD, Request(clean_up=False))
    assert result.stopped_by == "cache capacity"
    assert result.tokens == free.tokens
    assert len(result.tokens) == room_left + 1


def test_a_prompt_one_longer_than_the_cache_is_refused_before_the_encoder(exported: Export) -> None:
    prompt_tokens = load(exported)(CLOUD, Request(clean_up=False, max_new_tokens=1)).report.prompt_tokens
    pipeline = load(exported, max_length=prompt_tokens - 1)
    recorder = Recorder(pipeline.engines.backend, 0)
    sentence = rf"the prompt has {prompt_tokens} positions \(\d+ point tokens\), but the bundle's cache holds"
    with pytest.raises(CapacityError, match=sentence):
        pipeline(CLOUD, Request(clean_up=False), recorder=recorder)
    assert recorder.arrays == {}
