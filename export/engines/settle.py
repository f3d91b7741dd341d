"""What a build does where the user left it open, once the bundle and TensorRT are known."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from export.engines.options import MAX_JOBS, BuildOptions
from runtime.engines.plans import count_segments
from runtime.engines.record import SEGMENTED, SEPARATE, SHARED, plan_names
from runtime.errors import BundleError, SceneError
from runtime.manifest import Manifest

JOB_BYTES = 6 << 30  # of host memory that building a segment takes, weights and kernels


def settle(
    options: BuildOptions, manifest: Manifest, present: str | None = None, *, strongly_typed: bool
) -> BuildOptions:
    """The options with a layout and a number of jobs. Raises SceneError for what does not go together.

    `present` is the layout of engines of which some stay.
    """
    layout = _layout(options, manifest, present, strongly_typed=strongly_typed)
    settled = replace(options, language_model=layout)
    if layout == SEGMENTED and not count_segments(manifest):
        raise BundleError(
            f"--language_model {SEGMENTED} needs graphs that this bundle has not: {_why_none(manifest)}. "
            f"Choose {SEPARATE} or {SHARED}."
        )
    if unknown := sorted(set(options.graphs or ()) - set(plans := settled_plans(settled, manifest))):
        raise SceneError(
            f"--graphs names {unknown[0]!r}, but with --language_model {layout} there are {', '.join(plans)}."
        )
    jobs = options.jobs or (default_jobs(len(plans)) if layout == SEGMENTED else 1)
    return replace(settled, jobs=jobs)


def settled_plans(options: BuildOptions, manifest: Manifest) -> tuple[str, ...]:
    """All plans of the engines."""
    return plan_names(options.language_model or SEPARATE, count_segments(manifest))


def _layout(options: BuildOptions, manifest: Manifest, present: str | None, *, strongly_typed: bool) -> str:
    if options.plugins:  # a node each for prefill and decode
        return SEPARATE
    return options.language_model or present or default_layout(manifest, strongly_typed=strongly_typed)


def default_layout(manifest: Manifest, *, strongly_typed: bool) -> str:
    """TensorRT 8.6 takes far longer for the whole than for its segments together (docs/LOG.md)."""
    return SEPARATE if strongly_typed or not count_segments(manifest) else SEGMENTED


def default_jobs(plans: int) -> int:
    """Builds at one time: TensorRT compiles on one core and hardly uses the GPU meanwhile."""
    return max(1, min(plans, MAX_JOBS, (os.cpu_count() or 1) - 1, host_memory() // JOB_BYTES))


def host_memory() -> int:
    """Bytes of memory that this process may have, all told."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            total = min(total, int(Path(path).read_text()))
    return total


def _why_none(manifest: Manifest) -> str:
    layers = manifest.language_model.layers
    return f"its language model has {layers} layers, or it was exported by an older version"
