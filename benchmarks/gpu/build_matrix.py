"""Ways to build the language model's engines, all side by side, each with its seconds. Runs without torch.

python -m benchmarks.gpu.build_matrix --bundle BUNDLE [--scaled BUNDLE2] --folder WORK --output matrix.json

A way is LAYOUT:TYPES:LEVEL. TensorRT 8.6 compiles a graph on one core and hardly uses the GPU, so as many are built at
once as there are cores and memory for. The result is written as each ends; what --time_limit ends is named in it. As
soon as all plans of a way are there, with the encoder's, WORK/<way> is a bundle with these engines, and its path a line
of WORK/ready. BUNDLE2 is the same export with --tensorrt_norm scaled; without it those ways are left out. The last line
is JSON.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path

from benchmarks.gpu.matrix_build import Built, assemble, build
from benchmarks.gpu.matrix_ways import DEFAULT, Cell, Way
from benchmarks.gpu.report import Facts, Report, model_facts
from benchmarks.machine import describe
from export.engines.arguments import add_all, all_options
from export.engines.plans import Task, open_toolchain
from export.engines.profiles import plan_profiles
from export.engines.settle import host_memory
from runtime.bundle import Bundle
from runtime.engines.plans import count_segments
from runtime.engines.record import engine_folder, plan_names

PROCESS_BYTES = 9 << 30  # of host memory that one build takes: TensorRT's kernels and copies of the weights


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bundle", required=True, type=Path)
    p.add_argument("--scaled", type=Path)
    p.add_argument("--folder", required=True, type=Path)
    p.add_argument("--output", required=True, type=Path)
    p.add_argument("--ways", nargs="+", type=Way.parse, default=list(map(Way.parse, DEFAULT)))
    p.add_argument("--time_limit", type=float, default=3600, help="seconds of each build (default: 3600)")
    p.add_argument("--total_limit", type=float, default=1e9, help="seconds of all builds together (default: none)")
    p.add_argument("--at_once", type=int, help="builds at a time (default: by cores and memory)")
    add_all(p)
    args = p.parse_args()
    bundle = Bundle.open(args.bundle)
    facts = model_facts(bundle.manifest.language_model, bundle.manifest.precision)
    report = Report(
        args.output, "build_matrix", {**facts, "time_limit": args.time_limit, "total_limit": args.total_limit}
    )
    bundles = {False: bundle} | ({True: Bundle.open(args.scaled)} if args.scaled else {})
    matrix = Matrix(bundles, args, report)
    matrix.run()
    report.finish()
    return int(not matrix.ready)  # a build that takes too long is a result


class Matrix:
    """All cells, of which some serve several ways: the encoder serves each."""

    def __init__(self, bundles: dict[bool, Bundle], args: argparse.Namespace, report: Report) -> None:
        self._bundles, self._args, self._report = bundles, args, report
        self._ways = [way for way in args.ways if way.types.scaled in bundles]
        self._segments = count_segments(bundles[False].manifest)
        self._cells = list(dict.fromkeys(cell for way in self._ways for cell in way.cells(self._segments)))
        self._built: dict[Cell, Built] = {}
        self.ready: list[Path] = []
        self._end = time.monotonic() + args.total_limit
        self._options = all_options(args)
        self._tools = open_toolchain(self._options.device, bundles[False].manifest.precision)

    def run(self) -> None:
        """Build until all have ended. Ctrl-C ends the builds that run."""
        at_once = self._args.at_once or max(1, min(describe()["cores"] - 1, host_memory() // PROCESS_BYTES))
        self._report.facts["at_once"] = at_once
        self._args.folder.mkdir(parents=True, exist_ok=True)
        stop = threading.Event()
        with ThreadPoolExecutor(at_once) as pool:
            waiting: dict[Future[Built], Cell] = {pool.submit(self._action(cell, stop)): cell for cell in self._cells}
            try:
                for future in as_completed(waiting):
                    self._take(waiting[future], future)
            except KeyboardInterrupt:
                stop.set()
                raise

    def _take(self, cell: Cell, future: Future[Built]) -> None:
        def measured() -> Facts:
            self._built[cell] = future.result()
            return self._built[cell].facts

        if self._report.part(cell.name, measured) is None:
            return
        for way in self._ways:
            cells = way.cells(self._segments)
            if cell in cells and all(each in self._built for each in cells):
                found = {each.plan: self._built[each] for each in cells}
                records = {plan: found[plan] for plan in plan_names(way.layout, self._segments)}
                target = self._args.folder / way.name
                assemble(target, self._bundles[way.types.scaled], records, self._options, self._tools)
                self.ready.append(target)
                with (self._args.folder / "ready").open("a", encoding="utf-8") as ready:
                    ready.write(f"{target}\n")

    def _action(self, cell: Cell, stop: threading.Event) -> Callable[[], Built]:
        bundle, options = self._bundles[cell.types.scaled], cell.options(self._options)
        folder = self._args.folder / "cells" / cell.name
        key = engine_folder(bundle.folder, self._tools.gpu.name, self._tools.tensorrt, bundle.manifest.precision).name
        profiles = plan_profiles(bundle.manifest, options.limits)
        task = Task(bundle, folder, key, profiles, options, (folder / "timing.cache").absolute())
        return lambda: build(task, cell.plan, min(self._args.time_limit, self._end - time.monotonic()), stop)


if __name__ == "__main__":
    sys.exit(main())
