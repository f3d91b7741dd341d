"""Our runtime beside others, same weights, same prompt, same run: python -m benchmarks.peers --model M --bundle B

The others are transformers, eager, and with --genai also onnxruntime-genai, after its own builder has made its models.
Each contender runs in a process of its own, in turn, several rounds, so that a slow moment of the machine meets all.
Medians over the rounds; ratios are against transformers. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks import genai
from benchmarks.machine import cores, describe

TRANSFORMERS = "transformers eager"
PACKAGES = ("torch", "transformers", "onnxruntime", "onnxruntime-genai")


def run(module: str, arguments: list[str]) -> str:
    """What a benchmark module printed, run in a process of its own."""
    command = [sys.executable, "-m", module, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{result.stderr}")
    return result.stdout


def run_once(arguments: list[str]) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(run("benchmarks.language_model", arguments).splitlines()[-1])
    return facts


def build_genai(model: Path, folder: Path, precisions: list[str], points: int) -> dict[str, list[str]]:
    """Arguments of a contender for each precision, its model written to `folder`; none where a package is missing."""
    if precisions and (advice := genai.missing()):
        print(f"onnxruntime-genai is left out, a package is missing: {advice}", file=sys.stderr)
        return {}
    contenders = {}
    for precision in precisions:
        output, name = folder / precision, f"onnxruntime-genai {precision}"
        print(f"building {name}", file=sys.stderr)
        what = ["--model", str(model), "--output", str(output), "--precision", precision, "--points", str(points)]
        run("benchmarks.genai", what)
        contenders[name] = ["--genai", str(output)]
    return contenders


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True, type=Path, help="checkpoint, for transformers")
    p.add_argument("--bundle", required=True, nargs="+", type=Path, help="bundles of that checkpoint with VLM_PE=None")
    p.add_argument(
        "--genai", nargs="*", metavar="PRECISION", choices=genai.PRECISIONS, help="of its models (default: fp32)"
    )
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--repeats", type=int, default=2, help="in each round, after one that is not counted")
    p.add_argument("--tokens", type=int, default=32)
    p.add_argument("--points", type=int, default=556)
    p.add_argument("--threads", type=int, default=cores())
    args = p.parse_args()
    precisions = [genai.PRECISIONS[0]] if args.genai == [] else args.genai or []
    with tempfile.TemporaryDirectory() as folder:
        contenders = {TRANSFORMERS: ["--transformers", str(args.model)]}
        contenders |= build_genai(args.model, Path(folder), precisions, args.points)
        contenders |= {bundle.name: ["--bundle", str(bundle)] for bundle in args.bundle}
        rounds = measure(contenders, args)
    report = {name: summarize([facts[name] for facts in rounds], rounds) for name in contenders}
    for name, facts in report.items():
        print(name, {key: round(value, 2) for key, value in facts.items()}, file=sys.stderr)
    settings = {key: getattr(args, key) for key in ("tokens", "points", "threads", "rounds", "repeats")}
    print(json.dumps({"benchmark": "peers", **describe(), "versions": versions(), **settings, "contenders": report}))


def versions() -> dict[str, str]:
    """Of the installed packages that contend."""
    installed = {distribution.name: distribution.version for distribution in metadata.distributions()}
    return {package: installed[package] for package in PACKAGES if package in installed}


def measure(contenders: dict[str, list[str]], args: argparse.Namespace) -> list[dict[str, dict[str, Any]]]:
    """What every contender reported, by name, for each round."""
    common = ["--tokens", str(args.tokens), "--points", str(args.points), "--threads", str(args.threads)]
    common += ["--repeats", str(args.repeats)]
    return [{name: run_once(what + common) for name, what in contenders.items()} for _ in range(args.rounds)]


def summarize(own: list[dict[str, Any]], rounds: list[dict[str, dict[str, Any]]]) -> dict[str, float]:
    """Medians, and ratios round by round: above 1 is faster, or smaller, than transformers."""
    peer = [facts[TRANSFORMERS] for facts in rounds]
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
