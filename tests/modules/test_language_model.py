"""Prefill and decode modules against the reference, and against each other."""

from __future__ import annotations

import dataclasses
from functools import cache

import pytest
import torch
from torch import Tensor

from export.modules import Decode, LanguageModel, Prefill
from export.modules.language_model import rotate
from export.reference import Reference, build_reference
from export.reference.attention import PointRope, SpatialQwen2Attention
from tests.compare import EXACT, Tol, assert_close
from tests.modules.feeds import POISON, PoisonedCache, decode_feeds, prefill_feeds, random_prompts, text_prompts
from tests.modules.tiny import TinyCheckpoint, tiny_checkpoint_of, tiny_config

LOGITS = Tol(2e-4, why="two layers of float32, sums in another order")
CLOSE = Tol(2e-5, 2e-5, why="the same rows through other kernels")

MODES = [
    (None, None, "causal"),
    ("3D_RoPE", "3D_only", "causal"),
    ("3D_RoPE", "3D_only", "full"),
    ("3D_RoPE", "3D_with_1D", "causal"),
    ("3D_RoPE", "3D_with_1D", "full"),
]
BATCHES = [(9,), (5, 11, 2)]  # point tokens of each sample


@cache
def checkpoint_of(family: str, vlm_pe: str | None = None, merge_rule: str | None = None) -> TinyCheckpoint:
    tied = family == "qwen"
    return tiny_checkpoint_of(tiny_config(family, vlm_pe=vlm_pe, merge_rule=merge_rule, tied=tied))


def graphs(checkpoint: TinyCheckpoint, prefill_attention: str = "causal") -> tuple[Prefill, Decode]:
    model = LanguageModel(checkpoint.config, checkpoint.float_tensor)
    return Prefill(model, prefill_attention), Decode(model)


def start(reference: Reference, prefill: Prefill, points: tuple[int, ...]) -> tuple[Tensor, PoisonedCache, object]:
    """Prefill both, compare logits and rows; return the logits, the modules' cache and the reference's."""
    prompts = random_prompts(reference.config, points)
    want, reference_cache = reference.prefill(*prompts)
    feeds = prefill_feeds(reference, prompts)
    got = prefill(**feeds)
    assert_close("logits", got["logits"], want, LOGITS)
    own = PoisonedCache(reference.config, len(points), capacity=128)
    own.append(got, feeds["lengths"])
    for b, length in enumerate(own.lengths.tolist()):
        for layer in range(reference.config.language_model.layers):
            key = reference_cache.key(layer)[b].transpose(0, 1)[:length]
            value = reference_cache.value(layer)[b].transpose(0, 1)[:length]
            assert_close(f"key.{layer}", got[f"key.{layer}"][:length, b], key, LOGITS)
            assert_close(f"value.{layer}", got[f"value.{layer}"][:length, b], value, LOGITS)
    return want, own, reference_cache


@pytest.mark.parametrize("points", BATCHES, ids=["batch1", "batch3"])
@pytest.mark.parametrize(("vlm_pe", "merge_rule", "attention"), MODES)
@pytest.mark.parametrize("family", ["qwen", "llama"])
def test_64_greedy_tokens_equal_the_reference(
    family: str, vlm_pe: str | None, merge_rule: str | None, attention: str, points: tuple[int, ...]
) -> None:
    checkpoint = checkpoint_of(family, vlm_pe, merge_rule)
    reference = build_reference(checkpoint, prefill_attention=attention)
    prefill, decode = graphs(checkpoint, attention)
    want, own, theirs = start(reference, prefill, points)
    seen = set()
    for _ in range(64):
        tokens = want.argmax(-1, keepdim=True)
        got = decode(**decode_feeds(reference, own, tokens))
        own.append(got)
        want = reference.decode(tokens, theirs)[:, -1]
        assert_close("logits", got["logits"][:, -1], want, LOGITS)
        assert torch.equal(got["logits"][:, -1].argmax(-1), want.argmax(-1))
        seen.update(tokens.flatten().tolist())
    assert len(seen) > 3, "a model that repeats itself proves little"


@pytest.mark.parametrize("points", BATCHES, ids=["batch1", "batch3"])
@pytest.mark.parametrize(("vlm_pe", "merge_rule", "attention"), MODES)
@pytest.mark.parametrize("family", ["qwen", "llama"])
def test_five_forced_tokens_at_once_equal_the_reference(
    family: str, vlm_pe: str | None, merge_rule: str | None, attention: str, points: tuple[int, ...]
) -> None:
    checkpoint = checkpoint_of(family, vlm_pe, merge_rule)
    reference = build_reference(checkpoint, prefill_attention=attention)
    prefill, decode = graphs(checkpoint, attention)
    _, own, theirs = start(reference, prefill, points)
    for step in range(3):
        ids = torch.randint(2, 80, (len(points), 5), generator=torch.Generator().manual_seed(step))
        got = decode(**decode_feeds(reference, own, ids))
        own.append(got)
        assert_close("logits", got["logits"], reference.decode(ids, theirs), LOGITS)


@pytest.mark.parametrize("chunk", [1, 5])
@pytest.mark.parametrize("family", ["qwen", "llama"])
def test_prefill_of_s_tokens_equals_s_decode_steps(family: str, chunk: int) -> None:
    checkpoint = checkpoint_of(family)
    reference = build_reference(checkpoint)
    prefill, decode = graphs(checkpoint)
    ids = torch.randint(2, 80, (2, 15), generator=torch.Generator().manual_seed(5))
    whole = prefill(**prefill_feeds(reference, text_prompts(*ids.tolist())))
    own = PoisonedCache(checkpoint.config, 2, capacity=32)
    for at in range(0, 15, chunk):
        feeds = decode_feeds(reference, own, ids[:, at : at + chunk])
        feeds |= own.feeds(rows=at)  # at the first step the cache has no rows at all
        got = decode(**feeds)
        own.append(got)
    assert_close("logits", got["logits"][:, -1], whole["logits"], CLOSE)
    for name in whole:
        if name != "logits":
            assert_close(name, own.tensors[f"past_{name}"][:15], whole[name], CLOSE)


@pytest.mark.parametrize("poison", [POISON, -POISON, torch.finfo(torch.float32).max])
def test_rows_beyond_the_past_length_never_change_a_bit(poison: float) -> None:
    checkpoint = checkpoint_of("qwen", "3D_RoPE", "3D_only")
    reference = build_reference(checkpoint)
    prefill, decode = graphs(checkpoint)
    feeds = prefill_feeds(reference, random_prompts(checkpoint.config, (5, 11, 2)))
    rows, results = prefill(**feeds), []
    for fill in (0.0, poison):
        own = PoisonedCache(checkpoint.config, 3, capacity=64, poison=fill)
        own.append(rows, feeds["lengths"])
        ids = torch.tensor([[3, 9, 4, 8, 5]]).expand(3, -1)
        results.append(decode(**decode_feeds(reference, own, ids) | own.feeds(rows=64)))
    for name, clean in results[0].items():
        assert_close(name, results[1][name], clean, EXACT)


def test_padding_of_the_prompt_never_changes_a_bit() -> None:
    checkpoint = checkpoint_of("llama", "3D_RoPE", "3D_with_1D")
    reference = build_reference(checkpoint, prefill_attention="full")
    feeds = prefill_feeds(reference, random_prompts(checkpoint.config, (11, 2)))
    length = int(feeds["lengths"][1])
    assert length < feeds["input_ids"].shape[1]
    other = {name: feed.clone() for name, feed in feeds.items()}
    other["input_ids"][1, length:] = 5
    for name in ("cos_1d", "sin_1d", "cos_3d", "sin_3d", "point_embeds"):
        other[name][1, length:] = 1e6
    for attention in ("causal", "full"):
        prefill, _ = graphs(checkpoint, attention)
        got, want = prefill(**other), prefill(**feeds)
        assert_close("logits", got["logits"], want["logits"], EXACT)
        assert_close("key.1", got["key.1"][:length, 1], want["key.1"][:length, 1], EXACT)


@pytest.mark.parametrize("family", ["qwen", "llama"])
def test_without_point_tokens_the_3d_tables_are_not_read(family: str) -> None:
    checkpoint = checkpoint_of(family, "3D_RoPE", "3D_only")
    plain = dataclasses.replace(checkpoint, config=dataclasses.replace(checkpoint.config, vlm_pe=None, merge_rule=None))
    prompts = text_prompts([3, 8, 5, 9, 11, 4], [7, 2, 8])
    reference = build_reference(plain)
    feeds = prefill_feeds(reference, prompts)
    for name in ("cos_3d", "sin_3d", "point_embeds"):
        feeds[name] = torch.full_like(feeds[name], torch.nan)
    prefill, _ = graphs(checkpoint)
    assert_close("logits", prefill(**feeds)["logits"], reference.prefill(*prompts)[0], LOGITS)


def test_one_table_equals_save_and_restore_with_a_table_that_is_no_rotation() -> None:
    generator = torch.Generator().manual_seed(8)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    query, key, cos, sin = draw(2, 6, 12, 16), draw(2, 2, 12, 16), draw(2, 12, 16), draw(2, 12, 16)
    spans = [(0, 3, 8), (1, 1, 12)]
    points = tuple(
        PointRope(sample=b, start=lo, end=hi, cos_3d=draw(hi - lo, 16), sin_3d=draw(hi - lo, 16)) for b, lo, hi in spans
    )
    one_cos, one_sin = cos.clone(), sin.clone()
    for part in points:
        one_cos[part.sample, part.start : part.end] = part.cos_3d
        one_sin[part.sample, part.start : part.end] = part.sin_3d
    attention = SpatialQwen2Attention.__new__(SpatialQwen2Attention)
    torch.nn.Module.__init__(attention)
    attention.points = points
    want = attention._rotate_with_points(query.clone(), key.clone(), cos, sin)
    for name, raw, literal in zip(("query", "key"), (query, key), want, strict=True):
        one_table = rotate(raw.transpose(1, 2), one_cos, one_sin).transpose(1, 2)
        assert_close(name, one_table, literal, Tol(1e-6, 1e-6, why="float32 rounding"))
    norms = want[0][0, :, 3:8].norm(dim=-1) / query[0, :, 3:8].norm(dim=-1)
    assert (norms - 1).abs().max() > 0.1, "the table must not be a rotation, or the test proves little"


def test_an_unknown_attention_is_refused() -> None:
    checkpoint = checkpoint_of("qwen")
    with pytest.raises(ValueError, match="'causal' or 'full' was expected"):
        graphs(checkpoint, "sideways")
