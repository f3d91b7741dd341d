"""Tiny bundles with engines, built once for each TensorRT version on a GPU that is none."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.graph.segments import SEGMENT_LAYERS
from runtime.engines.record import SEGMENTED, SHARED
from runtime.pipeline import Pipeline
from runtime.points import PointCloud
from runtime.scene import Request, Result
from tests.exported import Export
from tests.fake_gpu_fixture import FakeGpu
from tests.scenes import room

VERSIONS = ("8.6.0", "10.16.1", "11.4.0")
MAX_VOXELS, MAX_POINT_TOKENS, MAX_BATCH = 2000, 300, 3
CLOUDS = [room(1, 300), room(2, 700, (5.0, 4.0, 2.5)), room(3, 500)]


@dataclass(frozen=True)
class Place:
    """A GPU of a certain TensorRT, and a bundle with engines for it."""

    gpu: FakeGpu
    folder: Path

    @property
    def engines(self) -> Path:
        (folder,) = (path for path in (self.folder / "engines").iterdir())
        return folder

    def load(self, **options: Any) -> Pipeline:
        return Pipeline.load(self.folder, **{"backend": "tensorrt", **options})

    def copied(self, folder: Path) -> Place:
        """The same for a test that alters files."""
        return Place(self.gpu, Path(shutil.copytree(self.folder, folder)))

    def used(self) -> tuple[int, ...]:
        """Bytes of both GPUs and of pinned memory."""
        device = self.gpu.device
        return device.bytes_allocated(0), device.bytes_allocated(1), device.bytes_allocated(None)


MODEL = "language_model"  # the plan of prefill and decode where it is shared, as faults name it
MODES = ["3d", "3d separate", "3d segmented", "text", "text separate"]  # shared where nothing is said
Make = Callable[..., Place]
Built = dict[tuple[str, str], Path]
Start = Callable[..., FakeGpu]


def open_place(start: Start, built: Built, exported: Export, folder: Path, version: str, mode: str) -> Place:
    """Start the fake and build into `folder`, unless there are such engines already."""
    gpu = start(version, XDG_CACHE_HOME=str(folder / "cache"))
    if (version, mode) not in built:
        family = ("qwen", "3D_RoPE", "3D_only") if mode.startswith("3d") else ("llama",)
        layout = mode.split()[-1] if " " in mode else SHARED
        bundle = exported(*family, segment_layers=1 if layout == SEGMENTED else SEGMENT_LAYERS)
        target = shutil.copytree(bundle.bundle.folder, folder / "bundle")
        build(target, "--language_model", layout)
        built[version, mode] = target
    return Place(gpu, built[version, mode])


def build(folder: Path, *more: str) -> None:
    from export.build import main

    sizes = {"--max_voxels": MAX_VOXELS, "--max_point_tokens": MAX_POINT_TOKENS, "--max_batch": MAX_BATCH}
    options = [text for name, size in sizes.items() for text in (name, str(size))]
    assert main(["--bundle", str(folder), "--quiet", *options, *more]) == 0


def run(pipeline: Pipeline, clouds: list[PointCloud] | None = None, tokens: int = 65, **options: Any) -> list[Result]:
    """Scenes as one batch."""
    request = Request(clean_up=False, max_new_tokens=tokens)
    scenes = [pipeline.prepare(cloud, request) for cloud in clouds or CLOUDS[:1]]
    return pipeline.run(scenes, request, **options)


def tokens_of(results: list[Result]) -> list[tuple[int, ...]]:
    return [result.tokens for result in results]


def plain(place: Place) -> Pipeline:
    return Pipeline.load(place.folder, backend="onnxruntime", threads=1)


class Spent:
    """What was asked of the device since it was made."""

    def __init__(self, place: Place) -> None:
        self._counts = place.gpu.device.counts
        self._before = Counter(self._counts)

    def __getitem__(self, name: str) -> int:
        return int(self._counts[name] - self._before[name])

    def all(self) -> dict[str, int]:
        return {name: self[name] for name in self._counts if self[name]}
