"""Our runtime beside transformers, same weights, same prompt, same run: python -m benchmarks.peers --model M --bundle B

Each contender runs in a process of its own, in turn, several rounds, so that a slow moment of the machine meets all.
Medians over the rounds; ratios are against transformers. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.machine import cores, describe


def run_once(arguments: list[str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.language_model", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{result.stderr}")
    facts: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return facts


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True, type=Path, help="checkpoint, for transformers")
    p.add_argument("--bundle", required=True, nargs="+", type=Path, help="bundles of that checkpoint with VLM_PE=None")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--tokens", type=int, default=32)
    p.add_argument("--points", type=int, default=556)
    p.add_argument("--threads", type=int, default=cores())
    args = p.parse_args()
    common = ["--tokens", str(args.tokens), "--points", str(args.points), "--threads", str(args.threads)]
    contenders = {"transformers eager": ["--transformers", str(args.model)]}
    contenders |= {bundle.name: ["--bundle", str(bundle)] for bundle in args.bundle}
    rounds = [{name: run_once(what + common) for name, what in contenders.items()} for _ in range(args.rounds)]
    report = {name: summarize([facts[name] for facts in rounds], rounds) for name in contenders}
    for name, facts in report.items():
        print(name, {key: round(value, 2) for key, value in facts.items()}, file=sys.stderr)
    facts = {"tokens": args.tokens, "points": args.points, "threads": args.threads, "rounds": args.rounds}
    print(json.dumps({**describe(), **facts, "contenders": report}))


def summarize(own: list[dict[str, Any]], rounds: list[dict[str, dict[str, Any]]]) -> dict[str, float]:
    """Medians, and ratios round by round: above 1 is faster, or smaller, than transformers."""
    peer = [facts["transformers eager"] for facts in rounds]
    keys = ("prefill_ms", "decode_ms_per_token", "peak_memory_gb")
    medians = {key: statistics.median(facts[key] for facts in own) for key in keys}
    ratios = {
        f"{key.removesuffix('_ms').removesuffix('_ms_per_token').removesuffix('_gb')}_times_better": statistics.median(
            theirs[key] / ours[key] for theirs, ours in zip(peer, own, strict=True)
        )
        for key in keys
    }
    same = [a == b for a, b in zip(own[0]["tokens"], peer[0]["tokens"], strict=True)]
    return {**medians, **ratios, "tokens_kept": sum(same) / len(same)}


if __name__ == "__main__":
    main()
