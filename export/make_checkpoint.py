"""Make a random SpatialLM checkpoint: real tensor names, real config keys, a working tokenizer, live logits.

    python -m export.make_checkpoint --family qwen --size tiny --seed 0 --output checkpoint

The text it generates is noise. It serves tests (`tiny`) and measurements at the published sizes (`real`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from export.making.configs import DTYPES, FAMILIES, SHARD_BYTES, SIZES
from runtime.door import guarded

PROGRAM = "python -m export.make_checkpoint"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=PROGRAM, description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", required=True, help="a new or empty directory")
    parser.add_argument("--family", choices=FAMILIES, default="qwen")
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vlm_pe", "--VLM_PE", help="written into config.json, e.g. 3D_RoPE")
    parser.add_argument("--merge_rule", "--PCD_PE_Merge_Rule", help="written into config.json, e.g. 3D_only")
    parser.add_argument("--projector", choices=["linear", "mlp"], default="mlp")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--tied", action=argparse.BooleanOptionalAction, default=True, help="share head and embedding")
    parser.add_argument("--untied", dest="tied", action="store_false")
    parser.add_argument("--shard_size", type=int, default=SHARD_BYTES, help="bytes of a weight file (%(default)s)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Make one: 0 when it stands, 2 with one sentence on stderr when it cannot be made."""
    return guarded(
        PROGRAM,
        lambda: _make(_parser().parse_args(arguments)),
        interrupted="what was written is no whole checkpoint",
        install="pip install '.[export]'",
    )


def _make(args: argparse.Namespace) -> int:
    from export.making.checkpoint import make_checkpoint  # it imports torch

    options = vars(args)
    print(f"random checkpoint written to {make_checkpoint(options.pop('output'), **options)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
