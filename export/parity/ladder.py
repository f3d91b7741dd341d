"""Running the rungs of a ladder and putting their comparisons together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.checkpoint import Checkpoint
from export.parity import BACKENDS
from export.parity.bisect import bisect, bisection_to_json
from export.parity.checkpoints import Taps
from export.parity.geometry import LayoutReader
from export.parity.limits import limits_of
from export.parity.modules_rung import record_modules, torch_pipeline
from export.parity.reference_checkpoints import compare_with_reference
from export.parity.reference_rung import record_reference
from export.parity.results import checkpoints_to_json
from export.parity.rounding import DTYPES
from export.parity.tapping import with_taps
from export.reference import build_reference
from runtime.arrays import Array
from runtime.bundle import Bundle
from runtime.engines import open_backend
from runtime.errors import SceneError
from runtime.pipeline import Pipeline
from runtime.prompt import Tokenizer, batch_prompts
from runtime.run import Run
from runtime.rung import Plan, Recording, record_rung
from runtime.rung.taps import record_taps
from runtime.scene import Request

TAPPED = ("onnxruntime", "onnxruntime-cuda")  # plans of TensorRT are of graphs without taps
Note = Callable[[str], None]  # called with the name of each rung when it begins


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """What is run, and how."""

    bundle: Bundle
    checkpoint: Checkpoint | None  # for the torch rungs
    backends: Sequence[str]
    device: str = "cuda:0"  # of the rungs on a GPU
    request: Request
    plan: Plan

    def record(self, source: Path, note: Note) -> Iterator[Recording]:
        """The rungs of one scene, lowest first. Each is closed before the next begins. Raises SceneError."""
        for backend in (name for name in BACKENDS if name in self.backends):
            if backend == "torch":
                yield from self._torch(source, note)
            else:
                yield self._runtime(backend, source, note)

    def reader(self) -> LayoutReader:
        """Of the texts that rungs write."""
        manifest = self.bundle.manifest
        return LayoutReader(Tokenizer.load(self.bundle.folder, manifest.prompt), manifest)

    def checkpoints(
        self, source: Path, layers: Sequence[int], recorded: Iterable[Recording], note: Note
    ) -> list[dict[str, Any]]:
        """The nine checkpoints of each rung that shows them against the literal reference's. Raises SceneError.

        Those are ONNX Runtime's, on the CPU where no other is asked for, and recordings that were made with --taps.
        """
        assert self.checkpoint is not None, "the checkpoints are compared with the reference's"
        attention = self.bundle.manifest.position.prefill_attention
        reference, found = build_reference(self.checkpoint, prefill_attention=attention), []
        backends = [name for name in TAPPED if name in self.backends] or [TAPPED[0]]
        for backend in backends:
            device = self.device if backend.endswith("-cuda") else "cpu"
            rung = f"onnxruntime {device.split(':')[0]}"
            note(f"checkpoints of {rung}")
            with (
                with_taps(self.bundle, layers) as tapped,
                Pipeline(tapped, open_backend("onnxruntime", device)) as pipeline,
            ):
                scene = pipeline.prepare(source, self.request)
                taps = Taps(record_taps(pipeline, scene), self.bundle.manifest.position.vlm_pe is not None)
            limits = limits_of(_facts(self.bundle))
            found.append(checkpoints_to_json(rung, compare_with_reference(reference, scene, taps, limits), limits))
        for recording in recorded:
            if (given := Taps.of(recording)) is not None:
                limits = limits_of(recording.facts)
                differences = compare_with_reference(reference, scene, given, limits)
                found.append(checkpoints_to_json(recording.name, differences, limits))
        return found

    def check_bisection(self) -> None:
        """Raises SceneError for a bundle in float32."""
        if self.bundle.manifest.precision not in DTYPES:
            raise SceneError(
                f"--bisect asks what a bundle in half precision must keep in float32, but {self.bundle.folder} is in "
                f"{self.bundle.manifest.precision}. Leave --bisect out, or name a bundle of --precision fp16 or bf16."
            )

    def bisection(self, source: Path, note: Note) -> dict[str, Any]:
        """Which float32 islands the bundle's precision needs on a scene; `check_bisection` comes first."""
        assert self.checkpoint is not None, "islands are sought with the checkpoint's weights"
        manifest = self.bundle.manifest
        feeds, attention = self._prefill_feeds(source), manifest.position.prefill_attention
        return bisection_to_json(
            bisect(self.checkpoint, feeds, manifest.precision, attention, lambda trial: note(f"bisection, {trial}"))
        )

    def _prefill_feeds(self, source: Path) -> dict[str, Array]:
        """What enters prefill, with point tokens as the modules make them."""
        assert self.checkpoint is not None
        pipeline = torch_pipeline(self.bundle, self.checkpoint)
        scene = pipeline.prepare(source, self.request)
        prompt, run = batch_prompts([scene.prompt]), Run(pipeline.engines)
        embeds = pipeline.engines.backend.download(run.encode([scene], prompt))
        own = {"input_ids": prompt.input_ids, "point_mask": prompt.point_mask, "lengths": prompt.lengths}
        return {**own, "point_embeds": embeds, **run.tables([scene], prompt)}

    def _torch(self, source: Path, note: Note) -> Iterator[Recording]:
        assert self.checkpoint is not None, "the torch rungs need a checkpoint"
        pipeline = torch_pipeline(self.bundle, self.checkpoint)
        note("reference")
        yield record_reference(pipeline, self.checkpoint, source, self.request, self.plan)
        note("torch modules")
        yield record_modules(pipeline, source, self.request, self.plan)

    def _runtime(self, backend: str, source: Path, note: Note) -> Recording:
        name, _, place = backend.partition("-")
        device = self.device if place or name == "tensorrt" else "cpu"
        rung = f"{name} {device.split(':')[0]}"  # as `runtime.record` names it
        note(rung)
        with Pipeline.load(self.bundle.folder, backend=name, device=device) as pipeline:
            return record_rung(pipeline, source, self.request, self.plan, rung)


def _facts(bundle: Bundle) -> dict[str, object]:
    quantization = bundle.manifest.quantization
    return {"precision": bundle.manifest.precision, "quantization": quantization.bits if quantization else None}
