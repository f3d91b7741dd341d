"""Train the demo model on generated rooms.

python demo/train.py --rooms rooms --mode 3D_only --minutes 10 --output trained

Makes the rooms first where they are missing (worker processes, a bar); a larger --count only adds to those that are
there, a smaller one reads the first of them. A run can be interrupted and goes on where it stood (--output holds its
state). On several GPUs: torchrun --nproc_per_node 2 demo/train.py ... The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from demo.rooms import SPLITS
from demo.training.config import MODES
from demo.training.pack import pack
from demo.training.trainer import Settings, Trainer
from runtime.door import guarded
from runtime.errors import SceneError

PER_FILE = 25  # rooms; some seconds of a worker's time, so that few rooms keep many workers busy too


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rooms", type=Path, required=True, help="folder of packed rooms, made if missing")
    p.add_argument("--output", type=Path, required=True, help="folder of the checkpoint, the state and the curves")
    p.add_argument("--mode", choices=MODES, default="3D_only", help="position encoding of the point tokens")
    p.add_argument("--count", type=int, default=20000, help="rooms to train on (default: 20000)")
    p.add_argument("--validation", type=int, default=100, help="rooms to validate on (default: 100)")
    p.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="worker processes that make rooms")
    p.add_argument("--minutes", type=float, default=10.0, help="length of the training itself (default: 10)")
    p.add_argument("--steps", type=int, help="length of the schedule in steps, in place of --minutes")
    p.add_argument(
        "--stop_after",
        type=float,
        metavar="MINUTES",
        help="stop so long after the start; run again to go on",
    )
    p.add_argument("--batch_size", type=int, default=32, help="rooms of a step on each GPU (default: 32)")
    p.add_argument("--points", type=int, default=6500, help="points of a thinned scan (default: 6500)")
    p.add_argument("--whole_from", type=float, default=0.3, help="from here on scans are whole (default: 0.3)")
    p.add_argument("--hints", type=float, default=1.0, help="weight of what voxels should see (default: 1)")
    p.add_argument("--learning_rate", type=float, default=1e-3)
    p.add_argument("--validate_every", type=int, default=500, metavar="STEPS")
    p.add_argument("--feeders", type=int, default=2, help="threads that make batches (default: 2)")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--pack_only", action="store_true", help="make the rooms, print how many files, and stop")
    p.add_argument("--quiet", action="store_true", help="no bars")
    return p


def main(arguments: list[str] | None = None) -> int:
    """0, 2 with one sentence on stderr, 130 where it was interrupted."""
    args = parser().parse_args(arguments)
    return guarded(
        "demo/train.py",
        lambda: _train(args),
        interrupted="the same command goes on from what was saved last",
        install="pip install '.[train]'",
    )


def _train(args: argparse.Namespace) -> int:
    if small := [name for name in ("count", "validation", "jobs", "batch_size") if getattr(args, name) < 1]:
        raise SceneError(f"--{small[0]} is {getattr(args, small[0])}, but at least 1 was expected.")
    counts = {"validation": args.validation, "train": args.count}
    files = {
        name: pack(args.rooms / name, SPLITS[name], count, PER_FILE, args.jobs, quiet=args.quiet)
        for name, count in counts.items()
    }
    if args.pack_only:
        print(json.dumps({name: len(paths) for name, paths in files.items()}))
        return 0
    settings = Settings(
        mode=args.mode,
        minutes=None if args.steps else args.minutes,
        steps=args.steps,
        stop_after=args.stop_after,
        batch_size=args.batch_size,
        points=args.points,
        whole_from=args.whole_from,
        learning_rate=args.learning_rate,
        hints=args.hints,
        validate_every=args.validate_every,
        feeders=args.feeders,
        seed=args.seed,
    )
    trainer = Trainer(settings, files, args.output, torch.device(args.device), quiet=args.quiet)
    facts = trainer.run()
    if trainer.rank == 0:
        print(json.dumps(facts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
