"""A bundle's engines against float32 PyTorch, and their speed and memory. Runs without torch.

python -m benchmarks.gpu.engines --bundle BUNDLE --reference ref.npz --output result.json

`benchmarks.gpu.reference` writes the reference. The result is written part by part; the last line is JSON.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.gpu.case import Case
from benchmarks.gpu.loaded import Loaded, Loading, memory, plan_files
from benchmarks.gpu.parity import Parity
from benchmarks.gpu.report import Report, model_facts
from benchmarks.gpu.speed import Speed
from runtime.manifest import Manifest

PARTS = ("parity", "speed")


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bundle", required=True, type=Path)
    p.add_argument("--reference", required=True, type=Path)
    p.add_argument("--output", required=True, type=Path)
    p.add_argument("--backend", default="tensorrt")
    p.add_argument("--device", help="(default: cuda:0 for tensorrt, cpu for onnxruntime)")
    p.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    p.add_argument("--tokens", type=int, default=256, help="generated for the speed (default: 256)")
    p.add_argument("--runs", type=int, default=20, help="of prefill and the encoder (default: 20)")
    args = p.parse_args()
    manifest, case = Manifest.read(args.bundle), Case.read(args.reference)
    facts = model_facts(manifest.language_model, manifest.precision)
    report = Report(args.output, "engines", {**facts, "backend": args.backend, "reference": case.facts})
    device = args.device or ("cuda:0" if args.backend == "tensorrt" else "cpu")
    loading = Loading(args.bundle, args.backend, device, case)
    report.part("load", loading.measure)
    report.part("plan_files", lambda: plan_files(args.bundle))
    if loading.loaded is not None:
        measure(report, loading.loaded, args)
    return report.finish()


def measure(report: Report, loaded: Loaded, args: argparse.Namespace) -> None:
    """All parts that were asked for; whether parity held as a whole."""
    report.part("memory", lambda: memory(loaded))
    if "parity" in args.parts:
        parts = Parity(loaded).parts()
        results = [report.part(f"{name}_parity", part) for name, part in parts.items()]
        report.facts["parity_passed"] = all(facts is not None and facts["passed"] for facts in results)
    if "speed" in args.parts:
        for name, part in Speed(loaded, args.tokens, args.runs).parts().items():
            report.part(name, part)
    report.part("memory_after", lambda: memory(loaded))


if __name__ == "__main__":
    sys.exit(main())
