"""How well layouts fit the rooms they were read from: the figures that the demo is measured by.

python -m demo.score --truth rooms --pred layouts
python -m demo.score --truth rooms --pred torch=layouts/torch fp32=layouts/fp32 --within 1.0 --output score.json

`--truth` is a folder that `python -m demo.rooms` wrote, `--pred` one folder of layouts or several with names, which are
then compared room by room. Overlaps are measured as they are, as by `runtime.evaluate --strict_geometry`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from demo.score_tables import room_table, score_table
from runtime.door import guarded
from runtime.errors import SceneError
from runtime.evaluation import LAYOUT_CLASSES, THRESHOLDS, Count, count_classes
from runtime.files import replacing
from runtime.layout import Layout, read_layout
from runtime.outputs import check_output

KINDS = (*LAYOUT_CLASSES, "box")
AIMS = {"wall": (0.90, 0.80), "door": (0.75, None), "window": (0.75, None), "box": (0.70, None)}
Pair = tuple[Layout, Layout]  # prediction, truth
KindCounts = dict[str, tuple[Count, ...]]  # of one room: by kind, one for each of THRESHOLDS


def summary(pairs: Sequence[Pair]) -> dict[str, Any]:
    """F1 of (prediction, truth) of each room at each of THRESHOLDS, None for a kind that no room has.

    Walls, doors and windows: means over the rooms that have them, rectangles' overlap; boxes: class by class, pooled
    over classes and rooms, overlap in 3D. Geometry as it is, without the original evaluation's two quirks.
    """
    rooms = [room_counts(*pair) for pair in pairs]
    return {"scenes": len(pairs), **{kind: _f1(kind, rooms) for kind in KINDS}}


def room_counts(predicted: Layout, truth: Layout) -> KindCounts:
    """How many there are and how many found each other, for the kinds that are on either side."""
    found = count_classes("room", predicted, truth, strict=True)
    boxes = [counts for name, counts in found.items() if name not in LAYOUT_CLASSES]
    planes = {name: counts for name, counts in found.items() if name in LAYOUT_CLASSES}
    return planes | ({"box": tuple(map(_pooled, zip(*boxes, strict=True)))} if boxes else {})


def _pooled(counts: Sequence[Count]) -> Count:
    return Count(
        sum(count.predicted for count in counts),
        sum(count.truth for count in counts),
        sum(count.true_positives for count in counts),
    )


def _f1(kind: str, rooms: Sequence[KindCounts]) -> list[float | None]:
    columns = list(zip(*(room[kind] for room in rooms if kind in room), strict=True))
    if not columns:
        return [None] * len(THRESHOLDS)
    if kind == "box":
        return [round(_pooled(column).f1, 4) for column in columns]
    return [round(sum(count.f1 for count in column) / len(column), 4) for column in columns]


def read_pairs(predicted: Path, truth: Path) -> dict[str, Pair]:
    """Prediction and truth of each room in the truth's folder, by name. Raises SceneError where one is missing."""
    names = sorted(path.stem for path in truth.glob("*.txt"))
    if not names:
        raise SceneError(f"{truth}: holds no <room>.txt. Make rooms: python -m demo.rooms --output {truth}")
    return {name: (_read(predicted / f"{name}.txt"), _read(truth / f"{name}.txt")) for name in names}


def compare(named: Mapping[str, Mapping[str, Pair]]) -> dict[str, Any]:
    """The summary of each prediction, whether it meets the aims, and in how many rooms it is the first one's layout;
    then by how many points the lowest and the highest F1 of a kind lie apart."""
    first = next(iter(named.values()))
    scores = {name: summary(list(pairs.values())) for name, pairs in named.items()}
    for name, own in scores.items():
        own["aims_met"] = _met(own)
        own["same_layouts_as_first"] = sum(named[name][room][0] == first[room][0] for room in first)
    columns = {kind: list(zip(*(own[kind] for own in scores.values()), strict=True)) for kind in KINDS}
    apart = {kind: [_points_apart(column) for column in columns[kind]] for kind in KINDS}
    return {
        "rooms": len(first),
        "thresholds": list(THRESHOLDS),
        "scores": scores,
        "apart_in_points": apart,
        "largest_apart_in_points": max(chain.from_iterable(apart.values())),
    }


def _points_apart(values: Sequence[float | None]) -> float:
    """100 where one prediction has a score and another none: it made something up of which no room has any."""
    if None in values:
        return 0.0 if set(values) == {None} else 100.0
    known = [value for value in values if value is not None]
    return round(100 * (max(known) - min(known)), 2)


def _met(facts: Mapping[str, Any]) -> bool:
    wanted = ((facts[kind][place], least) for kind, both in AIMS.items() for place, least in enumerate(both))
    return all(least is None or (value is not None and value >= least) for value, least in wanted)


def _read(path: Path) -> Layout:
    if not path.exists():
        raise SceneError(f"{path}: no such file. Run run_engine.py over the rooms first.")
    return read_layout(path)


def _named(text: str) -> tuple[str, Path]:
    """Name and folder of `name=folder`, or of a folder alone, whose own name may have an equals sign."""
    name, equals, folder = text.partition("=")
    if not equals or Path(text).is_dir():
        return Path(text).name, Path(text)
    return name or Path(folder).name, Path(folder)


def _check(args: argparse.Namespace) -> None:
    names = [name for name, _ in map(_named, args.pred)]
    if twice := [name for name in names if names.count(name) > 1]:
        raise SceneError(f"--pred names {twice[0]!r} twice. Tell them apart: --pred a=DIR b=DIR.")
    if args.within is not None:
        if len(names) == 1:
            raise SceneError("--within compares predictions, but --pred names one. Name another: --pred a=DIR b=DIR.")
        if not 0 <= args.within < math.inf:
            raise SceneError(f"--within is {args.within:g}, but points from 0 were expected.")
    if args.output is not None:
        if args.output.suffix.lower() != ".json":
            raise SceneError(f"{args.output}: the ending is {args.output.suffix!r}, but .json was expected.")
        check_output(args.output)


def _score(args: argparse.Namespace) -> int:
    _check(args)
    named = {name: read_pairs(folder, args.truth) for name, folder in map(_named, args.pred)}
    facts = {"benchmark": "demo.score", "truth": args.truth.name, **compare(named)}
    if args.within is not None:
        facts |= {"within": args.within, "is_within": facts["largest_apart_in_points"] <= args.within}
    if args.output is not None:
        _write(args.output, json.dumps(facts, indent=1) + "\n")
    print(json.dumps(facts) if args.json else _tables(facts, named if args.by_room else {}))
    return 0 if facts.get("is_within", True) else 1


def _tables(facts: Mapping[str, Any], named: Mapping[str, Mapping[str, Pair]]) -> str:
    """What to print: rooms one by one of the predictions in `named`, then the scores over all."""
    tables = [
        room_table({room: room_counts(*pair) for room, pair in pairs.items()}, name if len(named) > 1 else "")
        for name, pairs in named.items()
    ]
    return "\n\n".join([*tables, score_table(facts, AIMS)])


def _write(path: Path, text: str) -> None:
    try:
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SceneError(f"{path}: cannot be written ({error.strerror}). Choose another --output.") from error


def parser() -> argparse.ArgumentParser:
    """All options."""
    p = argparse.ArgumentParser(
        prog="python -m demo.score", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--truth", type=Path, required=True, help="folder of <room>.txt, the ground truth")
    p.add_argument("--pred", nargs="+", required=True, metavar="[NAME=]DIR", help="folders of predicted <room>.txt")
    p.add_argument(
        "--within", type=float, metavar="POINTS", help="exit code 1 where any F1 lies further apart (1 = 0.01)"
    )
    p.add_argument("--by_room", action="store_true", help="also print what was found in each room")
    p.add_argument("--json", action="store_true", help="print one JSON line instead of the tables")
    p.add_argument("--output", type=Path, metavar="FILE.json", help="write the JSON there too")
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """0; 1 where predictions lie further apart than --within; 2 with one sentence on stderr."""
    return guarded(
        "python -m demo.score",
        lambda: _score(parser().parse_args(arguments)),
        interrupted="nothing was written",
        install="pip install '.[eval]'",
    )


if __name__ == "__main__":
    sys.exit(main())
