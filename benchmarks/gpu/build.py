"""Seconds that building a bundle's engines takes, with a timing cache that knows them or not. Runs without torch.

python -m benchmarks.gpu.build --bundle BUNDLE --output build.json [--rounds 2] [options of python -m export.build]

A round builds all that was asked for. The first is cold where the timing cache is new (give --timing_cache a file that
is not there), the next ones are warm where TensorRT could save it; each graph's facts say which. The last line is JSON.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from benchmarks.gpu.report import Facts, Report, model_facts
from export.engines.arguments import add_all, all_options
from export.engines.options import BuildOptions
from export.engines.plans import build_engines
from export.engines.report import facts
from runtime.bundle import Bundle


def measure(bundle: Bundle, options: BuildOptions) -> Facts:
    """Wall clock of one build, digests and folders included, and what its report says of each graph."""
    began = time.perf_counter()
    built = build_engines(bundle, options)
    seconds = round(time.perf_counter() - began, 2)
    told = {name: value for name, value in facts(built).items() if name != "folder"}
    ranges = {name: plan.profiles for name, plan in built.record.plans.items()}
    return {"seconds": seconds, **told, "engines": built.folder.name, "profiles": ranges}


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bundle", required=True, type=Path)
    p.add_argument("--output", required=True, type=Path)
    p.add_argument("--rounds", type=int, default=1, help="builds, one after another (default: 1)")
    add_all(p)
    args = p.parse_args()
    bundle, options = Bundle.open(args.bundle), all_options(args)
    spec = model_facts(bundle.manifest.language_model, bundle.manifest.precision)
    asked = {"opt_level": options.opt_level, "jobs": options.jobs, "plugins": options.plugins}
    report = Report(args.output, "build", {**spec, **asked})
    for number in range(1, args.rounds + 1):
        report.part(f"build_{number}", lambda: measure(bundle, options))
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
