"""Time from raw points to encoder inputs, on the host: python -m benchmarks.geometry

A seeded room is made in memory, or read where --point_cloud names one. Medians after a warm-up; the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from itertools import pairwise
from pathlib import Path

import numpy as np

from benchmarks.machine import cpu_name
from demo.make_room import make_room
from runtime.manifest import EncoderSpec
from runtime.points import PointCloud, clean_up, encoder_inputs, grid_sample, read_point_cloud

STEPS = ("clean_up", "grid_sample", "encoder_inputs")
SPEC = EncoderSpec(  # sizes of the published SpatialLM 1.1 encoder
    in_channels=6,
    num_bins=1280,
    order=("z", "z-trans", "hilbert", "hilbert-trans"),
    stride=(2, 2, 2, 2),
    depths=(3, 3, 3, 12, 3),
    channels=(48, 96, 192, 384, 512),
    heads=(3, 6, 12, 24, 32),
    patch_sizes=(1024, 1024, 1024, 1024, 1024),
    mlp_ratio=4,
)


def seeded_room(seed: int, count: int) -> PointCloud:
    points, colors = make_room(seed, count)
    return PointCloud(points.astype(np.float64), colors / 255.0)


def run_once(cloud: PointCloud) -> tuple[list[float], tuple[int, ...]]:
    """Seconds of each step, and voxels of each stage."""
    marks = [time.perf_counter()]
    cleaned = clean_up(cloud, SPEC.grid_size)
    marks.append(time.perf_counter())
    voxels = grid_sample(cleaned, SPEC.num_bins)
    marks.append(time.perf_counter())
    inputs = encoder_inputs(voxels, SPEC)
    marks.append(time.perf_counter())
    return [after - before for before, after in pairwise(marks)], inputs.voxel_counts


def measure(cloud: PointCloud, warm_up: int, runs: int) -> dict[str, object]:
    """Median milliseconds of each step and of the whole."""
    for _ in range(warm_up):
        run_once(cloud)
    results = [run_once(cloud) for _ in range(runs)]
    totals = [sum(seconds) for seconds, _ in results]
    steps = zip(STEPS, zip(*(seconds for seconds, _ in results), strict=True), strict=True)
    return {
        "benchmark": "geometry",
        "device": cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "points": len(cloud),
        "voxels": results[0][1],
        "runs": runs,
        **{f"{name}_ms": round(1e3 * statistics.median(seconds), 1) for name, seconds in steps},
        "total_ms": round(1e3 * statistics.median(totals), 1),
        "total_ms_range": [round(1e3 * min(totals), 1), round(1e3 * max(totals), 1)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Time from raw points to encoder inputs.")
    parser.add_argument("--point_cloud", type=Path, help="a PLY file instead of the seeded room")
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--warm_up", type=int, default=2)
    parser.add_argument("--runs", type=int, default=11)
    args = parser.parse_args()
    cloud = read_point_cloud(args.point_cloud) if args.point_cloud else seeded_room(args.seed, args.points)
    result = measure(cloud, args.warm_up, args.runs)
    for name in (*STEPS, "total"):
        print(f"{name:16s}{result[name + '_ms']:>10} ms")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
