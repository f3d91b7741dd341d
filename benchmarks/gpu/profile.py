"""Where the time goes inside TensorRT's engines: milliseconds of every layer, averaged over runs.

python -m benchmarks.gpu.profile --bundle BUNDLE --reference ref.npz --output profile.json

A profiled run waits after every layer, so its sum is larger than a run's time; shares are what counts. The last line
is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.gpu.case import Case, upload
from benchmarks.gpu.loaded import Loaded, Loading
from benchmarks.gpu.report import Facts, Report, model_facts
from benchmarks.gpu.speed import Speed
from runtime.engines import Tensor
from runtime.manifest import Manifest

GRAPHS = ("decode", "prefill", "encoder")
LISTED = 60  # layers by name; the others only count in the sums


def layer_times() -> Any:
    """A profiler that adds up milliseconds by layer. Made here, since its base comes from TensorRT."""
    import tensorrt as trt

    class LayerTimes(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.milliseconds: dict[str, float] = defaultdict(float)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.milliseconds[layer_name] += ms

    return LayerTimes()


def profile(engine: Any, feeds: Mapping[str, Tensor], synchronize: Any, runs: int) -> tuple[dict[str, float], float]:
    """Milliseconds of each layer per run, and of a whole run without a profiler. `engine` is of TensorRT."""
    outputs = engine.run(feeds)
    synchronize()
    began = time.perf_counter()
    for _ in range(runs):
        engine.run(feeds, outputs)
    synchronize()
    whole = (time.perf_counter() - began) * 1e3 / runs
    times = layer_times()
    for context in contexts(engine):
        context.profiler = times
        context.enqueue_emits_profile = False  # asked for below, when the run is over
    for _ in range(runs):
        engine.run(feeds, outputs)
        synchronize()
        for context in contexts(engine):
            context.report_to_profiler()
    return {name: milliseconds / runs for name, milliseconds in times.milliseconds.items()}, whole


def contexts(engine: Any) -> list[Any]:
    """Of the shapes just run: an engine that keeps a context for each set of shapes used the last one."""
    return [list(part._contexts.values())[-1].native for part in parts(engine)]


def parts(engine: Any) -> list[Any]:
    """The engines of single plans that an engine is made of."""
    return list(getattr(engine, "parts", [engine]))


def kind(name: str, types: Mapping[str, str]) -> str:
    """What sort of layer it is: the inspector's word, else what the name tells."""
    if "Reformatting CopyNode" in name or types.get(name) == "Reformat":
        return "reformat"
    if "ForeignNode" in name or "myl" in name.lower() or "myelin" in name.lower():
        return "compiled node"
    return types.get(name, "other")


def summary(times: Mapping[str, float], types: Mapping[str, str]) -> Facts:
    """Sums by kind, and the slowest layers."""
    kinds: dict[str, list[float]] = defaultdict(list)
    for name, milliseconds in times.items():
        kinds[kind(name, types)].append(milliseconds)
    slowest = sorted(times.items(), key=lambda item: -item[1])
    sums = {name: {"layers": len(found), "ms": round(sum(found), 4)} for name, found in kinds.items()}
    return {
        "layers": len(times),
        "sum_ms": round(sum(times.values()), 4),
        "kinds": dict(sorted(sums.items(), key=lambda item: -item[1]["ms"])),
        "slowest": [{"ms": round(ms, 4), "layer": name[:300]} for name, ms in slowest[:LISTED]],
    }


def layer_types(files: Iterable[Path]) -> dict[str, str]:
    """Layer name -> type, from inspectors' JSON; layers that are plain names have no type."""
    found: dict[str, str] = {}
    for path in files:
        layers = json.loads(path.read_text(encoding="utf-8")).get("Layers", [])
        found |= {layer["Name"]: layer.get("LayerType", "other") for layer in layers if isinstance(layer, dict)}
    return found


def measure(loaded: Loaded, graph: str, runs: int) -> Facts:
    """One engine, with the shapes of the case; decode over the prefix that follows the prompt."""
    engine, backend = getattr(loaded.engines, graph), loaded.backend
    if graph == "decode":
        speed = Speed(loaded, tokens=2, runs=runs)
        feeds = speed.decode_feeds(engine, speed.rows_used()[0])
    else:
        feeds = upload(backend, engine, loaded.case.inputs(graph))
    times, whole = profile(engine, feeds, backend.synchronize, runs)
    names = [f"engines/*/{part.view.plan}.inspector.json" for part in parts(engine)]
    types = layer_types(path for name in names for path in loaded.bundle.folder.glob(name))
    return {"run_ms": round(whole, 4), **summary(times, types)}


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bundle", required=True, type=Path)
    p.add_argument("--reference", required=True, type=Path)
    p.add_argument("--output", required=True, type=Path)
    p.add_argument("--graphs", nargs="+", choices=GRAPHS, default=list(GRAPHS))
    p.add_argument("--runs", type=int, default=20)
    args = p.parse_args()
    manifest = Manifest.read(args.bundle)
    report = Report(args.output, "profile", model_facts(manifest.language_model, manifest.precision))
    loading = Loading(args.bundle, "tensorrt", "cuda:0", Case.read(args.reference))
    report.part("load", loading.measure)
    if (loaded := loading.loaded) is not None:
        for graph in args.graphs:
            report.part(graph, lambda graph=graph: measure(loaded, graph, args.runs))
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
