"""The command line of `run_engine.py`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from runtime.commands.doctor import run_doctor
from runtime.errors import SceneError


def main(arguments: Sequence[str] | None = None) -> int:
    """0: all done. 1: some scenes of a folder failed. 2: nothing could be done; one sentence on stderr says why."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if "--doctor" in words:  # before anything is imported that may be missing
        return run_doctor(as_json="--json" in words)
    try:
        from runtime.commands.options import parser

        return _run(parser().parse_args(words))
    except ModuleNotFoundError as error:
        print(f"run_engine.py: the package {error.name!r} is missing. Install it: pip install .", file=sys.stderr)
        return 2
    except SceneError as error:
        print(f"run_engine.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("run_engine.py: interrupted; the scene under way left no layout.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered goes nowhere
        print("run_engine.py: the reader of the output went away; the scene under way left no layout.", file=sys.stderr)
        return 2
    except MemoryError as error:
        print(f"run_engine.py: not enough memory ({error}). Crop the scene, or free some.", file=sys.stderr)
        return 2


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
