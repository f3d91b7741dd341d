"""Reports of `export.parity`, a few lines each: python -m benchmarks.gpu.verdicts ladder-*.json --output verdicts.json

Of each rung its library, its device, and how it compares with the rung below and with the reference: verdict, greedy
tokens, and the relative error that comes nearest to its limit.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.report import Facts, command_line, write_json

KEPT = ("backend", "library", "torch", "transformers", "device", "driver", "precision", "vlm_pe", "merge_rule")


def verdicts(reports: Mapping[str, Mapping[str, Any]]) -> Facts:
    """By the report's name its verdict and its scenes."""
    return {
        name: {"verdict": report["verdict"], "when": report["when"], "scenes": [scene(s) for s in report["scenes"]]}
        for name, report in reports.items()
    }


def scene(facts: Mapping[str, Any]) -> Facts:
    """The rungs of one scene."""
    return {"scene": facts["scene"], "rungs": [rung(r) for r in facts["rungs"]]}


def rung(facts: Mapping[str, Any]) -> Facts:
    """What ran, and its comparisons where there is something to compare with."""
    ran = {name: facts["facts"][name] for name in KEPT if facts["facts"].get(name) is not None}
    compared = {key: comparison(facts[key]) for key in ("below", "reference") if facts[key] is not None}
    return {"rung": facts["rung"], **ran, **compared}


def comparison(facts: Mapping[str, Any]) -> Facts:
    """A verdict in numbers."""
    tokens = facts["tokens"] or {}
    return {
        "against": facts["against"],
        "verdict": facts["verdict"],
        "tokens": {name: tokens.get(name) for name in ("count", "equal")},
        "nearest": nearest(facts["differences"]),
    }


def nearest(differences: Sequence[Mapping[str, Any]]) -> Facts:
    """The error that comes nearest to its limit, or is farthest beyond it: limits grow with depth."""
    worst = max(differences, key=lambda each: each["error"] / each["limit"])
    return {"place": worst["place"], "error": float(f"{worst['error']:.3g}"), "limit": worst["limit"]}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("reports", nargs="+", type=Path)
    p.add_argument("--output", type=Path, required=True)
    args = p.parse_args()
    reports = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in args.reports}
    write_json(args.output, {"benchmark": "verdicts", "command": command_line("verdicts"), **verdicts(reports)})


if __name__ == "__main__":
    main()
