"""`--inspect BUNDLE`: what is in a bundle. No engine library is needed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from runtime.bundle import Bundle
from runtime.engines.record import ENGINES, EngineRecord
from runtime.errors import EngineError
from runtime.manifest import Manifest, QuantizationSpec


def inspect_bundle(folder: Path, *, as_json: bool, verify: bool) -> int:
    """Print the manifest's facts, for people or as JSON. Returns 0. Raises BundleError."""
    manifest = Bundle.open(folder, verify=verify).manifest
    engines = _engines(folder)
    if as_json:
        print(json.dumps({**dataclasses.asdict(manifest), "engines": {name: _json(read) for name, read in engines}}))
        return 0
    width = max(len(name) for name, _ in facts(manifest))
    print(f"{folder}: a bundle of {manifest.created_by}, {'all digests right' if verify else 'sizes right'}")
    for name, value in facts(manifest):
        print(f"  {name:<{width}}  {value}")
    for name, read in engines:
        said = f"cannot be used: {read}" if isinstance(read, EngineError) else engine_facts(read)
        print(f"  {'engines':<{width}}  {name}: {said}")
    return 0


def _engines(folder: Path) -> list[tuple[str, EngineRecord | EngineError]]:
    """The records of all engines of a bundle, or why one cannot be read."""
    root = folder / ENGINES
    found = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    return [(path.name, _read(path)) for path in found if not path.name.startswith(".")]


def _read(folder: Path) -> EngineRecord | EngineError:
    try:
        return EngineRecord.read(folder)
    except EngineError as error:  # the bundle and its other engines are worth a look all the same
        return error


def _json(read: EngineRecord | EngineError) -> dict[str, Any]:
    return {"error": str(read)} if isinstance(read, EngineError) else dataclasses.asdict(read)


def engine_facts(record: EngineRecord) -> str:
    """Where engines run and what they take, in words."""
    size = sum(plan.bytes for plan in record.plans.values())
    profiles = [profile for plan in record.plans.values() for profile in plan.profiles.values()]
    largest = {letter: sizes[-1] for profile in profiles for letter, sizes in profile.items()}
    takes = [("B", "scenes at a time"), ("N0", "voxels"), ("P", "point tokens"), ("M", "positions")]
    sizes = ", ".join(f"{largest[letter]} {what}" for letter, what in takes if letter in largest)
    plans = f"{', '.join(record.plans)} ({record.language_model}) in {size / 1e6:,.1f} MB"
    return f"{record.gpu}, TensorRT {record.tensorrt}, {plans}; at most {sizes}"


def facts(manifest: Manifest) -> list[tuple[str, str]]:
    """What people ask first, in words."""
    lm, encoder, position = manifest.language_model, manifest.encoder, manifest.position
    size = sum(record.bytes for record in manifest.files.values())
    penalty = manifest.generation.repetition_penalty
    bins = f"{encoder.num_bins} bins of {encoder.grid_size * 100:g} cm"
    depths, channels = (", ".join(map(str, numbers)) for numbers in (encoder.depths, encoder.channels))
    heads = f"{lm.heads} heads on {lm.kv_heads} of {lm.head_dim}"
    encoding = f"{position.vlm_pe}, {position.merge_rule} ({position.variant})" if position.vlm_pe else "None"
    return [
        ("model", manifest.model),
        ("language model", f"{lm.family}, {lm.layers} layers of {lm.hidden_size}, {heads}, vocabulary {lm.vocab_size}"),
        ("encoder", f"Sonata, blocks {depths}, channels {channels}, {bins}"),
        ("encoder weights", manifest.encoder_weights),
        ("projector", manifest.projector),
        ("VLM_PE", encoding),
        ("prefill attention", position.prefill_attention),
        ("precision", manifest.precision),
        ("quantization", _quantization(manifest.quantization)),
        ("runs on", "every back end" if manifest.dialect == "portable" else f"{manifest.dialect} only"),
        ("cache", f"{manifest.cache.capacity} positions, layout {manifest.cache.layout}"),
        ("stop tokens", ", ".join(map(str, manifest.generation.stop_token_ids))),
        ("repetition penalty", "none" if penalty is None else f"{penalty:g}"),
        ("serialization", manifest.serialization),
        ("parity", "not recorded" if manifest.parity is None else manifest.parity.sentence()),
        ("graphs", ", ".join(manifest.graphs.values())),
        ("size", f"{size / 1e6:,.1f} MB in {len(manifest.files)} files"),
    ]


def _quantization(spec: QuantizationSpec | None) -> str:
    if spec is None:
        return "none"
    head, embeddings = (f"int{bits}" if bits else "float32" for bits in (spec.head, spec.embeddings))
    return f"int{spec.bits}, blocks of {spec.block_size}, head {head}, embeddings {embeddings}"
