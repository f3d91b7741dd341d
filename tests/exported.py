"""Tiny bundles and the checkpoints they were made from; the fixture `exported` hands them out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from export.bundle import ExportOptions, write_bundle
from export.checkpoint import Checkpoint, open_checkpoint
from export.graph.segments import SEGMENT_LAYERS
from runtime.bundle import Bundle
from runtime.manifest import QuantizationSpec

MODES = [
    (None, None, "causal"),
    ("3D_RoPE", "3D_only", "causal"),
    ("3D_RoPE", "3D_only", "full"),
    ("3D_RoPE", "3D_with_1D", "causal"),
    ("3D_RoPE", "3D_with_1D", "full"),
]
FAMILIES = ["qwen", "llama"]


@dataclass(frozen=True, slots=True)
class Exported:
    """A bundle and the checkpoint it was made from."""

    checkpoint: Checkpoint
    bundle: Bundle
    prefill_attention: str


Export = Callable[..., Exported]


def exporter(tiny_checkpoint: Callable[..., Path], new_folder: Callable[[], Path]) -> Export:
    """`export(family, vlm_pe, merge_rule, prefill_attention, max_length, ...)`, each made once."""
    made: dict[str, Exported] = {}

    def export(
        family: str = "qwen",
        vlm_pe: str | None = None,
        merge_rule: str | None = None,
        prefill_attention: str = "causal",
        max_length: int = 1024,
        quantization: QuantizationSpec | None = None,
        segment_layers: int = SEGMENT_LAYERS,
        **options: object,
    ) -> Exported:
        choices = (vlm_pe, merge_rule, prefill_attention, max_length, quantization, segment_layers)
        key = repr((family, *choices, sorted(options.items())))
        if key not in made:
            checkpoint = open_checkpoint(tiny_checkpoint(family, **options), vlm_pe=vlm_pe, merge_rule=merge_rule)
            settings = ExportOptions(
                prefill_attention=prefill_attention,
                max_length=max_length,
                quantization=quantization,
                segment_layers=segment_layers,
            )
            folder = new_folder()
            write_bundle(checkpoint, folder, settings)
            made[key] = Exported(checkpoint, Bundle.open(folder), prefill_attention)
        return made[key]

    return export
