"""The table of TensorRT's Python API: which version has which name, and what its parameters are called."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

VERSIONS = ("8.6.0", "10.16.1", "11.4.0")


@dataclass(frozen=True)
class Name:
    """A module-level name ("Builder") or a member ("Builder.create_network")."""

    versions: frozenset[str]
    signatures: tuple[tuple[str, ...], ...]  # parameters of each overload; empty for attributes
    returns: str  # class of the result, or ""


@cache
def table() -> dict[str, Name]:
    """All names, as read from the bindings of the three versions."""
    full = {version.partition(".")[0]: version for version in VERSIONS}
    names = {}
    for line in Path(__file__).with_name("tensorrt_api.tsv").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            name, versions, signatures, returns = (line + "\t\t\t").split("\t")[:4]
            found = re.findall(r"\(([^)]*)\)", signatures)
            names[name] = Name(
                frozenset(full[version] for version in versions.split()),
                tuple(tuple(part for part in text.split(",") if part) for text in found),
                returns,
            )
    return names


def members(version: str) -> dict[str, dict[str, Name]]:
    """{class or function: its members} of one version."""
    known: dict[str, dict[str, Name]] = {}
    for name, facts in table().items():
        if version in facts.versions:
            owner, _, member = name.partition(".")
            known.setdefault(owner, {}).update({member: facts} if member else {})
    return known
