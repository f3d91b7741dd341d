"""How good predicted layouts are: `python -m runtime.evaluate --help` explains the options."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from runtime.door import guarded
from runtime.evaluation import Score, read_mapping, read_scene_ids, score_folders, to_json, to_text
from runtime.evaluation.categories import LABEL_FROM, LABEL_TO

PROGRAM = "python -m runtime.evaluate"
SHOWN = 20  # lines of issues on stderr; --json has all
EPILOG = """\
examples:
  python -m runtime.evaluate --pred layouts --gt truth --metadata test.csv --label_mapping categories.tsv
  python -m runtime.evaluate --pred layouts --gt truth --metadata test.csv --label_mapping categories.tsv --json

The scores are those of SpatialLM's own evaluation. It measures two things oddly: the distance between two planes has
a sign, and the centre of a box is taken as its top. --strict_geometry measures both as they are; its scores do not
compare with published ones.
"""


def parser() -> argparse.ArgumentParser:
    """All options of the evaluation."""
    p = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Score predicted layouts against the ground truth: F1 of walls, doors, windows and furniture.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name, what in (("--pred", "predicted"), ("--gt", "true")):
        p.add_argument(
            name, f"{name}_dir", required=True, type=Path, metavar="DIR", help=f"folder of {what} layouts, <id>.txt"
        )
    p.add_argument(
        "--metadata", required=True, type=Path, metavar="CSV", help="scenes to score: a table with a column id"
    )
    p.add_argument(
        "--label_mapping",
        required=True,
        type=Path,
        metavar="TSV",
        help="classes of boxes to the 20 scored ones: a tab-separated table",
    )
    p.add_argument("--label_from", default=LABEL_FROM, metavar="COLUMN", help="its column of classes (%(default)s)")
    p.add_argument("--label_to", default=LABEL_TO, metavar="COLUMN", help="its column of scored classes (%(default)s)")
    p.add_argument("--strict_geometry", action="store_true", help="measure plane distances and heights as they are")
    p.add_argument("-q", "--quiet", action="store_true", help="do not list on stderr what could not be used")
    p.add_argument(
        "--json", action="store_true", help="print one JSON line instead of the tables, by class and by scene"
    )
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Score: 0 when there is a score, 2 with one sentence on stderr when there is none."""
    return guarded(
        PROGRAM,
        lambda: _evaluate(parser().parse_args(arguments)),
        interrupted="nothing was scored",
        install="pip install '.[eval]'",
    )


def _evaluate(args: argparse.Namespace) -> int:
    mapping = read_mapping(args.label_mapping, args.label_from, args.label_to)
    scenes = read_scene_ids(args.metadata)
    score = score_folders(args.pred, args.gt, scenes, mapping, strict=args.strict_geometry)
    if not args.quiet:
        _print_issues(score)
    print(json.dumps(to_json(score), allow_nan=False) if args.json else to_text(score))
    return 0


def _print_issues(score: Score) -> None:
    lines = [*score.issues, *(f"{scene.scene}: {issue}" for scene in score.scenes for issue in scene.issues)]
    for line in lines[:SHOWN]:
        print(line, file=sys.stderr)
    if len(lines) > SHOWN:
        print(f"... and {len(lines) - SHOWN} more; --json lists all.", file=sys.stderr)
