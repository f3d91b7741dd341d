"""The sentence where the command line's position encoding is not config.json's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from export.checkpoint import open_checkpoint
from export.checkpoint.overrides import overridden_encoding
from tests.checkpoint.edits import edit_config

Tiny = Callable[..., Path]
ONLY, MIXED = ({"vlm_pe": "3D_RoPE", "merge_rule": rule} for rule in ("3D_only", "3D_with_1D"))
ROPE = "VLM_PE = 3D_RoPE, PCD_PE_Merge_Rule = "


def sentence(folder: Path, asked: dict[str, Any]) -> str | None:
    checkpoint = open_checkpoint(folder, **asked)
    return overridden_encoding(checkpoint.folder, checkpoint.config)


@pytest.mark.parametrize(
    ("stored", "asked", "says", "exporting"),
    [
        ({}, ONLY, "says nothing of VLM_PE, which means None", f"{ROPE}3D_only"),
        ({"vlm_pe": "None"}, MIXED, "says VLM_PE = None", f"{ROPE}3D_with_1D"),
        ({"vlm_pe": "3D_RoPE"}, {"vlm_pe": "None"}, f"says {ROPE}3D_only", "VLM_PE = None"),
        ({"vlm_pe": "3D_RoPE"}, {"merge_rule": "3D_with_1D"}, f"says {ROPE}3D_only", f"{ROPE}3D_with_1D"),
        ({"VLM_PE": "3D_RoPE", "PCD_PE_Merge_Rule": "3D_with_1D"}, ONLY, f"says {ROPE}3D_with_1D", f"{ROPE}3D_only"),
        ({"vlm_pe": "CCA_2DProj"}, {"vlm_pe": "None"}, "says VLM_PE = CCA_2DProj, ", "VLM_PE = None"),
    ],
)
def test_what_differs_is_said(
    changeable: Tiny, stored: dict[str, Any], asked: dict[str, Any], says: str, exporting: str
) -> None:
    said = sentence(edit_config(changeable(), **stored), asked)
    assert said is not None
    assert said.startswith(f"the checkpoint's config.json {says}")
    assert said.endswith(
        f"; exporting {exporting} as asked: weights trained with the other encoding give wrong layouts."
    )


@pytest.mark.parametrize(
    ("stored", "asked"),
    [
        ({}, {}),
        ({}, {"vlm_pe": "None"}),
        ({}, {"merge_rule": "3D_with_1D"}),  # has no effect
        ({"vlm_pe": "None", "pcd_pe_merge_rule": "3D_with_1D"}, {"merge_rule": "3D_only"}),
        ({"vlm_pe": "3D_RoPE"}, ONLY),
        ({"vlm_pe": "3D_RoPE", "pcd_pe_merge_rule": "3D_with_1D"}, {}),
        ({"vlm_pe": "3D_RoPE", "pcd_pe_merge_rule": "3D_with_1D"}, MIXED),
    ],
)
def test_what_is_the_same_is_not(changeable: Tiny, stored: dict[str, Any], asked: dict[str, Any]) -> None:
    assert sentence(edit_config(changeable(), **stored), asked) is None
