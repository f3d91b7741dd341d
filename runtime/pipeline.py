"""The corridor: scene in, layout out. Each stage returns a value and calls no other."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from runtime.arrays import Array
from runtime.bundle import Bundle
from runtime.clock import Clock
from runtime.decode import TokenChooser
from runtime.engines import Backend, choose, open_backend
from runtime.errors import CapacityError, EngineError, PlyError
from runtime.layout import parse_layout, translate, undiscretize
from runtime.points import PointCloud, clean_up, encoder_inputs, grid_sample, inspect_cloud, read_point_cloud
from runtime.prompt import TextStream, Tokenizer, batch_prompts, merge_prompt, user_content
from runtime.recording import Recorder
from runtime.report import scene_report
from runtime.run import Engines, Run
from runtime.scene import Request, Result, Scene

SceneSource = str | Path | PointCloud | Array  # a file, a cloud, or points [N, 3] or [N, 6] with colours


class Pipeline:
    """A bundle, loaded. Call it with a scene as often as you like."""

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        self.bundle = bundle
        self.tokenizer = Tokenizer.load(bundle.folder, bundle.manifest.prompt)
        self.engines = Engines.load(bundle, backend)
        self.manifest = self.engines.manifest  # the bundle's, within what compiled engines take
        self.note: str | None = None  # what the user should know about the choice of the back end

    @classmethod
    def load(
        cls,
        bundle: str | Path,
        *,
        backend: str = "auto",
        device: str | None = None,
        threads: int | None = None,
        cuda_graphs: bool = True,
        verify: bool = True,
    ) -> Pipeline:
        """Open a bundle folder; "auto" takes TensorRT where the bundle has engines for this GPU, else ONNX Runtime.

        `device` is "cpu" or "cuda:N". Raises BundleError or EngineError.
        """
        opened = Bundle.open(bundle, verify=False)
        choice = choose(opened, backend, device)
        if verify:
            opened.verify(graphs=choice.reads_graphs)
        with _noting(choice.note):
            opened_backend = open_backend(
                choice.backend, choice.device, threads=threads, cuda_graphs=cuda_graphs, verify=verify
            )
            try:
                pipeline = cls(opened, opened_backend)
            except BaseException:  # give back what is loaded already: the process may go on with another bundle
                opened_backend.close()
                raise
        pipeline.note = choice.note
        return pipeline

    def close(self) -> None:
        """Give engines and memory back; the pipeline cannot be used afterwards."""
        self.engines = dataclasses.replace(self.engines, device_table=None)
        self.engines.backend.close()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __call__(
        self,
        scene: SceneSource,
        request: Request | None = None,
        *,
        on_text: Callable[[str], None] | None = None,
        recorder: Recorder | None = None,
    ) -> Result:
        """Run one scene. `on_text` receives the text piece by piece as it is generated. Raises SceneError."""
        request = request or Request()
        return self.run([self.prepare(scene, request)], request, on_text=on_text, recorder=recorder)[0]

    def prepare(self, scene: SceneSource, request: Request) -> Scene:
        """All work on the host before the engines: points, geometry of every stage, prompt. Raises SceneError."""
        with _naming(scene):
            return self._prepare(scene, request)

    def _prepare(self, scene: SceneSource, request: Request) -> Scene:
        clock, spec = Clock(), self.manifest.encoder
        with clock.stage("reading"):
            cloud = _read(scene, request.scale)
        with clock.stage("geometry"):
            voxels = grid_sample(clean_up(cloud, spec.grid_size) if request.clean_up else cloud, spec.num_bins)
            inputs = encoder_inputs(voxels, spec)
        with clock.stage("prompt"):
            text_ids = self.tokenizer.encode_prompt(user_content(request.detect_type, request.categories))
            prompt = merge_prompt(text_ids, len(inputs.patch_coords), self.manifest.prompt)
        with clock.stage("geometry"):
            found = inspect_cloud(cloud, voxels, inputs)
            report = scene_report(found, inputs.voxel_counts, prompt.length, request.max_new_tokens, self.manifest)
        self._check_room(prompt.length, prompt.num_points)
        return Scene(
            voxels=voxels,
            inputs=inputs,
            text_ids=text_ids,
            prompt=prompt,
            report=report,
            milliseconds=clock.milliseconds,
        )

    def run(
        self,
        scenes: Sequence[Scene],
        request: Request,
        *,
        on_text: Callable[[str], None] | None = None,
        recorder: Recorder | None = None,
    ) -> list[Result]:
        """Take scenes that `prepare` made through the engines, as one batch. Raises EngineError.

        `on_text` receives the first scene's text; a batch of several has no one text to show.
        """
        with self.engines.backend.exclusive():
            return self._run(scenes, request, on_text, recorder)

    def _run(
        self,
        scenes: Sequence[Scene],
        request: Request,
        on_text: Callable[[str], None] | None,
        recorder: Recorder | None,
    ) -> list[Result]:
        clock, run = Clock(), Run(self.engines, recorder)
        prompt = batch_prompts([scene.prompt for scene in scenes])
        with clock.stage("encoder"):
            embeds = run.encode(scenes, prompt)
            self.engines.backend.synchronize()
        with clock.stage("prefill"):
            logits, cache = run.start(scenes, prompt, embeds)
        with clock.stage("decode"):
            chooser = TokenChooser(request.sampling, [scene.text_ids for scene in scenes])
            stop_ids = self.manifest.generation.stop_token_ids
            steps = run.decoder.generate(logits, cache, chooser, stop_ids, request.max_new_tokens)
            tokens = _collect(steps, len(scenes), self._printer(on_text))
        if recorder is not None:
            recorder.add("patch_coords", scenes[0].patch_coords)
            recorder.add("tokens", np.asarray(tokens[0], np.int32))
        return [self._result(scene, kept, request, clock) for scene, kept in zip(scenes, tokens, strict=True)]

    def _printer(self, on_text: Callable[[str], None] | None) -> Callable[[int | None], None]:
        """Turns tokens into text as they come; None says that there are no more."""
        if on_text is None:
            return lambda _: None
        stream = TextStream(self.tokenizer)
        return lambda token: on_text(stream.finish() if token is None else stream.push(token))

    def _check_room(self, length: int, num_points: int) -> None:
        """Before the encoder runs, not after."""
        capacity, limit = self.bundle.manifest.cache.capacity, self.engines.prompt_limit
        if limit < length <= capacity:
            raise CapacityError(
                f"the prompt has {length} positions ({num_points} point tokens), but the engines were built for "
                f"{limit}. Crop the scene, or build them again with larger --max_point_tokens and --max_length."
            )
        if length > capacity:
            raise CapacityError(
                f"the prompt has {length} positions ({num_points} point tokens), but the bundle's cache holds "
                f"{capacity}. Crop the scene, or export again with --max_length {length + 1024}."
            )

    def _result(self, scene: Scene, tokens: list[int], request: Request, clock: Clock) -> Result:
        with (own := Clock()).stage("layout"):
            text = self.tokenizer.decode(tokens)
            bins = undiscretize(parse_layout(text), self.manifest.encoder.num_bins)
            layout = translate(bins, scene.voxels.min_extent)
        return Result(
            layout=layout,
            text=text,
            tokens=tuple(tokens),
            stopped_by=self._stopped_by(tokens, request),
            milliseconds=scene.milliseconds | clock.milliseconds | own.milliseconds,
            report=scene.report,
        )

    def _stopped_by(self, tokens: list[int], request: Request) -> str:
        if tokens and tokens[-1] in self.manifest.generation.stop_token_ids:
            return "stop token"
        return "max_new_tokens" if len(tokens) == request.max_new_tokens else "cache capacity"


def _read(scene: SceneSource, scale: float | None) -> PointCloud:
    if isinstance(scene, PointCloud):
        return scene
    if isinstance(scene, np.ndarray):
        return PointCloud.from_array(scene, scale=scale)
    return read_point_cloud(scene, scale=scale)


@contextmanager
def _naming(scene: SceneSource) -> Iterator[None]:
    """Put the file's name before a sentence that lacks it: in a folder one could not tell which scene it was."""
    try:
        yield
    except (PlyError, CapacityError) as error:
        if not isinstance(scene, str | Path) or str(scene) in str(error):
            raise
        raise type(error)(f"{scene}: {error}") from error


@contextmanager
def _noting(note: str | None) -> Iterator[None]:
    """Say why a back end was chosen that then cannot be used."""
    try:
        yield
    except EngineError as error:
        if note is None:
            raise
        raise EngineError(f"{error} ({note})") from error


def _collect(steps: Iterable[list[int | None]], batch: int, show: Callable[[int | None], None]) -> list[list[int]]:
    """The tokens of each sequence; those of the first are shown on the way."""
    tokens: list[list[int]] = [[] for _ in range(batch)]
    for step in steps:
        for kept, token in zip(tokens, step, strict=True):
            if token is not None:
                kept.append(token)
        if step[0] is not None:
            show(step[0])
    show(None)
    return tokens
