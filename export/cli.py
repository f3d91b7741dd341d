"""The command line of `export_model.py`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from export.engines.after_export import add_engines, check_engine, check_engine_options
from export.engines.arguments import add_common
from export.graph.segments import SEGMENT_LAYERS
from export.parity.at_export import check_parity
from export.quantization.options import BITS, BLOCK_SIZES, DEFAULT_BLOCK_SIZE, DEFAULT_HEAD, KEPT, quantization_spec
from runtime.bundle import MAX_CAPACITY
from runtime.door import guarded
from runtime.engines.record import ENGINES
from runtime.errors import SceneError
from runtime.manifest import QuantizationSpec

EPILOG = """\
examples:
  python export_model.py --model CHECKPOINT --output bundle
  python export_model.py --model CHECKPOINT --output bundle --VLM_PE 3D_RoPE --PCD_PE_Merge_Rule 3D_only
  python export_model.py --model manycore-research/SpatialLM1.1-Qwen-0.5B --revision main --output bundle
  python export_model.py --model CHECKPOINT --output bundle --precision fp16 --engine tensorrt

then:
  python run_engine.py --bundle bundle --point_cloud scene.ply --output scene.txt
"""


def parser() -> argparse.ArgumentParser:
    """All options of the export."""
    p = argparse.ArgumentParser(
        prog="export_model.py",
        description="Export a SpatialLM checkpoint: encoder, prefill and decode graphs (ONNX), weights, tokenizer.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("-m", "--model", required=True, help="checkpoint directory or Hugging Face hub id")
    p.add_argument("-o", "--output", required=True, type=Path, help="bundle folder to write; one there is replaced")
    p.add_argument("--revision", help="branch, tag or commit of a hub id")
    p.add_argument("--VLM_PE", metavar="{None,3D_RoPE}", help="position encoding of the point tokens (default: config)")
    p.add_argument(
        "--PCD_PE_Merge_Rule",
        choices=["3D_only", "3D_with_1D"],
        help="how the head is split between x, y, z and the 1D position (default: config, else 3D_only)",
    )
    p.add_argument(
        "--pe_variant",
        default="PE-A",
        choices=["PE-A", "PE-B"],
        help="revision of the 3D encoding: frequency layout, bases and split (default: PE-A)",
    )
    p.add_argument("--pcd_theta", type=float, help="base of x, y, z frequencies in PE-B (default: config, else 10000)")
    p.add_argument(
        "--prefill_attention",
        default="causal",
        choices=["causal", "full"],
        help="full: every prompt token sees every other, as the 3D modes really ran in the reference (default: causal)",
    )
    _add_precision(p)
    p.add_argument("--max_length", type=int, default=8192, help="cache capacity in positions (default: 8192)")
    p.add_argument(
        "--encoder_bf16_rounding",
        action="store_true",
        help="round the encoder's weights through bfloat16, as upstream's default loading does",
    )
    p.add_argument(
        "--taps",
        metavar="{all,L,L,...}",
        help="write prefill.taps.onnx too: queries, keys and tables inside the layers named, for comparisons",
    )
    p.add_argument(
        "--tensorrt_norm", default="plain", choices=["plain", "scaled"], help=argparse.SUPPRESS
    )  # benchmarks
    p.add_argument("--tensorrt_segment_layers", type=int, default=SEGMENT_LAYERS, help=argparse.SUPPRESS)  # tests
    p.add_argument(
        "--no_parity",
        action="store_true",
        help="leave out the short comparison of the graphs with the checkpoint's torch modules at the end",
    )
    p.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    p.add_argument("--json", action="store_true", help="print a machine-readable summary on stdout")
    engines = p.add_argument_group("engines", "for this machine's GPU; python -m export.build has more options")
    engines.add_argument("--engine", choices=["tensorrt"], help="build engines of the bundle too (default: none)")
    add_common(engines)
    return p


def _add_precision(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--precision",
        default="fp32",
        choices=["fp32", "fp16", "bf16"],
        help="hidden states, weights and cache of the language model; norms, softmax and rotation stay in float32, "
        "as does the encoder (default: fp32)",
    )
    p.add_argument(
        "--quantization",
        choices=sorted(BITS),
        help="weights of the language model's layers as small integers, for ONNX Runtime on the CPU (default: none)",
    )
    p.add_argument(
        "--block_size",
        type=int,
        default=DEFAULT_BLOCK_SIZE,
        help=f"weights that share a scale, one of {', '.join(map(str, BLOCK_SIZES))} (default: {DEFAULT_BLOCK_SIZE})",
    )
    p.add_argument(
        "--quantize_head",
        choices=[*sorted(BITS), KEPT],
        help=f"the head of a quantized bundle (default: {DEFAULT_HEAD})",
    )
    p.add_argument(
        "--quantize_embeddings",
        choices=[*sorted(BITS), KEPT],
        help="the embeddings of a quantized bundle; tied ones share a tensor with a head of the same type "
        "(default: as the head)",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the export: 0 when the bundle stands, 1 when it does and computes something else than the checkpoint, 2 with
    one sentence on stderr when it cannot."""
    return guarded(
        "export_model.py",
        lambda: _export(parser().parse_args(arguments)),
        interrupted="nothing was written",
        install="pip install '.[export]'",
    )


def _export(args: argparse.Namespace) -> int:
    started = time.perf_counter()
    _check(args)
    # torch and onnx take seconds to import: --help and a mistyped option should not wait for them
    from export.bundle import ExportOptions, bundle_bytes, check_export, write_bundle
    from export.checkpoint import UNSET, open_checkpoint
    from export.checkpoint.overrides import overridden_encoding
    from export.passes.taps import named_layers

    checkpoint = open_checkpoint(
        args.model,
        revision=args.revision,
        vlm_pe=UNSET if args.VLM_PE is None else args.VLM_PE,
        merge_rule=args.PCD_PE_Merge_Rule,
        variant=args.pe_variant,
        pcd_theta=args.pcd_theta,
        round_encoder_to_bf16=args.encoder_bf16_rounding,
    )
    silent = args.quiet or args.json
    if not silent:
        print("\n".join(checkpoint.notes))
    options = ExportOptions(
        precision=args.precision,
        prefill_attention=args.prefill_attention,
        max_length=args.max_length,
        quantization=_quantization(args),
        tensorrt_norm=args.tensorrt_norm,
        segment_layers=args.tensorrt_segment_layers,
        taps=() if args.taps is None else named_layers(args.taps, checkpoint.config.language_model.layers),
    )
    check_export(checkpoint, args.output, options)
    if args.engine is not None:  # a missing library is told before the minutes of an export, not after
        check_engine(args)
    if not args.quiet and (sentence := overridden_encoding(checkpoint.folder, checkpoint.config)):
        print(f"note: {sentence}", file=sys.stderr)
    had_engines = (args.output / ENGINES).is_dir()
    total = bundle_bytes(checkpoint, options)
    with tqdm(total=total, unit="B", unit_scale=True, desc="Writing weights", disable=silent) as bar:
        manifest = write_bundle(checkpoint, args.output, options, bar.update)
    if had_engines and not args.quiet:
        print(f"note: the engines in {args.output} were of the former bundle and went with it.", file=sys.stderr)
    seconds = time.perf_counter() - started
    size = sum(record.bytes for record in manifest.files.values())
    facts = {"bundle": str(args.output), "bytes": size, "seconds": round(seconds, 3), "notes": checkpoint.notes}
    if not silent:
        print(f"Bundle {args.output}: {size / 1e6:,.1f} MB in {seconds:.1f} s.")
    if not args.no_parity and (code := check_parity(args, checkpoint, facts)):
        return code
    if args.engine is not None:
        return add_engines(args, facts)
    if args.json:
        print(json.dumps(facts))
    elif not args.quiet:
        print(f"Next: python run_engine.py --bundle {args.output} --point_cloud scene.ply --output scene.txt")
    return 0


def _quantization(args: argparse.Namespace) -> QuantizationSpec | None:
    if args.quantization is None:
        return None
    return quantization_spec(args.quantization, args.block_size, args.quantize_head, args.quantize_embeddings)


def _check(args: argparse.Namespace) -> None:
    if not args.output.name:
        raise SceneError("--output names the folder one stands in, which is not replaced. Name one for the bundle.")
    if not 1 <= args.max_length <= MAX_CAPACITY:
        raise SceneError(f"--max_length is {args.max_length}, but the cache can have 1 to {MAX_CAPACITY} positions.")
    if args.tensorrt_segment_layers < 1:
        raise SceneError(f"--tensorrt_segment_layers is {args.tensorrt_segment_layers}, but at least 1 is needed.")
    check_engine_options(args)
    parts = {"--quantize_head": args.quantize_head, "--quantize_embeddings": args.quantize_embeddings}
    if args.quantization is None and (given := [name for name, value in parts.items() if value is not None]):
        raise SceneError(f"{given[0]} says how to quantize, but not that: add --quantization int8 or int4.")
