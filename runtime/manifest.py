"""The manifest: what export knows, written once, read once.

`export/` writes it, `runtime/` reads it and owns the definition. Letters in shapes:
B batch, N voxels of a stage, S prompt positions, P point tokens, T new positions, M cache capacity, L layers,
H query heads, K key/value heads, D head size, C hidden size, V vocabulary, s encoder stage.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.errors import BundleError
from runtime.files import read_small_text, replacing
from runtime.records import from_json

SCHEMA = 1
FILE_NAME = "manifest.json"
SIGNATURE = "sha256"  # key of the manifest's own digest, over all other keys


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSpec:
    """Sonata, as far as its sizes go. Sequences run over stages; `stride` has one entry less."""

    in_channels: int
    num_bins: int  # bins per axis; a grid coordinate is in 0 .. num_bins - 1
    order: tuple[str, ...]  # curves by slot, of: z, z-trans, hilbert, hilbert-trans
    stride: tuple[int, ...]
    depths: tuple[int, ...]
    channels: tuple[int, ...]
    heads: tuple[int, ...]
    patch_sizes: tuple[int, ...]
    mlp_ratio: int

    @property
    def grid_size(self) -> float:
        """Edge of an input voxel in metres: the world is 32 m wide."""
        return 32.0 / self.num_bins

    @property
    def stages(self) -> int:
        return len(self.depths)

    def slots(self, stage: int) -> tuple[int, ...]:
        """Order slots that the blocks of a stage use: block i reads slot i mod len(order)."""
        return tuple(range(min(self.depths[stage], len(self.order))))


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageModelSpec:
    """Qwen2 or Llama, as far as its sizes go."""

    family: str  # "qwen" or "llama"
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    rms_norm_eps: float
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    tie_word_embeddings: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeSpec:
    """A rotary table as data: angle[d] = value[axis[d]] * inv_freq[d], values = (position, x, y, z).

    Any split of the head over axes, any frequency layout and any scaling is two rows of D numbers.
    """

    axis: tuple[int, ...]  # [D], 0 = position, 1 = x, 2 = y, 3 = z
    inv_freq: tuple[float, ...]  # [D], exactly the float32 values the model was trained with
    scaling: float = 1.0  # multiplies cos and sin (1 for every published model)


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionSpec:
    """How positions enter attention. `points` is None with VLM_PE=None: point tokens then use `text`."""

    vlm_pe: str | None  # None or "3D_RoPE"
    merge_rule: str | None  # "3D_only", "3D_with_1D"; None with VLM_PE=None
    variant: str | None  # revision of the 3D encoding: "PE-A" or "PE-B"
    prefill_attention: str  # "causal" or "full"
    text: RopeSpec
    points: RopeSpec | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSpec:
    """What the prompt is built from. The chat template itself lies beside the manifest."""

    system_message: str | None
    point_start_token_id: int
    point_end_token_id: int
    point_token_id: int
    bos_token: str | None
    eos_token: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationSpec:
    """The checkpoint's own generation settings; None where it sets nothing."""

    stop_token_ids: tuple[int, ...]
    do_sample: bool | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    repetition_penalty: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSpec:
    """One cache tensor per layer for keys and one for values, its axes named by letters."""

    layout: str  # "MBKD": token-major, so every prefix is contiguous
    capacity: int  # M, rows per sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationSpec:
    """Weight-only quantization of the language model: weight = (code - zero point) * scale, a scale for each block."""

    bits: int  # of the layers' weights: 8 or 4
    block_size: int  # weights of a row that share a scale
    symmetric: bool  # no zero points are stored; the middle code is zero
    head: int | None  # bits of the head; None: float32
    embeddings: int | None  # bits of the embeddings; with a tied head and the same bits, one tensor serves both


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityRecord:
    """What the short check at the end of an export found: graphs against the torch modules of the checkpoint."""

    verdict: str  # "equal", "equal within precision", "different", "not checked"
    reason: str  # one sentence
    rung: str | None  # what was run, e.g. "onnxruntime cpu"; None where nothing was
    against: str | None  # e.g. "torch modules"
    scene: str | None  # e.g. "a built-in room of 3,402 voxels, 245 positions"
    versions: str | None  # of the libraries

    def sentence(self) -> str:
        """For people."""
        if self.rung is None:
            return f"{self.verdict}; {self.reason}"
        return f"{self.verdict}; {self.rung} against {self.against} on {self.scene}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """Size and digest of a file of the bundle."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Facts fixed at export time."""

    schema: int
    created_by: str  # program and version
    model: str  # checkpoint directory name or hub id
    precision: str  # "fp32", "fp16", "bf16": hidden states and cache
    serialization: str  # how slots get their curves: "identity" (the original draws them anew on each call)
    projector: str  # "linear" or "mlp"
    encoder_weights: str  # "as stored" or "rounded to bf16"
    encoder: EncoderSpec
    language_model: LanguageModelSpec
    position: PositionSpec
    prompt: PromptSpec
    generation: GenerationSpec
    cache: CacheSpec
    graphs: dict[str, str]  # graph -> file: encoder, prefill, decode
    weights: dict[str, str]  # graph -> external weight file; prefill and decode share one
    files: dict[str, FileRecord]
    dialect: str = "portable"  # "portable": standard operators; "onnxruntime": its own operators too
    quantization: QuantizationSpec | None = None
    parity: ParityRecord | None = None  # None: no check was recorded, as in bundles of earlier versions

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read and check `manifest.json` of a bundle. Raises BundleError."""
        path = folder / FILE_NAME
        facts = _read_json(path, folder)
        if facts.get("schema") != SCHEMA:
            raise BundleError(
                f"{path}: the bundle has schema {facts.get('schema')!r}, but this runtime reads {SCHEMA}. "
                f"Export again with this version: python export_model.py --model {facts.get('model')} --output {folder}"
            )
        signed = facts.pop(SIGNATURE, None)
        try:
            manifest: Manifest = from_json(cls, facts, "manifest")
        except (TypeError, ValueError, OverflowError) as error:
            raise BundleError(
                f"{path}: {error}. The file was altered or written by another version; export again."
            ) from error
        if signed != signature(facts):
            raise BundleError(
                f"{path}: it was altered, its digest is not the one that export wrote. Export the bundle again."
            )
        return manifest

    def write(self, folder: Path) -> None:
        """Write `manifest.json` into a folder, whole or not at all, with its own digest as the last key."""
        facts = dataclasses.asdict(self)
        text = json.dumps(facts | {SIGNATURE: signature(facts)}, indent=1)
        with replacing(folder / FILE_NAME) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")


def signature(facts: dict[str, Any]) -> str:
    """SHA-256 of the facts in one canonical spelling."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _read_json(path: Path, folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise BundleError(
            f"{folder}: no such bundle. Make one: python export_model.py --model CHECKPOINT --output {folder}"
        )
    try:
        facts = json.loads(read_small_text(path))
    except FileNotFoundError as error:
        raise BundleError(
            f"{folder}: not a bundle, it has no {FILE_NAME}. "
            f"Make one: python export_model.py --model CHECKPOINT --output {folder}"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path}: not readable as JSON ({error}). Export the bundle again.") from error
    if not isinstance(facts, dict):
        raise BundleError(f"{path}: holds {type(facts).__name__}, but an object was expected. Export the bundle again.")
    return facts
