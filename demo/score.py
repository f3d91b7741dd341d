"""How well layouts fit the rooms they were read from: the figures that the demo is measured by.

python -m demo.score --truth rooms --pred torch=layouts/torch fp32=layouts/fp32 --output score.json

`--truth` is a folder that `python -m demo.rooms` wrote, `--pred` one folder of layouts or several with names, which are
then compared room by room. Overlaps are measured as they are, as by `runtime.evaluate --strict_geometry`.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runtime.door import guarded
from runtime.errors import SceneError
from runtime.evaluation import THRESHOLDS, Score, score_scene
from runtime.evaluation.boxes import box_iou
from runtime.evaluation.matching import true_positives
from runtime.files import replacing
from runtime.layout import Layout, read_layout
from runtime.outputs import check_output

TARGETS = {"wall": (0.90, 0.80), "door": (0.75, None), "window": (0.75, None), "box": (0.70, None)}
Pair = tuple[Layout, Layout]  # prediction, truth


@dataclass(slots=True)
class Counts:
    """Boxes of all scenes together; one of another class is a miss."""

    predicted: int = 0
    truth: int = 0
    found: int = 0

    @property
    def f1(self) -> float:
        """2 found / (predicted + truth), 0 where there is nothing."""
        total = self.predicted + self.truth
        return 2 * self.found / total if total else 0.0


def summary(pairs: Sequence[Pair]) -> dict[str, Any]:
    """F1 of (prediction, truth) of each room at each of THRESHOLDS.

    Walls, doors and windows: means over the scenes that have them, rectangles' overlap; boxes: class by class, pooled
    over classes and scenes, overlap in 3D. Geometry as it is, without the original evaluation's two quirks.
    """
    scenes = tuple(score_scene(str(i), *pair, {}, strict=True) for i, pair in enumerate(_without_boxes(pairs)))
    means = {item.name: [_rounded(f1) for f1 in item.f1] for item in Score(scenes, strict_geometry=True).layouts}
    boxes = [_rounded(pooled_boxes(pairs, threshold).f1) for threshold in THRESHOLDS]
    return {"scenes": len(pairs), **means, "box": boxes}


def pooled_boxes(pairs: Iterable[Pair], threshold: float) -> Counts:
    """Boxes that found each other at a threshold of their overlap in 3D."""
    total = Counts()
    for predicted, truth in pairs:
        for name in {box.class_name for box in (*predicted.boxes, *truth.boxes)}:
            said, wanted = ([box for box in side.boxes if box.class_name == name] for side in (predicted, truth))
            total.predicted += len(said)
            total.truth += len(wanted)
            total.found += true_positives(box_iou(said, wanted, strict=True), threshold)
    return total


def read_pairs(predicted: Path, truth: Path) -> dict[str, Pair]:
    """Prediction and truth of each room in the truth's folder, by name. Raises SceneError where one is missing."""
    names = sorted(path.stem for path in truth.glob("*.txt"))
    if not names:
        raise SceneError(f"{truth}: holds no <room>.txt. Make rooms: python -m demo.rooms --output {truth}")
    return {name: (_read(predicted / f"{name}.txt"), _read(truth / f"{name}.txt")) for name in names}


def compare(named: Mapping[str, Mapping[str, Pair]]) -> dict[str, Any]:
    """The summary of each prediction, by how many points each lies from the first, and rooms with the same text."""
    first = next(iter(named.values()))
    facts: dict[str, Any] = {}
    for name, pairs in named.items():
        facts[name] = summary(list(pairs.values()))
        facts[name]["same_layouts_as_first"] = sum(pairs[room][0] == first[room][0] for room in first)
    best = facts[next(iter(named))]
    for own in facts.values():
        gaps = [
            abs(a - b) for kind in TARGETS for a, b in zip(own[kind], best[kind], strict=True) if None not in (a, b)
        ]
        own["largest_gap_in_points"] = round(100 * max(gaps, default=0.0), 2)
        own["targets_met"] = _met(own)
    return facts


def _met(facts: Mapping[str, Any]) -> bool:
    wanted = ((facts[kind][place], least) for kind, both in TARGETS.items() for place, least in enumerate(both))
    return all(least is None or (value is not None and value >= least) for value, least in wanted)


def _read(path: Path) -> Layout:
    if not path.exists():
        raise SceneError(f"{path}: no such file. Run run_engine.py over the rooms first.")
    return read_layout(path)


def _without_boxes(pairs: Iterable[Pair]) -> Iterable[Pair]:
    for predicted, truth in pairs:
        yield replace(predicted, boxes=()), replace(truth, boxes=())


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _named(text: str) -> tuple[str, Path]:
    name, _, folder = text.rpartition("=")
    return name or Path(folder).name, Path(folder)


def _check(args: argparse.Namespace) -> None:
    names = [name for name, _ in map(_named, args.pred)]
    if twice := [name for name in names if names.count(name) > 1]:
        raise SceneError(f"--pred names {twice[0]!r} twice. Tell them apart: --pred a=DIR b=DIR.")
    if args.output is not None:
        if args.output.suffix.lower() != ".json":
            raise SceneError(f"{args.output}: the ending is {args.output.suffix!r}, but .json was expected.")
        check_output(args.output)


def _score(args: argparse.Namespace) -> int:
    _check(args)
    named = {name: read_pairs(folder, args.truth) for name, folder in map(_named, args.pred)}
    facts = {"benchmark": "demo.score", "truth": args.truth.name, **compare(named)}
    if args.output is not None:
        _write(args.output, json.dumps(facts, indent=1) + "\n")
    print(json.dumps(facts))
    return 0


def _write(path: Path, text: str) -> None:
    try:
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SceneError(f"{path}: cannot be written ({error.strerror}). Choose another --output.") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 2 with one sentence on stderr."""
    p = argparse.ArgumentParser(
        prog="python -m demo.score", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--truth", type=Path, required=True, help="folder of <room>.txt, the ground truth")
    p.add_argument("--pred", nargs="+", required=True, metavar="[NAME=]DIR", help="folders of predicted <room>.txt")
    p.add_argument("--output", type=Path, metavar="FILE.json")
    return guarded(
        "python -m demo.score",
        lambda: _score(p.parse_args(arguments)),
        interrupted="nothing was written",
        install="pip install '.[eval]'",
    )


if __name__ == "__main__":
    sys.exit(main())
