"""What SPATIALLM_VERBOSE=1 prints during prefill."""

from __future__ import annotations

import re

import pytest

from export.reference import build_reference
from runtime.rope import normalize_coords
from tests.modules.feeds import random_prompts
from tests.modules.tiny import tiny_checkpoint_of, tiny_config

RANGE = r"X=\[\d+\.\d{3}, \d+\.\d{3}\], Y=\[\d+\.\d{3}, \d+\.\d{3}\], Z=\[\d+\.\d{3}, \d+\.\d{3}\]"
HEADER = rf"""\[3D_RoPE\] Initialized with PCD_PE_Merge_Rule=3D_only
\[3D PE\] Original patch_coords range: {RANGE}
\[3D PE\] Normalized with max_range=\d+\.\d{{3}}, final range: {RANGE}
"""
LAYER = r"""
=== \[FAMILY 3D_RoPE Sanity Check\] ===
\[CHECKPOINT 1\] After Q/K/V projection and head reshape:
  query_states\.shape: torch\.Size\(\[1, 6, 19, 16\]\)
  key_states\.shape: torch\.Size\(\[1, 2, 19, 16\]\)
\[CHECKPOINT 2\] 3D RoPE data:
  cos_3d\.shape: torch\.Size\(\[11, 16\]\)
  sin_3d\.shape: torch\.Size\(\[11, 16\]\)
  point_token_positions: \[\(3, 14\)\]
\[CHECKPOINT 3\] .*
  point_q\.shape: torch\.Size\(\[1, 6, 11, 16\]\)
  point_k\.shape: torch\.Size\(\[1, 2, 11, 16\]\)
\[CHECKPOINT 4\] .*
  rotated_q\.shape: torch\.Size\(\[1, 6, 11, 16\]\)
  rotated_k\.shape: torch\.Size\(\[1, 2, 11, 16\]\)
\[CHECKPOINT 5\] .*
  query_states\.shape: torch\.Size\(\[1, 6, 19, 16\]\)
  key_states\.shape: torch\.Size\(\[1, 2, 19, 16\]\)
\[CHECKPOINT 6\] .*
  cos\.shape: torch\.Size\(\[1, 19, 16\]\)
  sin\.shape: torch\.Size\(\[1, 19, 16\]\)
\[CHECKPOINT 7\] .*
  saved_q\.shape: torch\.Size\(\[1, 6, 11, 16\]\)
  saved_k\.shape: torch\.Size\(\[1, 2, 11, 16\]\)
\[CHECKPOINT 8\] .*
  query_states\.shape: torch\.Size\(\[1, 6, 19, 16\]\)
  key_states\.shape: torch\.Size\(\[1, 2, 19, 16\]\)
\[CHECKPOINT 9\] Restored 3D RoPE for batch 0, positions \[3:14\]
"""


@pytest.mark.parametrize(("family", "name"), [("qwen", "Qwen2"), ("llama", "Llama")])
def test_prefill_prints_nine_checkpoints_a_layer(
    family: str, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reference = build_reference(tiny_checkpoint_of(tiny_config(family, vlm_pe="3D_RoPE", merge_rule="3D_only")))
    prompts = random_prompts(reference.config, (11,))
    monkeypatch.setenv("SPATIALLM_VERBOSE", "1")
    _, cache = reference.prefill(*prompts)
    printed = capsys.readouterr().out
    assert re.fullmatch(HEADER + 2 * LAYER.replace("FAMILY", name), printed), printed
    assert normalize_coords(prompts.patch_coords[0].numpy()).describe() in printed  # type: ignore[union-attr]
    reference.decode([[4]], cache)
    assert capsys.readouterr().out == ""


def test_each_sample_of_a_batch_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    reference = build_reference(tiny_checkpoint_of(tiny_config(vlm_pe="3D_RoPE", merge_rule="3D_with_1D")))
    monkeypatch.setenv("SPATIALLM_VERBOSE", "1")
    reference.prefill(*random_prompts(reference.config, (5, 11)))
    printed = capsys.readouterr().out
    assert "  point_token_positions: [(3, 8), (4, 15)]\n" in printed
    assert printed.count("[CHECKPOINT 9] Restored 3D RoPE for batch 1, positions [4:15]\n") == 2


@pytest.mark.parametrize(("merge_rule", "value"), [("3D_only", "0"), (None, "1")])
def test_nothing_is_printed_unless_asked_and_3d(
    merge_rule: str | None, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    vlm_pe = None if merge_rule is None else "3D_RoPE"
    reference = build_reference(tiny_checkpoint_of(tiny_config(vlm_pe=vlm_pe, merge_rule=merge_rule)))
    monkeypatch.setenv("SPATIALLM_VERBOSE", value)
    reference.prefill(*random_prompts(reference.config, (11,)))
    assert capsys.readouterr().out == ""
