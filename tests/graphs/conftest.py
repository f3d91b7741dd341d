"""Exported tiny bundles, each made once a session."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from export.bundle import ExportOptions, write_bundle
from export.checkpoint import Checkpoint, open_checkpoint
from runtime.bundle import Bundle


@dataclass(frozen=True, slots=True)
class Exported:
    """A bundle and the checkpoint it was made from."""

    checkpoint: Checkpoint
    bundle: Bundle
    prefill_attention: str


MODES = [
    (None, None, "causal"),
    ("3D_RoPE", "3D_only", "causal"),
    ("3D_RoPE", "3D_only", "full"),
    ("3D_RoPE", "3D_with_1D", "causal"),
    ("3D_RoPE", "3D_with_1D", "full"),
]
FAMILIES = ["qwen", "llama"]
Export = Callable[..., Exported]


@pytest.fixture(scope="session")
def exported(tiny_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Export:
    """`exported(family, vlm_pe, merge_rule, prefill_attention, max_length, **checkpoint options)`."""
    made: dict[str, Exported] = {}

    def export(
        family: str = "qwen",
        vlm_pe: str | None = None,
        merge_rule: str | None = None,
        prefill_attention: str = "causal",
        max_length: int = 1024,
        **options: object,
    ) -> Exported:
        key = repr((family, vlm_pe, merge_rule, prefill_attention, max_length, sorted(options.items())))
        if key not in made:
            model = tiny_checkpoint(family, **options)
            checkpoint = open_checkpoint(model, vlm_pe=vlm_pe, merge_rule=merge_rule)
            folder = tmp_path_factory.mktemp("bundle") / "bundle"
            settings = ExportOptions(prefill_attention=prefill_attention, max_length=max_length)
            write_bundle(checkpoint, folder, settings)
            made[key] = Exported(checkpoint, Bundle.open(folder), prefill_attention)
        return made[key]

    return export
