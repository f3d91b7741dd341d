"""The short parity check as the last step of `export_model.py`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from runtime.errors import BundleError

if TYPE_CHECKING:  # it imports torch
    from export.checkpoint import Checkpoint


def check_parity(args: argparse.Namespace, checkpoint: Checkpoint, facts: dict[str, Any]) -> int:
    """The short check of a bundle that stands, whatever comes of it: 0 unless it says different or is interrupted."""
    from export.parity.after_export import RUNGS, check_bundle
    from export.parity.verdict import DIFFERENT

    silent, started = args.quiet or args.json, time.perf_counter()
    try:
        with tqdm(total=RUNGS, unit="rung", desc="Checking parity", disable=silent, leave=False) as bar:
            found = check_bundle(checkpoint, args.output, bar.update).parity
    except KeyboardInterrupt:
        print("export_model.py: interrupted; the bundle stands, its parity was not checked.", file=sys.stderr)
        return 130
    except (OSError, MemoryError) as error:
        raise BundleError(
            f"{args.output}: its parity could not be checked ({error}). (The bundle stands.) Leave it out: --no_parity"
        ) from error
    assert found is not None
    facts["parity"] = dataclasses.asdict(found)
    if not silent:
        print(f"Parity: {found.sentence()} ({time.perf_counter() - started:.1f} s)")
    if found.verdict != DIFFERENT:
        return 0
    if args.json:
        print(json.dumps(facts))
    print(f"export_model.py: {args.output}: the graphs do not compute what the checkpoint computes.", file=sys.stderr)
    return 1
