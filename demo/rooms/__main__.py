"""Write scans of generated rooms: `python -m demo.rooms --help` explains the options."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from tqdm import tqdm

from demo.rooms.files import write_seed
from demo.rooms.scan import SPLITS
from runtime.door import guarded
from runtime.errors import SceneError

PROGRAM = "python -m demo.rooms"
EPILOG = """\
examples:
  python -m demo.rooms --split test --count 3 --output out/rooms
  python -m demo.rooms --split train --first 5000 --count 1000 --jobs 8 --quiet --output out/rooms

Each scan becomes <seed>.ply (metres, z up, with colours) and <seed>.txt, its ground truth. The same seed gives the
same room. Files that are there already are written anew.
"""


def parser() -> argparse.ArgumentParser:
    """All options."""
    p = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Write scans of generated rooms with their ground truth.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for the files, made if need be")
    p.add_argument("--split", choices=tuple(SPLITS), default="test", help="whose seeds to use (%(default)s)")
    p.add_argument("--count", type=int, default=3, metavar="N", help="how many scans (%(default)s)")
    p.add_argument("--first", type=int, default=0, metavar="N", help="number of the first in its split (%(default)s)")
    p.add_argument("--jobs", type=int, default=1, metavar="N", help="worker processes (%(default)s)")
    p.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Write scans: 0 when all are there, 2 with one sentence on stderr when not."""
    return guarded(
        PROGRAM,
        lambda: _write(parser().parse_args(arguments)),
        interrupted="the scans written so far are whole",
        install="pip install .",
    )


def _write(args: argparse.Namespace) -> int:
    seeds = _seeds(args)
    _make_folder(args.output)
    with tqdm(total=len(seeds), unit="scan", desc="Scans", disable=args.quiet) as bar:
        for _ in _written(args.output, seeds, args.jobs):
            bar.update()
    return 0


def _seeds(args: argparse.Namespace) -> range:
    for name, least in (("count", 1), ("first", 0), ("jobs", 1)):
        if (given := getattr(args, name)) < least:
            raise SceneError(f"--{name} is {given}, but a whole number from {least} was expected.")
    whole = SPLITS[args.split]
    if args.first + args.count > len(whole):
        raise SceneError(
            f"--first {args.first} and --count {args.count} reach beyond the {len(whole):,} seeds of the split "
            f"{args.split!r}. Ask for fewer."
        )
    return whole[args.first : args.first + args.count]


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise SceneError(f"{folder}: cannot be made ({reason}). Name a folder that can be written to.") from error


def _written(folder: Path, seeds: range, jobs: int) -> Iterator[None]:
    """One step for each scan written."""
    write = partial(write_seed, folder)
    if jobs == 1:
        yield from map(write, seeds)
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the processes share the cores already
    pool = ProcessPoolExecutor(min(jobs, len(seeds)), mp_context=get_context("spawn"))
    try:
        yield from pool.map(write, seeds, chunksize=4)
    except BrokenProcessPool as error:
        raise SceneError("A worker process ended early, perhaps for lack of memory. Ask for fewer --jobs.") from error
    finally:
        pool.shutdown(cancel_futures=True)


if __name__ == "__main__":
    sys.exit(main())
