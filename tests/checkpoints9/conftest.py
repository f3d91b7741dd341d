"""Tiny bundles with taps in both layers, made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from export.bundle import ExportOptions, write_bundle
from export.checkpoint import open_checkpoint
from runtime.bundle import Bundle
from tests.exported import Exported

Tapped = Callable[..., Exported]


@pytest.fixture(scope="session")
def tapped(tiny_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Tapped:
    """`tapped(family, vlm_pe, merge_rule, prefill_attention, variant, **options of the export)`."""
    made: dict[str, Exported] = {}

    def tap(
        family: str = "qwen",
        vlm_pe: str | None = "3D_RoPE",
        merge_rule: str | None = "3D_only",
        attention: str = "causal",
        variant: str = "PE-A",
        **options: object,
    ) -> Exported:
        key = repr((family, vlm_pe, merge_rule, attention, variant, sorted(options.items())))
        if key not in made:
            checkpoint = open_checkpoint(tiny_checkpoint(family), vlm_pe=vlm_pe, merge_rule=merge_rule, variant=variant)
            folder = tmp_path_factory.mktemp("tapped") / "bundle"
            settings = {"taps": (0, 1), "prefill_attention": attention, "max_length": 1024, **options}
            write_bundle(checkpoint, folder, ExportOptions(**settings))  # type: ignore[arg-type]
            made[key] = Exported(checkpoint, Bundle.open(folder), attention)
        return made[key]

    return tap
