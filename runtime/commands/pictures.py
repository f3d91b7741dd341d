"""`--plot`, `--ground_truth` and `--rerun`: what is refused before any work, and what is drawn after it."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import SceneError
from runtime.layout import Layout, read_layout
from runtime.pictures import (
    PLOT_ENDINGS,
    RERUN_ENDING,
    check_ending,
    check_rerun_ending,
    need,
    plot_layout,
    scores_are_possible,
    write_plot,
    write_rerun,
)
from runtime.points import read_point_cloud

NO_SCORES = "the pictures show no scores, which need shapely. Install it: pip install '.[eval]'"


def add_options(p: argparse._ArgumentGroup) -> None:
    """The options of pictures."""
    p.add_argument(
        "--plot",
        type=Path,
        metavar="FILE|DIR",
        help=f"picture of the layout ({', '.join(PLOT_ENDINGS)}); a name without ending is a folder for <scene>.png",
    )
    p.add_argument(
        "--ground_truth",
        type=Path,
        metavar="FILE|DIR",
        help="true layout (.txt, .json), or a folder with <scene>.txt: drawn beside the prediction, with scores",
    )
    p.add_argument(
        "--rerun",
        type=Path,
        metavar="FILE|DIR",
        help="recording for the Rerun viewer (.rrd); a name without ending is a folder for <scene>.rrd",
    )


def check(args: argparse.Namespace, *, folder: bool) -> None:
    """Refuse what can be refused before any work is done; a library that is missing too. Raises SceneError."""
    if args.ground_truth is not None and args.plot is None:
        raise SceneError("--ground_truth is drawn by --plot. Give --plot too, or leave it out.")
    for name, path, library in (("plot", args.plot, "matplotlib"), ("rerun", args.rerun, "rerun")):
        if path is None:
            continue
        if str(path) == "-":
            raise SceneError(f"--{name} - is not a file. Name one.")
        if folder and (path.suffix or path.is_file()):
            raise SceneError(f"{path}: is a file name, but --point_cloud is a folder; --{name} must be one too.")
        if not folder and path.suffix:
            (check_ending if name == "plot" else check_rerun_ending)(path)
        need(library)
    if args.ground_truth is not None:
        _check_truth(args.ground_truth, folder=folder)
        if not folder:
            read_truth(args, args.point_cloud)


def _check_truth(path: Path, *, folder: bool) -> None:
    if not path.exists():
        raise SceneError(f"{path}: no such file or folder. --ground_truth names a layout, or a folder of <scene>.txt.")
    if folder and not path.is_dir():
        raise SceneError(f"{path}: is a file, but --point_cloud is a folder; --ground_truth must be one too.")


@dataclass(frozen=True, slots=True)
class Targets:
    """Where the pictures of one scene go; None where none is asked for."""

    plot: Path | None
    rerun: Path | None

    @classmethod
    def of(cls, args: argparse.Namespace, scene: Path) -> Targets:
        """As the options say; a name without ending is a folder."""
        return cls(_target(args.plot, scene, PLOT_ENDINGS[0]), _target(args.rerun, scene, RERUN_ENDING))

    def paths(self) -> list[Path]:
        """Those that are asked for."""
        return [path for path in (self.plot, self.rerun) if path is not None]

    def missing(self) -> bool:
        """Whether one that is asked for is not there."""
        return not all(path.exists() for path in self.paths())


def _target(path: Path | None, scene: Path, ending: str) -> Path | None:
    return path if path is None or path.suffix else path / f"{scene.stem}{ending}"


def truth_path(args: argparse.Namespace, scene: Path) -> Path | None:
    """Where the scene's ground truth lies, or None where none is asked for."""
    if args.ground_truth is None:
        return None
    given = Path(args.ground_truth)
    return given / f"{scene.stem}.txt" if given.is_dir() else given


def read_truth(args: argparse.Namespace, scene: Path) -> Layout | None:
    """The scene's ground truth, or None where none is asked for. Raises SceneError where it is missing."""
    path = truth_path(args, scene)
    if path is None:
        return None
    if path != args.ground_truth and not path.exists():
        raise SceneError(f"{path}: no such file, but --ground_truth {args.ground_truth} should hold it.")
    return read_layout(path)


def draw(args: argparse.Namespace, scene: Path, layout: Layout) -> list[str]:
    """Make the pictures of one scene, of the points as the file has them. Returns warnings. Raises SceneError.

    In a folder, a scene without ground truth is drawn alone.
    """
    targets, warnings = Targets.of(args, scene), []
    if not targets.paths():
        return []
    cloud = read_point_cloud(scene, scale=args.scale)
    if targets.plot is not None:
        try:
            truth = read_truth(args, scene)
        except SceneError as error:
            truth = None
            warnings.append(f"{error} The picture shows the prediction alone.")
        if truth is not None and not scores_are_possible():
            warnings.append(NO_SCORES)
        write_plot(plot_layout(layout, cloud, truth, title=scene.stem), targets.plot)
    if targets.rerun is not None:
        write_rerun(layout, cloud, targets.rerun)
    return warnings
