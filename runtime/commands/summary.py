"""Results in words and as JSON."""

from __future__ import annotations

import argparse
from typing import Any

from runtime.commands import pictures
from runtime.layout import to_json as layout_json
from runtime.layout.counts import counts, number_of
from runtime.manifest import ParityRecord
from runtime.scene import Result

SHOWN = 3  # sentences about unused lines; more would hide the rest


def line(result: Result) -> str:
    """One line: how many of what."""
    tokens = number_of(len(result.tokens), "token")
    return f"{counts(result.layout)} ({tokens}, ended by {result.stopped_by})."


def issues(result: Result) -> list[str]:
    """Sentences about generated lines that were not used; all of them are in the layout's `issues`."""
    found = result.layout.issues
    lines = [f"line {issue.line} of the generated text was not used ({issue.reason})" for issue in found[:SHOWN]]
    if len(found) > SHOWN:
        lines.append(f"{len(found) - SHOWN} more lines were not used; a .json output lists them with their reasons")
    return lines


def entities(result: Result) -> dict[str, int]:
    """Counts by kind."""
    return {name: len(getattr(result.layout, name)) for name in ("walls", "doors", "windows", "boxes")}


def timings(result: Result) -> str:
    """A line for each stage."""
    width = max(map(len, result.milliseconds))
    lines = [f"  {stage:<{width}} {value:10.1f} ms" for stage, value in result.milliseconds.items()]
    lines.append(f"  {'total':<{width}} {sum(result.milliseconds.values()):10.1f} ms")
    return "\n".join([*lines, f"  {tokens_per_second(result):.1f} tokens/s while decoding"])


def tokens_per_second(result: Result) -> float:
    """Of this scene; the first token comes with prefill."""
    steps = len(result.tokens) - 1
    return steps / (result.milliseconds["decode"] / 1e3) if steps else 0.0


def to_json(args: argparse.Namespace, result: Result, parity: ParityRecord | None) -> dict[str, Any]:
    """The machine-readable summary of one scene."""
    return {
        "bundle": str(args.bundle),
        "point_cloud": str(args.point_cloud),
        "output": str(args.output),
        "parity": None if parity is None else parity.verdict,
        "pictures": [str(path) for path in pictures.Targets.of(args, args.point_cloud).paths()],
        "entities": entities(result),
        "layout": layout_json(result.layout),
        "points": result.report.cloud.points,
        "voxels": result.report.voxels,
        "point_tokens": result.report.point_tokens,
        "prompt_tokens": result.report.prompt_tokens,
        "generated_tokens": len(result.tokens),
        "stopped_by": result.stopped_by,
        "text": result.text,
        "warnings": list(result.report.warnings),
        "report": result.report.to_json(),
        "milliseconds": {stage: round(value, 3) for stage, value in result.milliseconds.items()},
        "tokens_per_second": round(tokens_per_second(result), 2),
    }
