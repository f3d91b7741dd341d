"""Scene to layout, stage by stage, each waited for: our engines, or the PyTorch reference.

python -m benchmarks.gpu.scene --bundle BUNDLE --output scene.json                                       TensorRT
python -m benchmarks.gpu.scene --bundle BUNDLE --output scene-torch.json --backend torch --model CHECKPOINT

Both start from the same file and share the stages on the host. No token ends the text, as random weights would end it
anywhere. Medians over the repeats, after a run that is not counted. The last line is JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Protocol

from benchmarks.gpu.loaded import plugins
from benchmarks.gpu.report import Facts, Report, model_facts
from runtime.bundle import Bundle
from runtime.clock import Clock
from runtime.decode import Sampling, TokenChooser
from runtime.engines import open_backend
from runtime.pipeline import Pipeline
from runtime.points import clean_up, encoder_inputs, grid_sample, inspect_cloud, read_point_cloud
from runtime.prompt import Tokenizer, batch_prompts, merge_prompt, user_content
from runtime.report import scene_report
from runtime.run import Run
from runtime.scene import Request, Scene


class Contender(Protocol):
    """The stages on the device, each called once for a scene, in this order."""

    def encode(self, scene: Scene) -> None: ...

    def prefill(self) -> None: ...

    def decode(self, count: int) -> list[int]: ...

    def synchronize(self) -> None: ...


class Ours:
    """A bundle's engines, as the pipeline calls them."""

    def __init__(self, bundle: Bundle, backend: str, device: str) -> None:
        self._backend = open_backend(backend, device)
        self.pipeline = Pipeline(bundle, self._backend)

    def synchronize(self) -> None:
        self._backend.synchronize()

    def encode(self, scene: Scene) -> None:
        self._scene, self._prompt = scene, batch_prompts([scene.prompt])
        self._run = Run(self.pipeline.engines)
        self._embeds = self._run.encode([scene], self._prompt)

    def prefill(self) -> None:
        self._started = self._run.start([self._scene], self._prompt, self._embeds)

    def decode(self, count: int) -> list[int]:
        choose = TokenChooser(Sampling(), [self._scene.text_ids])
        steps = self._run.decoder.generate(*self._started, choose, (), count)
        return [int(step[0]) for step in steps if step[0] is not None]

    def whole(self, path: Path, tokens: int) -> float:
        """Milliseconds of one call of the pipeline, from file to layout."""
        began = time.perf_counter()
        self.pipeline(path, Request(max_new_tokens=tokens))
        return (time.perf_counter() - began) * 1e3


class Torch:
    """The PyTorch reference: encoder in float32, transformers' eager language model in the bundle's precision."""

    def __init__(self, model: str, precision: str, device: str) -> None:
        import torch

        from benchmarks.gpu.eager import Eager, EagerEncoder, synchronizer
        from export.checkpoint import open_checkpoint

        checkpoint, place = open_checkpoint(model, vlm_pe=None), torch.device(device)
        torch.set_float32_matmul_precision("highest")
        self._no_grad = torch.no_grad  # around each step: a switch for the whole process would outlive this object
        self._model, self._encoder = Eager(checkpoint, precision, place), EagerEncoder(checkpoint, place)
        self.synchronize = synchronizer(place)

    def encode(self, scene: Scene) -> None:
        with self._no_grad():
            points = self._encoder(self._encoder.place(scene.inputs.feeds))
            self._embeds = self._model.embed(scene.prompt.input_ids, scene.prompt.point_mask, points)

    def prefill(self) -> None:
        with self._no_grad():
            self._logits = self._model.start(self._embeds)

    def decode(self, count: int) -> list[int]:
        with self._no_grad():
            return self._model.text(self._logits, count)


class Host:
    """The stages before the device, as `Pipeline.prepare` takes them, with cleaning apart."""

    def __init__(self, bundle: Bundle, tokens: int) -> None:
        self._manifest, self._tokens = bundle.manifest, tokens
        self._tokenizer = Tokenizer.load(bundle.folder, bundle.manifest.prompt)

    def prepare(self, path: Path, clock: Clock) -> Scene:
        spec = self._manifest.encoder
        with clock.stage("reading"):
            cloud = read_point_cloud(path)
        with clock.stage("cleaning"):
            cleaned = clean_up(cloud, spec.grid_size)
        with clock.stage("geometry"):
            voxels = grid_sample(cleaned, spec.num_bins)
            inputs = encoder_inputs(voxels, spec)
        with clock.stage("prompt"):
            text_ids = self._tokenizer.encode_prompt(user_content("all", ()))
            prompt = merge_prompt(text_ids, len(inputs.patch_coords), self._manifest.prompt)
        found = inspect_cloud(cloud, voxels, inputs)
        report = scene_report(found, inputs.voxel_counts, prompt.length, self._tokens, self._manifest)
        return Scene(
            voxels=voxels, inputs=inputs, text_ids=text_ids, prompt=prompt, report=report, milliseconds={}
        )  # fmt: skip


def run_once(path: Path, host: Host, contender: Contender, tokens: int) -> tuple[dict[str, float], Scene, list[int]]:
    """Milliseconds of each stage, the scene, and the tokens."""
    clock = Clock()
    scene = host.prepare(path, clock)
    for stage, action in (("encoder", lambda: contender.encode(scene)), ("prefill", contender.prefill)):
        with clock.stage(stage):
            action()
            contender.synchronize()
    with clock.stage("decode"):
        text = contender.decode(tokens)
        contender.synchronize()
    return clock.milliseconds, scene, text


def measure(path: Path, host: Host, contender: Contender, tokens: int, repeats: int) -> Facts:
    """Medians by stage; the first run, which warms up, apart."""
    first, scene, _ = run_once(path, host, contender, tokens)
    runs = [run_once(path, host, contender, tokens) for _ in range(repeats)]
    stages = {name: statistics.median(times[name] for times, _, _ in runs) for name in first}
    report = scene.report
    return {
        **{name: getattr(report, name) for name in ("voxels", "point_tokens", "prompt_tokens")},
        "generated_tokens": len(runs[0][2]),
        "repeats": repeats,
        "milliseconds": {name: round(value, 2) for name, value in stages.items()},
        "total_ms": round(statistics.median(sum(times.values()) for times, _, _ in runs), 2),
        "first_run_ms": {name: round(value, 2) for name, value in first.items()},
        "decode_ms_per_token": round(stages["decode"] / max(1, len(runs[0][2]) - 1), 4),
        "same_tokens_each_time": all(text == runs[0][2] for _, _, text in runs),
        "different_tokens": len(set(runs[0][2])),
    }


def whole(ours: Ours, path: Path, tokens: int, repeats: int) -> Facts:
    """The pipeline's own call, nothing waited for in between."""
    times = [ours.whole(path, tokens) for _ in range(repeats)]
    return {"total_ms": round(statistics.median(times), 2), "repeats": repeats}


def endless(bundle: Bundle) -> Bundle:
    """The same bundle without stop tokens."""
    generation = dataclasses.replace(bundle.manifest.generation, stop_token_ids=())
    return dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, generation=generation))


def contender(args: argparse.Namespace, bundle: Bundle) -> Any:
    """Ours, or PyTorch."""
    device = args.device or ("cpu" if args.backend == "onnxruntime" else "cuda:0")
    if args.backend == "torch":
        return Torch(args.model, bundle.manifest.precision, device)
    return Ours(bundle, args.backend, device)


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bundle", required=True, type=Path)
    p.add_argument("--output", required=True, type=Path)
    p.add_argument("--backend", default="tensorrt", help="of the runtime, or torch (default: tensorrt)")
    p.add_argument("--model", help="checkpoint; for torch")
    p.add_argument("--point_cloud", type=Path, default=Path("demo/room.ply"))
    p.add_argument("--new_tokens", type=int, default=400)
    p.add_argument("--repeats", type=int, help="(default: 5, for torch 2)")
    p.add_argument("--device", help="(default: cuda:0, for onnxruntime cpu)")
    args = p.parse_args()
    if args.backend == "torch" and not args.model:
        p.error("--backend torch needs --model")
    bundle = endless(Bundle.open(args.bundle, verify=False))
    facts = model_facts(bundle.manifest.language_model, bundle.manifest.precision)
    version = plugins(args.bundle) if args.backend == "tensorrt" else 0
    ran = {"backend": args.backend, "plugins": version, "point_cloud": args.point_cloud.name}
    report = Report(args.output, "scene", {**facts, **ran})
    state: dict[str, Any] = {}
    repeats = args.repeats or (2 if args.backend == "torch" else 5)
    report.part("load", lambda: state.update(contender=contender(args, bundle)) or {})
    if "contender" in state:
        host = Host(bundle, args.new_tokens)
        report.part("stages", lambda: measure(args.point_cloud, host, state["contender"], args.new_tokens, repeats))
        if isinstance(ours := state["contender"], Ours):
            report.part("pipeline", lambda: whole(ours, args.point_cloud, args.new_tokens, repeats))
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
