"""A folder of scenes: one bad scene does not stop the others, and a restart skips what is done."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from runtime.commands import options, pictures, summary
from runtime.commands.journal import Journal
from runtime.errors import SceneError
from runtime.layout import read_layout, write_layout
from runtime.layout.counts import number_of
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
    warnings: dict[str, list[str]] = field(default_factory=dict)  # of those done

    def line(self) -> str:
        """One line for the end."""
        return f"{number_of(len(self.done), 'scene')} done, {len(self.skipped)} skipped, {len(self.failed)} failed."


@dataclass(frozen=True, slots=True)
class Job:
    """A scene file and where its layout goes."""

    scene: Path
    output: Path


def run_folder(args: argparse.Namespace) -> int:
    """Run all scenes of `--point_cloud` into the folder `--output`. Returns 1 if any failed. Raises SceneError."""
    tally = Tally()
    jobs = _jobs(args, tally)
    for folder in (args.output, args.plot, args.rerun):
        if folder is not None:
            options.make_folder(folder)
    pipeline = options.load_pipeline(args)
    request = options.request(args, pipeline.manifest)
    journal = Journal.open(args.output, pipeline.bundle, request)
    silent, size = args.quiet or args.json, _batch_size(args, pipeline)
    with tqdm(total=len(jobs), unit="scene", desc="Scenes", disable=silent) as bar:
        waiting = []
        for job in jobs:
            if not args.overwrite and journal.has(job.scene, job.output):
                _skip(args, job, tally)
                bar.update()
            else:
                waiting.append(job)
        for batch in _batches(waiting, size):
            for job, result in _run_batch(pipeline, request, journal, batch, tally, args.overwrite):
                _finish(args, journal, job, result, tally)
            bar.update(len(batch))
    _report(args, tally)
    return 1 if tally.failed else 0


def _skip(args: argparse.Namespace, job: Job, tally: Tally) -> None:
    """Leave out a scene that is done; a picture that is not there is drawn of its layout."""
    try:
        if pictures.Targets.of(args, job.scene).missing():
            for warning in pictures.draw(args, job.scene, read_layout(job.output)):
                _say(args, f"{job.scene.name}: {warning}")
    except (SceneError, MemoryError) as error:
        _fail(tally, job, error)
        return
    tally.skipped.append(job.scene.name)


def _jobs(args: argparse.Namespace, tally: Tally) -> list[Job]:
    """The scenes of a folder in the order of their names; of two that would share a layout, the second fails."""
    folder = args.point_cloud
    try:
        paths = sorted(path for path in folder.iterdir() if path.is_file())
    except OSError as error:
        raise SceneError(f"{folder}: cannot be listed ({error.strerror}). Name a folder that can be read.") from error
    scenes = [path for path in paths if path.suffix.lower() in ENDINGS]
    if not scenes:
        raise SceneError(f"{folder}: holds no scene ({', '.join(ENDINGS)}). Name a folder of point clouds.")
    stems = {scene.stem for scene in scenes}  # beside a scene lies its layout, or its truth
    if texts := [path.name for path in paths if path.suffix.lower() == ".txt" and path.stem not in stems]:
        are = "is" if len(texts) == 1 else "are"
        found = f"{number_of(len(texts), '.txt file')} {are} not taken for scenes"
        _say(args, f"{folder}: {found} ({texts[0]}{', ...' if texts[1:] else ''}). Rename to .xyz what is one.")
    by_output: dict[Path, Path] = {}
    for scene in scenes:
        target = args.output / f"{scene.stem}.{args.output_format}"
        if (other := by_output.setdefault(target, scene)) != scene:
            reason = f"{scene}: its layout would be {target.name}, as that of {other.name}. Rename one of the scenes."
            _fail(tally, Job(scene, target), SceneError(reason))
    return [Job(scene, target) for target, scene in by_output.items()]


def _batch_size(args: argparse.Namespace, pipeline: Pipeline) -> int:
    """As asked for, or what compiled engines take where that is less."""
    size: int = args.batch_size
    limit = pipeline.engines.prefill.limits.get("B", size)
    if size > limit:
        _say(
            args,
            f"--batch_size is {size}, but the engines were built for {limit}, so {limit} run together. "
            f"For more, build them again with a larger --max_batch.",
        )
    return min(size, limit)


def _say(args: argparse.Namespace, sentence: str) -> None:
    """A warning between the bars."""
    if not args.quiet:
        tqdm.write(f"warning: {sentence}", file=sys.stderr)


def _batches(jobs: Sequence[Job], size: int) -> Iterator[Sequence[Job]]:
    for start in range(0, len(jobs), size):
        yield jobs[start : start + size]


def _run_batch(
    pipeline: Pipeline, request: Request, journal: Journal, jobs: Sequence[Job], tally: Tally, overwrite: bool
) -> Iterator[tuple[Job, Result]]:
    """Prepare each scene, and run those that can be run together."""
    ready: list[tuple[Job, Scene]] = []
    for job in jobs:
        try:
            if not overwrite:
                journal.begin(job.output)
            ready.append((job, pipeline.prepare(job.scene, request)))
        except (SceneError, MemoryError) as error:
            _fail(tally, job, error)
    yield from _results(pipeline, request, ready, tally)


def _finish(args: argparse.Namespace, journal: Journal, job: Job, result: Result, tally: Tally) -> None:
    """Write a layout, note it, draw it, and say what came of the scene."""
    try:
        write_layout(result.layout, job.output)
        journal.add(job.scene, job.output)
        drawn = pictures.draw(args, job.scene, result.layout)
    except (SceneError, MemoryError) as error:
        _fail(tally, job, error)
        return
    tally.done.append(job.scene.name)
    if warnings := [*result.report.warnings, *summary.issues(result), *drawn]:
        tally.warnings[job.scene.name] = warnings
    for warning in warnings:
        _say(args, f"{job.scene.name}: {warning}")
    if not (args.quiet or args.json):
        lines = [f"{job.scene.name}: {summary.line(result)}", *(result.report.lines() if args.report else [])]
        tqdm.write("\n".join(lines + ([summary.timings(result)] if args.timings else [])))


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
    if job.scene.name not in sentence:  # an engine does not know which scene it runs
        sentence = f"{job.scene}: {sentence}"
    tally.failed[job.scene.name] = sentence
    tqdm.write(f"run_engine.py: {sentence}", file=sys.stderr)


def _report(args: argparse.Namespace, tally: Tally) -> None:
    if args.json:
        facts = {name: str(getattr(args, name)) for name in ("bundle", "point_cloud", "output")}
        print(json.dumps({**facts, **dataclasses.asdict(tally)}))
    elif not args.quiet:
        print(f"{args.output}: {tally.line()}")
