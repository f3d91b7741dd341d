"""Two folders of layouts, scene by scene."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from runtime.errors import SceneError
from runtime.evaluation.score import SceneScore, Score, score_scene
from runtime.evaluation.texts import read_text
from runtime.layout import Layout, parse_layout

MAX_BYTES = 4 << 20  # of one layout; a room takes some thousand bytes


def score_folders(
    predicted: Path, truth: Path, scenes: Sequence[str], mapping: Mapping[str, str], *, strict: bool = False
) -> Score:
    """Score `<scene>.txt` of two folders. Raises SceneError.

    The original stops at a scene that lies in one folder only. Here a scene without a prediction counts as predicted
    empty, and one without ground truth is left out; the issues name both.
    """
    _check_folder(predicted)
    _check_folder(truth)
    known = [scene for scene in scenes if _file(truth, scene).exists()]
    if not any(_file(predicted, scene).exists() for scene in known):
        raise SceneError(
            f"None of the {len(scenes)} scenes of the metadata lies in both folders, {predicted} and {truth}. "
            f"Files named after the ids were expected: {scenes[0]}.txt."
        )
    missing = sorted(set(scenes) - set(known))
    scored = [_score_file(predicted, truth, scene, mapping, strict=strict) for scene in known]
    return Score(tuple(scored), strict, tuple(f"{scene}: left out, there is no ground truth" for scene in missing))


def _score_file(predicted: Path, truth: Path, scene: str, mapping: Mapping[str, str], *, strict: bool) -> SceneScore:
    wanted = _read(_file(truth, scene))
    if _file(predicted, scene).exists():
        return score_scene(scene, _read(_file(predicted, scene)), wanted, mapping, strict=strict)
    score = score_scene(scene, Layout(), wanted, mapping, strict=strict)
    return SceneScore(scene, score.counts, ("prediction: there is no file, so it counts as empty", *score.issues))


def _read(path: Path) -> Layout:
    return parse_layout(read_text(path, MAX_BYTES))


def _file(folder: Path, scene: str) -> Path:
    return folder / f"{scene}.txt"


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise SceneError(f"{folder}: is no folder. A folder of layouts was expected, a file <id>.txt for each scene.")
