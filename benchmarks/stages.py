"""Scene to layout, stage by stage: python -m benchmarks.stages --bundle BUNDLE [--point_cloud scene.ply]

Medians over the repeats, after a run that is not counted. Decode reads every weight of the language model once per
token; `bandwidth_share` compares that with a plain streaming read on the same machine. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from benchmarks.machine import cores, describe, peak_memory_gb, read_bandwidth_gbs
from runtime import Pipeline, Request, Result


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bundle", required=True, type=Path)
    p.add_argument("--point_cloud", type=Path, default=Path("demo/room.ply"))
    p.add_argument("--tokens", type=int, default=64)
    p.add_argument("--repeats", type=int, default=3)
    p.add_argument("--threads", type=int, default=cores())
    args = p.parse_args()
    pipeline = Pipeline.load(args.bundle, threads=args.threads, verify=False)
    request = Request(max_new_tokens=args.tokens)
    results = []
    for number in range(args.repeats + 1):
        results.append(pipeline(args.point_cloud, request))
        print(f"run {number}: {_rounded(results[-1].milliseconds)}", file=sys.stderr)
    peak = peak_memory_gb()  # before the bandwidth is measured, which takes a buffer of its own
    print(json.dumps(report(args, pipeline, results[1:], peak, read_bandwidth_gbs())))


def report(
    args: argparse.Namespace, pipeline: Pipeline, results: list[Result], peak: float, bandwidth: float
) -> dict[str, Any]:
    """What the JSON line holds."""
    first, manifest = results[0], pipeline.manifest
    stages = {name: statistics.median(r.milliseconds[name] for r in results) for name in first.milliseconds}
    steps = len(first.tokens) - 1  # the first token comes with prefill
    if steps < 1:
        raise SystemExit("The first token ended the text, so there is no decode step to time. Use another scene.")
    per_token = stages["decode"] / steps
    read = manifest.files[manifest.weights["decode"]].bytes / 1e9
    return {
        **describe(),
        "bundle": args.bundle.name,
        "model": f"{manifest.language_model.family} {manifest.precision}",
        "quantization_bits": None if manifest.quantization is None else manifest.quantization.bits,
        "point_cloud": args.point_cloud.name,
        "threads": args.threads,
        "repeats": len(results),
        **{name: getattr(first.report, name) for name in ("voxels", "point_tokens", "prompt_tokens")},
        "generated_tokens": len(first.tokens),
        "milliseconds": _rounded(stages),
        "decode_ms_per_token": round(per_token, 3),
        "tokens_per_second": round(1e3 / per_token, 2),
        "peak_memory_gb": round(peak, 3),
        "weights_read_gb_per_token": round(read, 4),
        "decode_gb_per_second": round(read / per_token * 1e3, 2),
        "measured_read_gb_per_second": round(bandwidth, 2),
        "bandwidth_share": round(read / per_token * 1e3 / bandwidth, 3),
    }


def _rounded(milliseconds: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 1) for name, value in milliseconds.items()}


if __name__ == "__main__":
    main()
