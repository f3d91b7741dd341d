"""Layouts by PyTorch, where everyone else uses compiled graphs: one of the engines of the paired score.

python -m demo.torch_layouts --bundle bundle --model demo/checkpoint --rooms rooms --output layouts/torch

The clean modules in float32 on the CPU, behind the same points, prompt and layout code as any engine. Rooms whose
layout is there already are left out, so an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from export.checkpoint import open_checkpoint
from export.parity.modules_rung import torch_pipeline
from runtime.bundle import Bundle
from runtime.commands.options import THREADS_PER_CORE, make_folder
from runtime.door import guarded
from runtime.errors import SceneError
from runtime.layout import Layout, write_layout
from runtime.pipeline import Pipeline
from runtime.scene import Request


def parser() -> argparse.ArgumentParser:
    """All options."""
    p = argparse.ArgumentParser(
        prog="python -m demo.torch_layouts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--bundle", type=Path, required=True, help="its tokenizer, prompts and positions")
    p.add_argument("--model", required=True, help="the checkpoint that the bundle was exported from")
    p.add_argument("--rooms", type=Path, required=True, help="folder of <room>.ply, as of python -m demo.rooms")
    p.add_argument("--output", type=Path, required=True, help="folder for <room>.txt")
    p.add_argument("--max_new_tokens", type=int, default=700, help="longest answer (default: 700)")
    p.add_argument("--threads", type=int, help="cores to use (default: all)")
    p.add_argument("--quiet", action="store_true", help="no bar")
    return p


def _check(args: argparse.Namespace) -> None:
    if args.max_new_tokens < 1:
        raise SceneError(f"--max_new_tokens is {args.max_new_tokens}, but at least 1 is needed.")
    most = THREADS_PER_CORE * (os.cpu_count() or 1)
    if args.threads is not None and not 1 <= args.threads <= most:
        raise SceneError(f"--threads is {args.threads}, but 1 to {most} were expected.")


def _open(args: argparse.Namespace) -> Pipeline:
    bundle = Bundle.open(args.bundle)
    rounded = bundle.manifest.encoder_weights == "rounded to bf16"
    checkpoint = open_checkpoint(args.model, round_encoder_to_bf16=rounded)
    checkpoint.verify()
    return torch_pipeline(bundle, checkpoint)


def _run(args: argparse.Namespace) -> int:
    _check(args)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    if not (rooms := sorted(args.rooms.glob("*.ply"))):
        raise SceneError(f"{args.rooms}: holds no <room>.ply. Make rooms: python -m demo.rooms --output {args.rooms}")
    pipeline = _open(args)
    make_folder(args.output)
    request = Request(max_new_tokens=args.max_new_tokens)
    for room in tqdm(rooms, desc="Rooms", disable=args.quiet):
        target = args.output / f"{room.stem}.txt"
        if not target.is_file():
            layout = pipeline(room, request).layout
            write_layout(layout, target)
            _mark(target, layout)
    return 0


def _mark(target: Path, layout: Layout) -> None:
    """Say where an empty file is no empty room. It is written all the same, as by the engines it is compared with."""
    if layout.issues and not any(layout.entities()):
        count, first = len(layout.issues), layout.issues[0].text
        tqdm.write(f"{target}: empty, as none of the {count} lines that were said can be used ({first!a}).", sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """0; 2 with one sentence on stderr."""
    return guarded(
        "python -m demo.torch_layouts",
        lambda: _run(parser().parse_args(arguments)),
        interrupted="what is written stays, and the same command goes on",
        install="pip install '.[onnxruntime,export]'",
    )


if __name__ == "__main__":
    sys.exit(main())
