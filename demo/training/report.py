"""What runs of demo/train.py learnt, side by side: one JSON to publish, a table, and a picture of their curves.

python -m demo.training.report runs/mode-none runs/mode-3D_only --output modes.json --plot modes.png

Each folder is an --output of demo/train.py whose training has ended; its name is the run's.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from demo.score_tables import NONE, PLURALS, aligned
from runtime.door import guarded
from runtime.errors import SceneError
from runtime.evaluation import THRESHOLDS
from runtime.files import read_small_text, replacing
from runtime.outputs import check_output
from runtime.pictures.libraries import need
from runtime.pictures.plot import check_ending, write_plot

RESULT, CURVES = "result.json", "curves.jsonl"  # as demo.training.trainer writes them; no torch is needed here
AGAIN = "Train again into another folder."
LARGEST = 1e15  # far above all that a run writes, and a picture can still show it


def read_run(folder: Path) -> dict[str, Any]:
    """The facts of a run's result and, as `curves`, its lines in the order of their steps. Raises SceneError."""
    facts = _parsed(folder / RESULT, _text(folder / RESULT))
    if missing := [name for name in ("settings", "steps", "seconds", "validation", "scores") if name not in facts]:
        raise SceneError(f"{folder / RESULT}: {missing[0]!r} is missing, so demo/train.py did not write it.")
    if wrong := _wrong(facts):
        raise SceneError(
            f"{folder / RESULT}: {wrong!r} is {facts[wrong]!r:.60}, which demo/train.py does not write. {AGAIN}"
        )
    curves: list[dict[str, Any]] = []
    for number, text in enumerate(_text(folder / CURVES).splitlines(), 1):
        line = _parsed(folder / CURVES, text, f", line {number}")
        if not (_is_number(line.get("step")) and _is_number(_mapping(line.get("validation")).get("cross_entropy"))):
            raise SceneError(
                f"{folder / CURVES}, line {number}: has no finite 'step' or validation 'cross_entropy'. {AGAIN}"
            )
        while curves and curves[-1]["step"] >= line["step"]:  # an interrupted run went on from an earlier state
            curves.pop()
        curves.append(line)
    return facts | {"curves": curves}


def _wrong(facts: Mapping[str, Any]) -> str | None:
    """What of a result the table cannot show or JSON cannot hold, such as the validation of a run that diverged."""
    if not isinstance(facts["settings"], dict):
        return "settings"
    if numberless := [name for name in ("steps", "seconds", "validation") if not _is_number(facts[name])]:
        return numberless[0]
    scores = _mapping(facts["scores"])
    fits = all(_are_scores(scores[kind]) for kind in PLURALS if kind in scores)
    return None if fits and isinstance(facts["scores"], (dict, str)) else "scores"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -LARGEST < value < LARGEST


def _are_scores(value: Any) -> bool:
    """F1 at each of THRESHOLDS; None for a kind that no room has."""
    fits = isinstance(value, list) and len(value) == len(THRESHOLDS)
    return fits and all(score is None or _is_number(score) for score in value)


def _text(path: Path) -> str:
    try:
        return read_small_text(path)
    except UnicodeDecodeError as error:
        raise SceneError(f"{path}: is no text ({error}). {AGAIN}") from error
    except FileNotFoundError as error:
        raise SceneError(
            f"{path}: no such file, so the run has not ended. Run demo/train.py with this --output again to go on."
        ) from error


def _parsed(path: Path, text: str, place: str = "") -> dict[str, Any]:
    try:
        return _mapping(json.loads(text), refuse=True)
    except (ValueError, RecursionError) as error:
        raise SceneError(f"{path}{place}: is no JSON object ({error}). {AGAIN}") from error


def _mapping(value: Any, *, refuse: bool = False) -> dict[str, Any]:
    if refuse and not isinstance(value, dict):
        raise ValueError(f"found {type(value).__name__}")
    return value if isinstance(value, dict) else {}


def read_runs(folders: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Runs by the names of their folders. Raises SceneError for two of one name."""
    names = [folder.resolve().name for folder in folders]
    if twice := [name for name in names if names.count(name) > 1]:
        raise SceneError(f"Two runs are named {twice[0]!r}, as their folders are. Rename one.")
    return {name: read_run(folder) for name, folder in zip(names, folders, strict=True)}


def table(runs: Mapping[str, Mapping[str, Any]]) -> str:
    """A column for each run: how long it trained, its validation loss, and F1 by kind and overlap."""
    rows = [
        ["", "IoU", *runs],
        ["encoding", "", *(str(run["settings"].get("mode", NONE)) for run in runs.values())],
        ["steps", "", *(f"{run['steps']:,}" for run in runs.values())],
        ["minutes", "", *(f"{run['seconds'] / 60:.1f}" for run in runs.values())],
        ["cross entropy", "", *(f"{run['validation']:.3f}" for run in runs.values())],
    ]
    for kind, plural in PLURALS.items():
        for place, threshold in enumerate(THRESHOLDS):
            values = [_f1(run["scores"], kind, place) for run in runs.values()]
            rows.append([f"{plural}, F1", f"{threshold:.2f}", *values])
    return aligned(rows, left=1)


def _f1(scores: Any, kind: str, place: int) -> str:
    """Of a machine without shapely scores are a sentence."""
    value = _mapping(scores).get(kind, [None] * len(THRESHOLDS))[place]
    return NONE if value is None else f"{value:.3f}"


def _report(args: argparse.Namespace) -> int:
    if args.output.suffix.lower() != ".json":
        raise SceneError(f"{args.output}: the ending is {args.output.suffix!r}, but .json was expected.")
    check_output(args.output)
    if args.plot is not None:
        check_ending(args.plot)
        check_output(args.plot)
        need("matplotlib")
    runs = read_runs(args.runs)
    facts = {"benchmark": "demo.train", **({"note": args.note} if args.note else {}), "runs": runs}
    with replacing(args.output) as temporary:
        temporary.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print(table(runs))
    if args.plot is not None:
        from demo.training.curves import draw_curves

        write_plot(draw_curves(runs, table(runs)), args.plot)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 2 with one sentence on stderr."""
    p = argparse.ArgumentParser(
        prog="python -m demo.training.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("runs", nargs="+", type=Path, metavar="RUN_FOLDER", help="an --output of demo/train.py")
    p.add_argument("--output", type=Path, required=True, metavar="FILE.json", help="settings, curves and scores of all")
    p.add_argument("--plot", type=Path, metavar="FILE.png", help="validation curves and the table (extra `plot`)")
    p.add_argument("--note", help="a sentence that stands in the JSON, e.g. which machine and commit")
    return guarded(
        "python -m demo.training.report",
        lambda: _report(p.parse_args(arguments)),
        interrupted="files are whole or not there",
        install="pip install '.[eval,plot]'",
    )


if __name__ == "__main__":
    sys.exit(main())
