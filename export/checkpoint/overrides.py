"""Where the command line asks for another position encoding than the one that config.json says."""

from __future__ import annotations

from pathlib import Path

from export.checkpoint.choices import DEFAULT_MERGE_RULE, none_or
from export.checkpoint.config import ModelConfig
from export.checkpoint.fields import Fields, read_json_object


def overridden_encoding(folder: Path, config: ModelConfig) -> str | None:
    """A sentence where `config` encodes positions otherwise than the checkpoint's config.json, else None.

    A config.json without a `vlm_pe` is the original model's, whose point tokens have no 3D encoding.
    """
    fields = Fields(read_json_object(folder / "config.json"), str(folder / "config.json"))
    found, stored = fields.one_of("vlm_pe", "VLM_PE")
    stored = none_or(stored)
    rule = none_or(fields.one_of("pcd_pe_merge_rule", "PCD_PE_Merge_Rule")[1]) or DEFAULT_MERGE_RULE
    said, asked = _named(stored, rule), _named(config.vlm_pe, config.merge_rule)
    if said == asked:
        return None
    says = f"says {said}" if found else "says nothing of VLM_PE, which means None"
    return (
        f"the checkpoint's config.json {says}; exporting {asked} as asked: "
        f"weights trained with the other encoding give wrong layouts."
    )


def _named(vlm_pe: object, merge_rule: object) -> str:
    return "VLM_PE = None" if vlm_pe is None else f"VLM_PE = {vlm_pe}, PCD_PE_Merge_Rule = {merge_rule}"
