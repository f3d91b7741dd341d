"""The reference: with VLM_PE None it is transformers; with 3D RoPE the replaced attention is what was meant."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM, Qwen2ForCausalLM
from transformers.models.llama.modeling_llama import LlamaAttention
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention

from export.checkpoint import open_checkpoint
from export.reference import Reference, build_reference
from export.reference.attention import PointRope
from export.reference.cache_name import CACHE
from export.reference.language_model import transformers_config
from runtime.errors import SceneError
from runtime.points import encoder_inputs
from tests.compare import EXACT, Tol, assert_close
from tests.modules.feeds import Prompts, random_prompts, text_prompts
from tests.modules.test_encoder import random_voxels
from tests.modules.tiny import END, POINT, START, TinyCheckpoint, tiny_checkpoint_of, tiny_config

SAME_MATHS = Tol(2e-5, 2e-5, why="other kernels, or a batch of another size")
FAMILIES = {"qwen": (Qwen2ForCausalLM, Qwen2Attention), "llama": (LlamaForCausalLM, LlamaAttention)}
MODES = [("3D_only", "causal"), ("3D_only", "full"), ("3D_with_1D", "causal"), ("3D_with_1D", "full")]


@cache
def checkpoint_of(family: str, merge_rule: str | None = None) -> TinyCheckpoint:
    vlm_pe = None if merge_rule is None else "3D_RoPE"
    return tiny_checkpoint_of(tiny_config(family, vlm_pe=vlm_pe, merge_rule=merge_rule, tied=family == "qwen"))


def plain_model(checkpoint: TinyCheckpoint, attn_implementation: str) -> Any:
    """transformers' model made the ordinary way."""
    model_class, _ = FAMILIES[checkpoint.config.language_model.family]
    model = model_class(transformers_config(checkpoint.config, attn_implementation)).eval()
    names = model.state_dict()
    missing = model.load_state_dict({n: t for n, t in checkpoint.tensors.items() if n in names}, strict=False)
    assert set(missing.missing_keys) <= {"lm_head.weight"}
    model.tie_weights()
    return model


def merged_embeds(model: Any, ids: list[int], points: Tensor) -> Tensor:
    table = model.get_input_embeddings().weight
    start, end = ids.index(START), ids.index(END)
    return torch.cat([table[ids[: start + 1]], points, table[ids[end:]]])[None].detach()


@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("family", ["qwen", "llama"])
@torch.inference_mode()
def test_without_3d_it_is_transformers_to_the_last_bit(family: str, attn_implementation: str) -> None:
    checkpoint = checkpoint_of(family)
    reference = build_reference(checkpoint, attn_implementation=attn_implementation)
    assert type(reference.language_model) is FAMILIES[family][0]
    assert {type(layer.self_attn) for layer in reference.language_model.model.layers} == {FAMILIES[family][1]}
    prompts = random_prompts(checkpoint.config, (9,))
    model = plain_model(checkpoint, attn_implementation)
    embeds = merged_embeds(model, prompts.input_ids[0], prompts.point_tokens[0])  # type: ignore[arg-type]
    want = model(inputs_embeds=embeds, use_cache=True)
    logits, cache = reference.prefill_logits(*prompts)
    assert torch.equal(logits, want.logits)
    past = want[CACHE]
    for ids in ([[5]], [[6, 7, 8]]):
        want = model(input_ids=torch.tensor(ids), **{CACHE: past}, use_cache=True)
        assert torch.equal(reference.decode(ids, cache), want.logits)


@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("merge_rule", ["3D_only", "3D_with_1D"])
@pytest.mark.parametrize("family", ["qwen", "llama"])
def test_replaced_attention_without_points_is_transformers(
    family: str, merge_rule: str, attn_implementation: str
) -> None:
    checkpoint = checkpoint_of(family, merge_rule)
    reference = build_reference(checkpoint, attn_implementation=attn_implementation)
    assert all(isinstance(layer.self_attn, FAMILIES[family][1]) for layer in reference.language_model.model.layers)
    ids = [3, 8, 5, 9, 11, 4, 30]
    with torch.inference_mode():
        want = plain_model(checkpoint, "eager")(input_ids=torch.tensor([ids])).logits
    got, cache = reference.prefill_logits(*text_prompts(ids[:4]))
    assert_close("prefill", got, want[:, :4], SAME_MATHS)
    assert_close("decode", reference.decode([ids[4:]], cache), want[:, 4:], SAME_MATHS)


@pytest.mark.parametrize(("merge_rule", "attention"), [(None, "causal"), *MODES])
@pytest.mark.parametrize("family", ["qwen", "llama"])
def test_a_batch_is_its_samples(family: str, merge_rule: str | None, attention: str) -> None:
    """Different point counts: each sample has its own table, positions, padding and cache."""
    reference = build_reference(checkpoint_of(family, merge_rule), prefill_attention=attention)
    prompts = random_prompts(reference.config, (5, 11, 2))
    logits, cache = reference.prefill(*prompts)
    ids = torch.tensor([[4, 9, 7, 3, 5]] * 3)
    one, five = reference.decode(ids[:, :1], cache), reference.decode(ids, cache)
    for b in range(3):
        want, alone = reference.prefill(*prompts.sample(b))
        assert_close("prefill", logits[b], want[0], SAME_MATHS)
        assert_close("decode, T 1", one[b], reference.decode(ids[:1, :1], alone)[0], SAME_MATHS)
        assert_close("decode, T 5", five[b], reference.decode(ids[:1], alone)[0], SAME_MATHS)
        assert int(cache.lengths[b]) == int(alone.lengths[0])


@pytest.mark.parametrize(("merge_rule", "attention"), MODES)
def test_only_full_attention_sees_the_future(merge_rule: str, attention: str) -> None:
    reference = build_reference(checkpoint_of("qwen", merge_rule), prefill_attention=attention)
    prompts = random_prompts(reference.config, (9,))
    changed = Prompts([[*prompts.input_ids[0][:-1], 60]], prompts.point_tokens, prompts.patch_coords)
    difference = (reference.prefill_logits(*changed)[0] - reference.prefill_logits(*prompts)[0])[:, :-1].abs().max()
    assert difference > 1e-2 if attention == "full" else difference == 0


def test_the_modes_differ() -> None:
    prompts = random_prompts(checkpoint_of("qwen").config, (9,))
    results = [build_reference(checkpoint_of("qwen")).prefill(*prompts)[0]]
    for merge_rule, attention in MODES:
        reference = build_reference(checkpoint_of("qwen", merge_rule), prefill_attention=attention)
        results.append(reference.prefill(*prompts)[0])
    for i, left in enumerate(results):
        for right in results[i + 1 :]:
            assert (left - right).abs().max() > 1e-2


def test_a_cloud_leaves_nothing_behind() -> None:
    checkpoint = checkpoint_of("qwen", "3D_only")
    used, fresh = build_reference(checkpoint), build_reference(checkpoint)
    used.prefill(*random_prompts(checkpoint.config, (9,)))
    text = text_prompts([3, 8, 5, 9, 11, 4, 30, 12])
    assert_close("logits", used.prefill(*text)[0], fresh.prefill(*text)[0], EXACT)


def test_a_failed_call_leaves_nothing_behind() -> None:
    reference = build_reference(checkpoint_of("qwen", "3D_only"))
    attentions = [layer.self_attn for layer in reference.language_model.model.layers]
    attended = []

    def fail(*_: Any) -> None:
        attended.append(len(attentions[-1].points))
        raise RuntimeError("no memory")

    attentions[-1].o_proj.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="no memory"):
        reference.prefill(*random_prompts(reference.config, (9,)))
    assert attended == [1]
    assert [attention.points for attention in attentions] == [(), ()]


def test_a_layer_whose_cache_is_not_empty_uses_1d_alone() -> None:
    reference = build_reference(checkpoint_of("qwen", "3D_only"))
    ids = [[4, 9, 7, 3, 5]]
    _, cache = reference.prefill(*random_prompts(reference.config, (9,)))
    want = reference.decode(ids, cache)
    _, cache = reference.prefill(*random_prompts(reference.config, (9,)))
    part = PointRope(sample=0, start=1, end=4, cos_3d=torch.randn(3, 16), sin_3d=torch.randn(3, 16))
    for layer in reference.language_model.model.layers:
        layer.self_attn.points = (part,)
    assert_close("decode", reference.decode(ids, cache), want, EXACT)


def test_coordinates_that_are_not_finite_leave_the_point_tokens_in_1d() -> None:
    checkpoint = checkpoint_of("qwen", "3D_only")
    prompts = random_prompts(checkpoint.config, (9,))
    prompts.patch_coords[0][4, 1] = torch.nan  # type: ignore[index]
    with pytest.warns(UserWarning, match="3D RoPE is skipped"):
        got, _ = build_reference(checkpoint).prefill(*prompts)
    assert_close("logits", got, build_reference(checkpoint_of("qwen")).prefill(*prompts)[0], SAME_MATHS)


@pytest.mark.parametrize("merge_rule", [None, "3D_only"])
def test_generate_is_greedy_and_stops(merge_rule: str | None) -> None:
    reference = build_reference(checkpoint_of("llama", merge_rule))
    prompts = random_prompts(reference.config, (5, 11))
    free = reference.generate(*prompts, max_new_tokens=12)
    assert [len(tokens) for tokens in free] == [12, 12]
    for b in range(2):
        logits, cache = reference.prefill(*prompts.sample(b))
        forced = [reference.decode([[token]], cache)[0, -1] for token in free[b][:-1]]
        assert free[b] == [int(row.argmax()) for row in (logits[0], *forced)]
    stop = free[0][5]
    stopped = reference.generate(*prompts, max_new_tokens=12, stop_token_ids=[stop])
    for tokens, whole in zip(stopped, free, strict=True):
        assert tokens == whole[: whole.index(stop) + 1] if stop in whole else tokens == whole


def test_record_shows_what_passes_inside() -> None:
    reference = build_reference(checkpoint_of("qwen", "3D_only"))
    with reference.record() as seen:
        logits, _ = reference.prefill_logits(*random_prompts(reference.config, (9,)))
    assert seen["q_proj.1"].shape == (1, logits.shape[1], 96)
    assert seen["k_proj.1"].shape == seen["v_proj.0"].shape == (1, logits.shape[1], 32)
    head = reference.language_model
    assert_close("logits", head.lm_head(head.model.norm(seen["hidden.1"])), logits, EXACT)


def test_full_attention_without_3d_is_refused() -> None:
    with pytest.raises(SceneError, match="needs VLM_PE=3D_RoPE, but VLM_PE is None"):
        build_reference(checkpoint_of("qwen"), prefill_attention="full")


def test_an_unknown_attention_is_refused() -> None:
    with pytest.raises(SceneError, match="'sideways'; choose causal or full"):
        build_reference(checkpoint_of("qwen"), prefill_attention="sideways")


@pytest.mark.parametrize("ids", [[3, START, POINT, END, START], [3, POINT, END]])
def test_a_prompt_needs_one_start_token(ids: list[int]) -> None:
    reference = build_reference(checkpoint_of("qwen"))
    count = ids.count(START)
    with pytest.raises(SceneError, match=f"{count} point start tokens .id 90., but exactly one was expected"):
        reference.prefill([ids], [torch.zeros(2, 96)], [torch.zeros(2, 3)])


@pytest.mark.parametrize(("coords", "found"), [(None, "none"), (torch.zeros(3, 3), "3")])
def test_3d_needs_a_coordinate_for_each_token(coords: Tensor | None, found: str) -> None:
    reference = build_reference(checkpoint_of("qwen", "3D_only"))
    with pytest.raises(SceneError, match=f"sample 0: 2 point tokens, but {found} patch coordinates"):
        reference.prefill([[3, START, POINT, END]], [torch.zeros(2, 96)], [coords])


@pytest.mark.parametrize("family", ["qwen", "llama"])
def test_a_checkpoint_directory_from_voxels_to_tokens(family: str, tiny_checkpoint: Callable[..., Path]) -> None:
    folder = tiny_checkpoint(family)
    checkpoint = open_checkpoint(folder, vlm_pe="3D_RoPE", merge_rule="3D_with_1D")
    reference: Reference = build_reference(checkpoint)
    config = checkpoint.config
    inputs = encoder_inputs(random_voxels(90, 40, seed=6), config.encoder)
    tokens = reference.encode(inputs.feeds)
    assert tokens.shape == (inputs.voxel_counts[-1], config.language_model.hidden_size)
    ids = [5, config.point_start_token_id, config.point_token_id, config.point_end_token_id, 9, 10]
    [generated] = reference.generate([ids], [tokens], [inputs.patch_coords], max_new_tokens=8)
    assert len(generated) == 8
    moved = inputs.patch_coords * [[1.0, 0.5, 2.0]]  # another shape of the same cloud
    logits, other = (reference.prefill([ids], [tokens], [coords])[0] for coords in (inputs.patch_coords, moved))
    assert torch.isfinite(logits).all()
    assert (logits - other).abs().max() > 1e-4
