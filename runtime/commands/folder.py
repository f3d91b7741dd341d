"""A folder of scenes: one bad scene does not stop the others, and a restart skips what is done."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from runtime.commands import options
from runtime.commands.journal import Journal
from runtime.errors import SceneError
from runtime.layout import write_layout
from runtime.pipeline import Pipeline
from runtime.points import POINT_CLOUD_ENDINGS
from runtime.scene import Request, Result, Scene

ENDINGS = tuple(ending for ending in POINT_CLOUD_ENDINGS if ending != ".txt")  # a .txt may as well be a layout


@dataclass(slots=True)
class Tally:
    """How the scenes of a folder ended, by file name."""

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)  # and why

    def line(self) -> str:
        """One line for the end."""
        return f"{len(self.done)} scenes done, {len(self.skipped)} skipped, {len(self.failed)} failed."


@dataclass(frozen=True, slots=True)
class Job:
    """A scene file and where its layout goes."""

    scene: Path
    output: Path


def run_folder(args: argparse.Namespace) -> int:
    """Run all scenes of `--point_cloud` into the folder `--output`. Returns 1 if any failed. Raises SceneError."""
    jobs = _jobs(args.point_cloud, args.output, args.output_format)
    options.make_folder(args.output)
    pipeline = Pipeline.load(args.bundle, backend=args.backend, threads=args.threads, verify=not args.no_verify)
    request = options.request(args, pipeline.manifest)
    journal = Journal.open(args.output, pipeline.bundle, request)
    tally = Tally()
    with tqdm(total=len(jobs), unit="scene", desc="Scenes", disable=args.quiet or args.json) as bar:
        waiting = []
        for job in jobs:
            if not args.overwrite and journal.has(job.scene, job.output):
                tally.skipped.append(job.scene.name)
                bar.update()
            else:
                waiting.append(job)
        for batch in _batches(waiting, args.batch_size):
            _run_batch(pipeline, request, journal, batch, tally)
            bar.update(len(batch))
    _report(args, tally)
    return 1 if tally.failed else 0


def _jobs(folder: Path, output: Path, ending: str) -> list[Job]:
    """The scenes of a folder in the order of their names. Raises SceneError for none, and for two of one name."""
    try:
        scenes = sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS and path.is_file())
    except OSError as error:
        raise SceneError(f"{folder}: cannot be listed ({error.strerror}). Name a folder that can be read.") from error
    if not scenes:
        raise SceneError(f"{folder}: holds no scene ({', '.join(ENDINGS)}). Name a folder of point clouds.")
    by_output: dict[Path, Path] = {}
    for scene in scenes:
        target = output / f"{scene.stem}.{ending}"
        if (other := by_output.setdefault(target, scene)) != scene:
            raise SceneError(f"{folder}: {other.name} and {scene.name} would both become {target.name}. Rename one.")
    return [Job(scene, target) for target, scene in by_output.items()]


def _batches(jobs: Sequence[Job], size: int) -> Iterator[Sequence[Job]]:
    for start in range(0, len(jobs), size):
        yield jobs[start : start + size]


def _run_batch(pipeline: Pipeline, request: Request, journal: Journal, jobs: Sequence[Job], tally: Tally) -> None:
    """Prepare each scene, run those that can be run together, write each."""
    ready: list[tuple[Job, Scene]] = []
    for job in jobs:
        try:
            ready.append((job, pipeline.prepare(job.scene, request)))
        except (SceneError, MemoryError) as error:
            _fail(tally, job, error)
    for job, result in _results(pipeline, request, ready, tally):
        try:
            write_layout(result.layout, job.output)
            journal.add(job.scene, job.output)
            tally.done.append(job.scene.name)
        except SceneError as error:
            _fail(tally, job, error)


def _results(
    pipeline: Pipeline, request: Request, ready: Sequence[tuple[Job, Scene]], tally: Tally
) -> Iterator[tuple[Job, Result]]:
    """Run together; where that fails, each alone, so that only the culprit is lost."""
    if not ready:
        return
    try:
        results = pipeline.run([scene for _, scene in ready], request)
        yield from zip((job for job, _ in ready), results, strict=True)
    except (SceneError, MemoryError) as error:
        if len(ready) == 1:
            _fail(tally, ready[0][0], error)
            return
        for one in ready:
            yield from _results(pipeline, request, [one], tally)


def _fail(tally: Tally, job: Job, error: Exception) -> None:
    sentence = str(error) if isinstance(error, SceneError) else f"{job.scene}: not enough memory. Crop the scene."
    tally.failed[job.scene.name] = sentence
    tqdm.write(f"run_engine.py: {sentence}", file=sys.stderr)


def _report(args: argparse.Namespace, tally: Tally) -> None:
    if args.json:
        facts = {"bundle": str(args.bundle), "point_cloud": str(args.point_cloud), "output": str(args.output)}
        print(json.dumps({**facts, "done": tally.done, "skipped": tally.skipped, "failed": tally.failed}))
    elif not args.quiet:
        print(f"{args.output}: {tally.line()}")
