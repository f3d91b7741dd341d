"""The command line of `run_engine.py`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from runtime.commands.doctor import run_doctor
from runtime.door import guarded


def main(arguments: Sequence[str] | None = None) -> int:
    """0: all done. 1: some scenes of a folder failed. 2: nothing could be done; one sentence on stderr says why."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    return guarded(
        "run_engine.py",
        lambda: _doctor_or_run(words),
        interrupted="the scene under way left no layout",
        install="pip install .",
    )


def _doctor_or_run(words: list[str]) -> int:
    if "--doctor" in words:  # before anything is imported that may be missing
        return run_doctor(as_json="--json" in words)
    from runtime.commands.options import parser

    return _run(parser().parse_args(words))


def _run(args: argparse.Namespace) -> int:
    """Each action is imported where it is asked for."""
    from runtime.commands import options

    if args.inspect is not None:
        from runtime.commands.inspect import inspect_bundle

        return inspect_bundle(args.inspect, as_json=args.json, verify=not args.no_verify)
    options.check(args)
    if options.is_folder(args):
        from runtime.commands.folder import run_folder

        return run_folder(args)
    from runtime.commands.one import run_scene

    return run_scene(args)
