"""Which position encoding: the command line's choices over config.json's, and the lines that say who won."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

from export.checkpoint.fields import Fields
from runtime.errors import CheckpointError

VARIANTS = ("PE-A", "PE-B")
MERGE_RULES = ("3D_only", "3D_with_1D")
DEFAULT_MERGE_RULE = "3D_only"
DEFAULT_PCD_THETA = 10000.0


class Unset(enum.Enum):
    """The type of UNSET, which says "not given" where None is a choice of its own."""

    UNSET = "unset"


UNSET = Unset.UNSET


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What the command line asked for."""

    vlm_pe: str | Unset | None = UNSET
    merge_rule: str | None = None  # None = not given
    variant: str = "PE-A"
    pcd_theta: float | None = None  # None = not given


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """The position encoding in force."""

    vlm_pe: str | None
    merge_rule: str | None
    variant: str
    pcd_theta: float
    notes: tuple[str, ...]


def choose_encoding(config: Fields, choices: Choices) -> Encoding:
    """Settle the position encoding of the point tokens. Raises CheckpointError for an unknown one."""
    if choices.variant not in VARIANTS:
        raise CheckpointError(f"variant {choices.variant!r} of the 3D encoding is not known; give PE-A or PE-B.")
    vlm_pe, notes = _vlm_pe(config, choices)
    theta, theta_note = _pcd_theta(config, choices, vlm_pe)
    if vlm_pe is None:
        if choices.merge_rule is not None:
            notes.append(f"[Config] PCD_PE_Merge_Rule = {choices.merge_rule} has no effect, since VLM_PE = None")
        merge_rule = None
    else:
        merge_rule, rule_notes = _merge_rule(config, choices)
        notes += rule_notes
    return Encoding(
        vlm_pe=vlm_pe,
        merge_rule=merge_rule,
        variant=choices.variant,
        pcd_theta=theta,
        notes=(*notes, *theta_note),
    )


def _vlm_pe(config: Fields, choices: Choices) -> tuple[str | None, list[str]]:
    found, stored = config.one_of("vlm_pe", "VLM_PE")
    stored = none_or(stored)
    if isinstance(choices.vlm_pe, Unset):
        where = "from config" if found else "default"
        return _known(stored, config.where), [f"[Config] VLM_PE = {stored} ({where})"]
    given = none_or(choices.vlm_pe)
    notes = [f"[Config] VLM_PE = {given} (from command line)"]
    if found and stored != given:
        notes.append(f"[Config] config.json has VLM_PE = {stored}; the command line wins")
    return _known(given, "command line"), notes


def none_or(value: Any) -> Any:
    """None for the strings that mean none."""
    return None if value in ("None", "none") else value


def _known(vlm_pe: Any, where: str) -> str | None:
    if vlm_pe is None or vlm_pe == "3D_RoPE":
        return None if vlm_pe is None else "3D_RoPE"
    raise CheckpointError(
        f"{where}: VLM_PE is {vlm_pe!r:.60}, but only None and 3D_RoPE can be exported. Give --VLM_PE None or 3D_RoPE."
    )


def _merge_rule(config: Fields, choices: Choices) -> tuple[str, list[str]]:
    found, stored = config.one_of("pcd_pe_merge_rule", "PCD_PE_Merge_Rule")
    stored = none_or(stored)
    if choices.merge_rule is None:
        rule, source, where = stored or DEFAULT_MERGE_RULE, " (from config)" if stored else "", config.where
    else:
        rule, source, where = choices.merge_rule, "", "command line"
    if rule not in MERGE_RULES:
        raise CheckpointError(f"{where}: PCD_PE_Merge_Rule is {rule!r:.60}, but 3D_only or 3D_with_1D was expected.")
    notes = [f"[Config] PCD_PE_Merge_Rule = {rule}{source}"]
    if found and stored is not None and stored != rule:
        notes.append(f"[Config] config.json has PCD_PE_Merge_Rule = {stored}; the command line wins")
    return rule, notes


def _pcd_theta(config: Fields, choices: Choices, vlm_pe: str | None) -> tuple[float, list[str]]:
    stored = config.number("pcd_theta", DEFAULT_PCD_THETA)
    theta = stored if choices.pcd_theta is None else choices.pcd_theta
    given = Fields({"pcd_theta": theta}, "command line").number("pcd_theta")
    if vlm_pe is not None and choices.variant == "PE-B":
        return given, [f"[Config] pcd_theta = {given:g}{' (from command line)' if choices.pcd_theta else ''}"]
    if choices.pcd_theta is not None:
        return given, [f"[Config] pcd_theta = {given:g} has no effect: only 3D_RoPE of variant PE-B reads it"]
    return given, []
