"""Engines whose plans are arbitrary bytes, with records of all kinds, in a bundle that nobody else uses."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path

import pytest

from runtime.bundle import Bundle
from runtime.engines.cuda.gpu import Gpu
from runtime.engines.plans import SOURCES, find_plans
from runtime.engines.record import SHARED, EngineRecord, PlanRecord, engine_folder, plan_names
from runtime.errors import EngineError

HERE = Gpu(
    index=0, name="NVIDIA H200", compute_capability="9.0", memory=1 << 37, cuda="12.9", driver="580.65.06",
)  # fmt: skip
TENSORRT = "10.16.1"


@dataclass(frozen=True)
class Shop:
    """A bundle in a folder of its own, and engines beside it whose plans are arbitrary bytes."""

    bundle: Bundle
    language_model: str = SHARED

    def build(self, name: str | None = None, gpu: Gpu = HERE, **changes: object) -> Path:
        """Engines under the folder's usual name, or another."""
        record = dataclasses.replace(self.record(gpu), **changes)  # type: ignore[arg-type]
        usual = engine_folder(self.bundle.folder, record.gpu, record.tensorrt, record.precision)
        folder = usual if name is None else usual.with_name(name)
        folder.mkdir(parents=True)
        for graph in plan_names(self.language_model):
            (folder / f"{graph}.plan").write_bytes(content(graph))
        record.write(folder)
        return folder

    def record(self, gpu: Gpu) -> EngineRecord:
        return EngineRecord(
            schema=1, created_by="tests", tensorrt=TENSORRT, cuda=gpu.cuda, driver=gpu.driver, gpu=gpu.name,
            compute_capability=gpu.compute_capability, precision="fp32", strongly_typed=True, opt_level=3,
            version_compatible=False, hardware_compatible=False,
            plans={name: self.plan(name) for name in plan_names(self.language_model)},
        )  # fmt: skip

    def plan(self, graph: str) -> PlanRecord:
        manifest = self.bundle.manifest
        source, weights = manifest.graphs[SOURCES[graph]], manifest.weights[SOURCES[graph]]
        return PlanRecord(
            source=source, source_sha256=manifest.files[source].sha256,
            weights_sha256=manifest.files[weights].sha256, plan=f"{graph}.plan", bytes=len(content(graph)),
            sha256=hashlib.sha256(content(graph)).hexdigest(), inputs={"input_ids": ("B", "T")},
            profiles={graph: {"B": (1, 1, 1)}}, seconds=1.5, warm=False, layers=3, reformats=0, warnings=(),
        )  # fmt: skip

    def refusal(self, gpu: Gpu = HERE, tensorrt: str = TENSORRT) -> str:
        with pytest.raises(EngineError) as caught:
            find_plans(self.bundle, gpu, tensorrt)
        return str(caught.value)


def content(graph: str) -> bytes:
    return f"the plan of {graph}".encode()


def rebuild(bundle: Bundle) -> str:
    return f"Build them: python -m export.build --bundle {bundle.folder}"
