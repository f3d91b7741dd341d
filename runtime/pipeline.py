"""The corridor: scene in, layout out. Each stage returns a value and calls no other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from runtime.arrays import Array
from runtime.bundle import Bundle
from runtime.decode import Decoder, KVCache, Sampling, TokenChooser
from runtime.decode.cache import DTYPES
from runtime.engines import Backend, Engine, Tensor, open_backend
from runtime.errors import CapacityError
from runtime.layout import Layout, parse_layout, translate, undiscretize
from runtime.points import EncoderInputs, PointCloud, VoxelGrid, clean_up, encoder_inputs, grid_sample, read_point_cloud
from runtime.prompt import PromptBatch, TextStream, Tokenizer, batch_prompts, merge_prompt, user_content
from runtime.recording import Recorder
from runtime.rope import normalize_coords, rope_table

MAX_NEW_TOKENS = 4096  # upstream's default


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked of a scene."""

    detect_type: str = "all"
    categories: tuple[str, ...] = ()
    clean_up: bool = True
    max_new_tokens: int = MAX_NEW_TOKENS
    sampling: Sampling = field(default_factory=Sampling)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A scene's layout in metres, and how it came about."""

    layout: Layout
    text: str  # as generated, in bins
    tokens: tuple[int, ...]  # generated ids, the stop token included
    stopped_by: str  # "stop token", "max_new_tokens" or "cache capacity"
    points: int  # read from the file
    voxels: int
    point_tokens: int
    prompt_tokens: int  # positions of the merged prompt
    milliseconds: dict[str, float]  # by stage
    patch_coords: Array  # float32 [P, 3], metres from the cloud's smallest corner
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        return str(self.layout)


@dataclass(frozen=True, slots=True)
class Scene:
    """A scene made ready for the engines."""

    points: int
    voxels: VoxelGrid
    inputs: EncoderInputs
    warnings: tuple[str, ...]

    @property
    def patch_coords(self) -> Array:
        """float32 [P, 3], metres from the cloud's smallest corner."""
        return self.inputs.patch_coords


class Pipeline:
    """A bundle, loaded. Call it with a scene as often as you like."""

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        self.bundle, self.manifest, self.backend = bundle, bundle.manifest, backend
        self.tokenizer = Tokenizer.load(bundle.folder, bundle.manifest.prompt)
        self.encoder, self.prefill, self.decode = (
            backend.load(bundle, graph) for graph in ("encoder", "prefill", "decode")
        )
        positions = np.arange(self.manifest.cache.capacity)
        self.text_table = rope_table(positions, None, self.manifest.position.text)  # cos and sin, [M, D]

    @classmethod
    def load(
        cls, bundle: str | Path, *, backend: str = "onnxruntime", threads: int | None = None, verify: bool = True
    ) -> Pipeline:
        """Open a bundle folder with a back end. Raises BundleError or EngineError."""
        opened = Bundle.open(bundle, verify=verify)
        return cls(opened, open_backend(backend, threads=threads))

    def __call__(
        self,
        scene: str | Path | PointCloud,
        request: Request | None = None,
        *,
        on_text: Callable[[str], None] | None = None,
        recorder: Recorder | None = None,
    ) -> Result:
        """Run one scene. `on_text` receives the text piece by piece as it is generated. Raises SceneError."""
        request = request or Request()
        run = Run(self, recorder)
        with run.timed("reading"):
            cloud = scene if isinstance(scene, PointCloud) else read_point_cloud(Path(scene))
        with run.timed("geometry"):
            ready = self.prepare(cloud, request.clean_up)
        with run.timed("prompt"):
            text_ids = self.tokenizer.encode_prompt(user_content(request.detect_type, request.categories))
            prompt = batch_prompts([merge_prompt(text_ids, len(ready.patch_coords), self.manifest.prompt)])
        self._check_room(prompt)
        with run.timed("encoder"):
            embeds = run.encode([ready], prompt)
        with run.timed("prefill"):
            logits, cache = run.start([ready], prompt, embeds)
        with run.timed("decode"):
            chooser = TokenChooser(request.sampling, [text_ids])
            tokens = run.generate(logits, cache, chooser, request.max_new_tokens, on_text)
        return self._result(ready, prompt, tokens, request, cache, run)

    def prepare(self, cloud: PointCloud, clean: bool = True) -> Scene:
        """All host work on the points: cleaning, voxels, and the geometry of every stage."""
        spec = self.manifest.encoder
        voxels = grid_sample(clean_up(cloud, spec.grid_size) if clean else cloud, spec.num_bins)
        warnings = []
        if cloud.dropped:
            warnings.append(f"{cloud.dropped} points have coordinates that are no finite numbers and were dropped.")
        if voxels.clamped:
            warnings.append(
                f"{voxels.clamped} points lie beyond 32 m and were moved to the border. Is the unit metres?"
            )
        return Scene(len(cloud), voxels, encoder_inputs(voxels, spec), tuple(warnings))

    def point_tables(self, scenes: Sequence[Scene], prompt: PromptBatch) -> dict[str, Array]:
        """cos and sin [B, S, D] by position, and those of the point tokens at their places.

        Without a 3D encoding the point tokens turn by their position like all others.
        """
        spec = self.manifest.position
        rows = prompt.input_ids.shape[1]
        cos_1d, sin_1d = (np.repeat(table[None, :rows], len(scenes), axis=0) for table in self.text_table)
        cos_3d, sin_3d = cos_1d.copy(), sin_1d.copy()
        if spec.points is not None:
            for sequence, scene in enumerate(scenes):
                places = np.flatnonzero(prompt.point_mask[sequence])
                coords = normalize_coords(scene.patch_coords).coords
                cos_3d[sequence, places], sin_3d[sequence, places] = rope_table(places, coords, spec.points)
        return {"cos_3d": cos_3d, "sin_3d": sin_3d, "cos_1d": cos_1d, "sin_1d": sin_1d}

    def _check_room(self, prompt: PromptBatch) -> None:
        """Before the encoder runs, not after."""
        capacity, longest = self.manifest.cache.capacity, int(prompt.lengths.max())
        if longest > capacity:
            raise CapacityError(
                f"the prompt has {longest} positions ({int(prompt.point_counts.max())} point tokens), but the bundle's "
                f"cache holds {capacity}. Crop the scene, or export again with --max_length {longest + 1024}."
            )

    def _result(
        self, scene: Scene, prompt: PromptBatch, tokens: list[int], request: Request, cache: KVCache, run: Run
    ) -> Result:
        with run.timed("layout"):
            text = self.tokenizer.decode(tokens)
            bins = parse_layout(text)
            layout = translate(undiscretize(bins, self.manifest.encoder.num_bins), scene.voxels.min_extent)
        if run.recorder is not None:
            run.recorder.add("patch_coords", scene.patch_coords)
            run.recorder.add("tokens", np.asarray(tokens, np.int32))
        return Result(
            layout=layout,
            text=text,
            tokens=tuple(tokens),
            stopped_by=self._stopped_by(tokens, request),
            points=scene.points,
            voxels=len(scene.voxels),
            point_tokens=len(scene.patch_coords),
            prompt_tokens=int(prompt.lengths[0]),
            milliseconds=run.milliseconds,
            patch_coords=scene.patch_coords,
            warnings=scene.warnings,
        )

    def _stopped_by(self, tokens: list[int], request: Request) -> str:
        if tokens and tokens[-1] in self.manifest.generation.stop_token_ids:
            return "stop token"
        return "max_new_tokens" if len(tokens) == request.max_new_tokens else "cache capacity"


class Run:
    """One pass through the engines: their recording and the clock."""

    def __init__(self, pipeline: Pipeline, recorder: Recorder | None) -> None:
        self.pipeline, self.recorder = pipeline, recorder
        self.milliseconds: dict[str, float] = {}
        self._encoder = self._recorded(pipeline.encoder)
        self.decoder = Decoder(
            pipeline.backend,
            self._recorded(pipeline.prefill),
            self._recorded(pipeline.decode, by_step=True),
            pipeline.manifest,
            pipeline.text_table,
        )

    def encode(self, scenes: Sequence[Scene], prompt: PromptBatch) -> Tensor:
        """Point tokens of each scene, written by the encoder right at their places of `point_embeds` [B, S, C]."""
        backend, manifest = self.pipeline.backend, self.pipeline.manifest
        shape = (*prompt.input_ids.shape, manifest.language_model.hidden_size)
        embeds = backend.zeros(shape, DTYPES[manifest.precision])
        for sequence, scene in enumerate(scenes):
            start, count = int(prompt.point_starts[sequence]), int(prompt.point_counts[sequence])
            feeds = {name: backend.upload(array) for name, array in scene.inputs.feeds.items()}
            self._encoder.run(feeds, {"point_tokens": embeds[sequence][start : start + count]})
        return embeds

    def start(self, scenes: Sequence[Scene], prompt: PromptBatch, embeds: Tensor) -> tuple[Array, KVCache]:
        """Prefill: logits [B, V] after each prompt, and the cache that now holds it."""
        arrays = {
            "input_ids": prompt.input_ids,
            "point_mask": prompt.point_mask,
            "lengths": prompt.lengths,
            **self.pipeline.point_tables(scenes, prompt),
        }
        feeds = {name: self.pipeline.backend.upload(array) for name, array in arrays.items()} | {"point_embeds": embeds}
        return self.decoder.start(feeds, [int(length) for length in prompt.lengths], prompt.input_ids.shape[1])

    def generate(
        self,
        logits: Array,
        cache: KVCache,
        chooser: TokenChooser,
        max_new_tokens: int,
        on_text: Callable[[str], None] | None,
    ) -> list[int]:
        """Tokens of the one sequence, their text handed on as they come."""
        stop_ids = self.pipeline.manifest.generation.stop_token_ids
        stream = TextStream(self.pipeline.tokenizer)
        tokens: list[int] = []
        for (token,) in self.decoder.generate(logits, cache, chooser, stop_ids, max_new_tokens):
            assert token is not None  # one sequence: the loop ends with it
            tokens.append(token)
            if on_text is not None and (piece := stream.push(token)):
                on_text(piece)
        if on_text is not None and (rest := stream.finish()):
            on_text(rest)
        return tokens

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Wall clock of a stage, in milliseconds."""
        started = time.perf_counter()
        yield
        self.milliseconds[stage] = (time.perf_counter() - started) * 1e3

    def _recorded(self, engine: Engine, *, by_step: bool = False) -> Engine:
        return engine if self.recorder is None else self.recorder.wrap(engine, by_step=by_step)
