"""Writing a bundle: graphs, weights, tokenizer, manifest; all of it or nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch

from export import VERSION
from export.checkpoint import Checkpoint
from export.graph.encoder import encoder_graph
from export.graph.language_model import decode_graph, prefill_graph
from export.graph.plan import PlannedWeight, encoder_plan, is_projector, language_model_plan
from export.graph.segments import SEGMENT_LAYERS
from export.graph.weights import WeightFile
from export.passes.common import refuse_left_out
from export.passes.gather_block_quantized import to_gather_block_quantized
from export.passes.matmul_nbits import to_matmul_nbits
from export.passes.taps import add_taps
from export.quantization.options import check_quantization
from export.quantization.storage import Scheme, store, stored_bytes
from export.replacing import replacing
from export.rope import position_spec
from export.tensorrt_graphs import Dialect, graph_names, tensorrt_graphs
from runtime.bundle import INDEX_ENDING, TAPS, file_digest
from runtime.errors import BundleError, CheckpointError, SceneError
from runtime.files import read_small_text
from runtime.manifest import (
    FILE_NAME,
    SCHEMA,
    CacheSpec,
    FileRecord,
    LanguageModelSpec,
    Manifest,
    PositionSpec,
    PromptSpec,
    QuantizationSpec,
)
from runtime.prompt import Tokenizer, merge_prompt, user_content

CREATOR = "spatiallm-export"
GRAPHS = {"encoder": "encoder.onnx", "prefill": "prefill.onnx", "decode": "decode.onnx"}
WEIGHTS = {"encoder": "encoder.weights", "prefill": "language_model.weights", "decode": "language_model.weights"}
TORCH_TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
ENGINES = "engines"  # where engines built from the bundle lie; they go with it
Progress = Callable[[int], None]  # called with the bytes just written


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """What the user chose."""

    precision: str = "fp32"
    prefill_attention: str = "causal"
    max_length: int = 8192
    quantization: QuantizationSpec | None = None
    taps: tuple[int, ...] = ()  # layers of the prefill graph that is written for comparisons; none: no such graph
    tensorrt_norm: str = "plain"  # how TensorRT's graphs write their norms; the portable ones stay as they are
    segment_layers: int = SEGMENT_LAYERS  # of the language model in one engine, where TensorRT builds segments


def write_bundle(
    checkpoint: Checkpoint, folder: Path, options: ExportOptions, progress: Progress | None = None
) -> Manifest:
    """Export a verified checkpoint into `folder`, which is replaced whole when all is written.

    Raises what `check_export` raises, and BundleError when the folder cannot be written.
    """
    position = check_export(checkpoint, folder, options)
    with replacing(folder, BundleError, "choose another --output") as partial:
        hashed = _write_graphs(checkpoint, partial, options, progress or (lambda _: None))
        prompt = _write_tokenizer(checkpoint, partial)
        files = {path.name: hashed.get(path.name) or _record(path) for path in sorted(partial.iterdir())}
        more = _more_graphs(options, checkpoint.config.language_model)
        manifest = Manifest(
            schema=SCHEMA,
            created_by=f"{CREATOR} {VERSION}",
            model=checkpoint.model,
            precision=options.precision,
            serialization="identity",
            projector=checkpoint.config.projector,
            encoder_weights="rounded to bf16" if checkpoint.round_encoder_to_bf16 else "as stored",
            encoder=checkpoint.config.encoder,
            language_model=checkpoint.config.language_model,
            position=position,
            prompt=prompt,
            generation=checkpoint.config.generation,
            cache=CacheSpec(layout="MBKD", capacity=options.max_length),
            graphs=GRAPHS | {name: f"{name}.onnx" for name in more},
            weights=WEIGHTS | dict.fromkeys(more, WEIGHTS["decode"]),
            files=files,
            dialect="portable" if options.quantization is None else "onnxruntime",
            quantization=options.quantization,
        )
        manifest.write(partial)
    return manifest


def check_export(checkpoint: Checkpoint, folder: Path, options: ExportOptions) -> PositionSpec:
    """All that can be refused before anything is written; gives the position encoding that was settled on the way.

    Raises CheckpointError for what cannot be exported, BundleError when the folder holds something that is no bundle,
    SceneError for a quantization that does not fit the model.
    """
    _refuse_foreign(folder)
    checkpoint.verify()
    if options.quantization is not None:
        check_quantization(options.quantization, checkpoint.config.language_model, options.precision)
    return position_spec(checkpoint.config, options.prefill_attention)


def bundle_bytes(checkpoint: Checkpoint, options: ExportOptions) -> int:
    """How many bytes of weights an export will write, for a progress bar."""
    config, width = checkpoint.config, TORCH_TYPES[options.precision].itemsize
    scheme = _scheme(checkpoint, options)

    def size(plan: Iterable[PlannedWeight], bytes_of: Callable[[str, torch.Size], int]) -> int:
        shapes = ((item.name, torch.Size(checkpoint.files.shape(name))) for item in plan for name in item.sources)
        return sum(bytes_of(name, shape) for name, shape in shapes)

    def language_model(name: str, shape: torch.Size) -> int:
        return width * shape.numel() if scheme is None else stored_bytes(name, shape, scheme)

    encoder = size(
        encoder_plan(config.encoder, config.projector),
        lambda name, shape: (width if is_projector(name) else 4) * shape.numel(),
    )
    return encoder + size(language_model_plan(config.language_model), language_model)


def _scheme(checkpoint: Checkpoint, options: ExportOptions) -> Scheme | None:
    if options.quantization is None:
        return None
    return Scheme(options.quantization, checkpoint.config.language_model.tie_word_embeddings)


def _write_graphs(
    checkpoint: Checkpoint, folder: Path, options: ExportOptions, progress: Progress
) -> dict[str, FileRecord]:
    """Write the graphs and their two weight files; returns the records of the files hashed on the way."""
    config, dtype = checkpoint.config, TORCH_TYPES[options.precision]
    plan = encoder_plan(config.encoder, config.projector)
    with _weight_file(folder / WEIGHTS["encoder"]) as body:
        _add_all(body, plan, checkpoint, lambda name: dtype if is_projector(name) else torch.float32, progress)
        hidden_size = config.language_model.hidden_size
        model = encoder_graph(config.encoder, body, options.precision, hidden_size, config.projector)
        _save(model, folder / GRAPHS["encoder"])
    scheme = _scheme(checkpoint, options)
    with _weight_file(folder / WEIGHTS["prefill"]) as weights:
        _add_all(weights, language_model_plan(config.language_model), checkpoint, lambda _: dtype, progress, scheme)
        prefill = prefill_graph(config.language_model, weights, options.precision, options.prefill_attention)
        decode = decode_graph(config.language_model, weights, options.precision)
        for name, graph in {"prefill": prefill, "decode": decode}.items():
            _save(_quantized(graph, weights, scheme), folder / GRAPHS[name])
        if options.taps:
            add_taps(prefill, config.language_model, options.taps)
            _save(prefill, folder / f"{TAPS}.onnx")
        if scheme is None:
            dialect = Dialect(
                precision=options.precision,
                prefill_attention=options.prefill_attention,
                norm=options.tensorrt_norm,
                segment_layers=options.segment_layers,
            )
            for name, graph in tensorrt_graphs(config.language_model, weights, dialect):
                _save(graph, folder / f"{name}.onnx")
    return {file.path.name: FileRecord(bytes=file.size, sha256=file.sha256) for file in (body, weights)}


def _more_graphs(options: ExportOptions, spec: LanguageModelSpec) -> tuple[str, ...]:
    """The language model in TensorRT's dialect, which has none of the operators of quantized bundles, and the taps."""
    choices = spec, options.precision, options.segment_layers
    for_tensorrt = graph_names(*choices) if options.quantization is None else ()
    return (*for_tensorrt, *([TAPS] if options.taps else []))


def _add_all(
    weights: WeightFile,
    plan: Iterable[PlannedWeight],
    checkpoint: Checkpoint,
    dtype: Callable[[str], torch.dtype],
    progress: Progress,
    scheme: Scheme | None = None,
) -> None:
    for item in plan:
        tensor = item.make(checkpoint.float_tensor).to(dtype(item.name))
        if not torch.isfinite(tensor).all():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise CheckpointError(
                f"{checkpoint.folder}: {', '.join(item.sources)} holds values that are no finite {kind} numbers. "
                f"The checkpoint is damaged, or needs a wider --precision."
            )
        if scheme is None:
            weights.add(item.name, tensor)
            progress(weights.records[item.name].bytes)
        else:
            store(weights, item.name, tensor, scheme)
            progress(stored_bytes(item.name, tensor.shape, scheme))


def _quantized(model: onnx.ModelProto, weights: WeightFile, scheme: Scheme | None) -> onnx.ModelProto:
    """The graph in ONNX Runtime's dialect, reading the quantized weights; without a scheme it stays as it is."""
    if scheme is not None:
        reports = [
            to_matmul_nbits(model, weights, scheme.product_bits),
            to_gather_block_quantized(model, weights, scheme.row_bits),
        ]
        refuse_left_out(model, reports)
    return model


@contextmanager
def _weight_file(path: Path) -> Iterator[WeightFile]:
    """A weight file with its index beside it."""
    weights = WeightFile(path)
    try:
        yield weights
    finally:
        weights.close()
    index = {
        name: {
            "dtype": str(record.dtype).removeprefix("torch."),
            "shape": list(record.shape),
            "offset": record.offset,
            "bytes": record.bytes,
        }
        for name, record in weights.records.items()
    }
    path.with_name(path.name + INDEX_ENDING).write_text(json.dumps(index, indent=0) + "\n", encoding="utf-8")


def _record(path: Path) -> FileRecord:
    return FileRecord(bytes=path.stat().st_size, sha256=file_digest(path))


def _save(model: onnx.ModelProto, path: Path) -> None:
    path.write_bytes(model.SerializeToString(deterministic=True))


def _write_tokenizer(checkpoint: Checkpoint, folder: Path) -> PromptSpec:
    files, config = checkpoint.tokenizer_files(), checkpoint.config
    shutil.copyfile(files.tokenizer_json, folder / "tokenizer.json")
    (folder / "chat_template.jinja").write_text(files.chat_template, encoding="utf-8")
    spec = PromptSpec(
        system_message=files.system_message,
        point_start_token_id=config.point_start_token_id,
        point_end_token_id=config.point_end_token_id,
        point_token_id=config.point_token_id,
        bos_token=files.bos_token,
        eos_token=files.eos_token,
    )
    _try_prompt(checkpoint, folder, spec)
    return spec


def _try_prompt(checkpoint: Checkpoint, folder: Path, spec: PromptSpec) -> None:
    """Make one prompt, so that a tokenizer or template that cannot is found now and not at the first scene."""
    try:
        merge_prompt(Tokenizer.load(folder, spec).encode_prompt(user_content()), 1, spec)
    except SceneError as error:
        reason = str(error).replace(str(folder), str(checkpoint.folder)).split(". ")[0]
        raise CheckpointError(
            f"{checkpoint.folder}: its tokenizer or chat template makes no usable prompt ({reason}). "
            f"Check that tokenizer, template and config.json belong together."
        ) from error


def _refuse_foreign(folder: Path) -> None:
    """Only an empty folder, or a bundle with nothing beside its files, is replaced: what is replaced is deleted."""
    if folder.exists() and not folder.is_dir():
        raise BundleError(f"{folder}: is a file, but the bundle is a folder. Choose another --output.")
    if not folder.is_dir():
        return
    try:
        names = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise BundleError(f"{folder}: cannot be looked into ({error.strerror}). Choose another --output.") from error
    if foreign := sorted(names - _bundle_files(folder)):
        raise BundleError(
            f"{folder}: exists and holds {foreign[0]!r}, which is no part of a bundle, so it is not replaced. "
            f"Choose another --output, or move that away."
        )


def _bundle_files(folder: Path) -> set[str]:
    """Names that a bundle's manifest accounts for, whatever its version; none where there is no such manifest."""
    try:
        facts = json.loads(read_small_text(folder / FILE_NAME))
    except (OSError, ValueError):
        return set()
    if not (isinstance(facts, dict) and str(facts.get("created_by")).startswith(CREATOR) and "graphs" in facts):
        return set()
    files = facts.get("files")
    return {FILE_NAME, ENGINES, *files} if isinstance(files, dict) else set()
