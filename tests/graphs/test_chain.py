"""The whole chain, voxels to tokens through the exported graphs, against the literal reference in torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from export.reference import Reference, build_reference
from runtime.arrays import Array
from runtime.decode import KVCache
from runtime.engines import open_backend
from runtime.pipeline import Pipeline
from runtime.prompt import PromptBatch, batch_prompts, merge_prompt, user_content
from runtime.run import Run
from runtime.scene import Request, Scene
from tests.compare import Tol, assert_close
from tests.exported import FAMILIES, MODES, Export, Exported
from tests.scenes import room

LOGITS = Tol(2e-4, why="encoder, two layers and 64 steps of float32 in another order")
STEPS = 64
ROOMS = [(1, (4.0, 3.0, 2.5)), (2, (2.0, 3.0, 2.5)), (3, (5.0, 4.5, 2.5))]  # different numbers of point tokens


@dataclass(slots=True)
class Chain:
    """Both implementations over the same scenes."""

    pipeline: Pipeline
    reference: Reference
    scenes: list[Scene]
    text_ids: Array
    prompt: PromptBatch

    @classmethod
    def over(cls, case: Exported, count: int) -> Chain:
        pipeline = Pipeline(case.bundle, open_backend("onnxruntime", threads=1))
        scenes = [pipeline.prepare(room(seed, 4000, size), Request(clean_up=False)) for seed, size in ROOMS[:count]]
        ids = pipeline.tokenizer.encode_prompt(user_content("all"))
        spec = pipeline.manifest.prompt
        prompt = batch_prompts([merge_prompt(ids, len(scene.patch_coords), spec) for scene in scenes])
        reference = build_reference(case.checkpoint, prefill_attention=case.prefill_attention)
        return cls(pipeline, reference, scenes, ids, prompt)

    def start(self) -> tuple[Run, Array, KVCache]:
        run = Run(self.pipeline.engines)
        logits, cache = run.start(self.scenes, self.prompt, run.encode(self.scenes, self.prompt))
        return run, logits, cache

    def start_reference(self) -> tuple[torch.Tensor, object]:
        tokens = [self.reference.encode(scene.inputs.feeds) for scene in self.scenes]
        coords = [scene.patch_coords for scene in self.scenes]
        return self.reference.prefill([self.text_ids] * len(self.scenes), tokens, coords)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("vlm_pe", "merge_rule", "attention"), MODES)
@pytest.mark.parametrize("family", FAMILIES)
def test_64_greedy_steps(
    exported: Export, family: str, vlm_pe: str | None, merge_rule: str | None, attention: str, batch: int
) -> None:
    chain = Chain.over(exported(family, vlm_pe, merge_rule, attention), batch)
    assert len({len(scene.patch_coords) for scene in chain.scenes}) == batch
    run, logits, cache = chain.start()
    want, reference_cache = chain.start_reference()
    for step in range(STEPS):
        assert_close(f"logits of step {step}", logits, want.numpy(), LOGITS)
        ids = logits.argmax(axis=-1)
        assert ids.tolist() == want.argmax(dim=-1).tolist(), f"step {step}"
        logits = run.decoder.step(ids[:, None], cache)[:, -1]
        want = chain.reference.decode(ids[:, None], reference_cache)[:, -1]  # type: ignore[arg-type]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_five_tokens_at_once(exported: Export, family: str, batch: int) -> None:
    chain = Chain.over(exported(family, "3D_RoPE", "3D_only", "causal"), batch)
    run, _, cache = chain.start()
    _, reference_cache = chain.start_reference()
    forced = np.random.default_rng(0).integers(0, 600, (batch, 15)).astype(np.int32)
    for start in (0, 5, 10):
        ids = forced[:, start : start + 5]
        want = chain.reference.decode(ids, reference_cache)  # type: ignore[arg-type]
        assert_close(f"logits from token {start}", run.decoder.step(ids, cache), want.numpy(), LOGITS)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_modes_differ(exported: Export, family: str) -> None:
    """Otherwise the comparisons above would prove nothing about the point tokens' encoding."""
    first = [Chain.over(exported(family, *mode), 1).start()[1] for mode in MODES]
    for one in range(len(MODES)):
        for other in range(one):
            assert np.abs(first[one] - first[other]).max() > 1e-2, (MODES[one], MODES[other])


@pytest.mark.parametrize("family", FAMILIES)
def test_pipeline_generates_the_references_tokens(exported: Export, family: str) -> None:
    case = exported(family, "3D_RoPE", "3D_with_1D", "causal")
    chain = Chain.over(case, 1)
    cloud = room(*ROOMS[0][:1], 4000, ROOMS[0][1])
    result = chain.pipeline(cloud, Request(clean_up=False, max_new_tokens=STEPS))
    want = chain.reference.generate(
        [chain.text_ids],
        [chain.reference.encode(chain.scenes[0].inputs.feeds)],
        [chain.scenes[0].patch_coords],
        max_new_tokens=STEPS,
        stop_token_ids=chain.pipeline.manifest.generation.stop_token_ids,
    )
    assert list(result.tokens) == want[0]
