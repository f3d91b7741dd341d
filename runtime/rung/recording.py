"""The recording of a rung: arrays by name and the facts of where they come from, in one .npz."""

from __future__ import annotations

import json
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtime.arrays import Array
from runtime.errors import SceneError
from runtime.recording import save_npz

SCHEMA = 1
FACTS = "facts"  # the entry that holds JSON
LARGEST = 1 << 34  # bytes of one array; rows of Llama-1B over 8,192 positions are an eighth of that
ENCRYPTED = 1  # bit of a member's flags
AXES = {  # letters that stand in several names are of one size
    **dict.fromkeys(("tables.cos_3d", "tables.sin_3d", "tables.cos_1d", "tables.sin_1d"), ("S", "D")),
    "point_tokens": ("P", "C"),  # after the projector
    "prefill.logits": ("V",),  # after the last position
    "prefill.rows": ("S", "2L", "K", "D"),  # keys of all layers, then values
    "forced.ids": ("N",),  # int32, fed whatever the logits say
    "forced.logits": ("N", "V"),  # after each
    "forced.rows": ("N", "2L", "K", "D"),
    "free.tokens": ("n",),  # int32, greedy
    "free.margins": ("n",),  # the largest logit less the second
}
DAMAGED = (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, EOFError,
           zipfile.BadZipFile, zlib.error)  # what reading such a file ends with  # fmt: skip
INTEGERS = ("forced.ids", "free.tokens")
TEXTS = ("rung", "precision", "scene", "scene_sha256")  # facts that every comparison needs
PRECISIONS = ("fp32", "fp16", "bf16")
NAMES = tuple(AXES)


@dataclass(frozen=True, slots=True)
class Recording:
    """What one implementation made of one scene. Arrays are float32 unless said in AXES."""

    facts: dict[str, Any]
    arrays: dict[str, Array]

    @property
    def name(self) -> str:
        return str(self.facts["rung"])

    def save(self, path: Path) -> None:
        """Write an .npz, whole or not at all. Raises SceneError."""
        facts = np.frombuffer(json.dumps({"schema": SCHEMA, **self.facts}).encode(), np.uint8)
        save_npz(path, {FACTS: facts, **self.arrays}, "--output")

    @classmethod
    def load(cls, path: Path) -> Recording:
        """Read what `save` wrote; sizes are checked before anything is read. Raises SceneError."""
        try:
            _check_sizes(path)
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)
            facts = json.loads(arrays.pop(FACTS).tobytes())
            if facts.pop("schema") != SCHEMA or missing_names(arrays):
                raise ValueError(f"it lacks {', '.join(missing_names(arrays)) or 'the right schema'}")
            _check_arrays(arrays)
            _check_facts(facts)
        except MemoryError as error:
            raise SceneError(
                f"{path}: there is not enough memory to read it ({error}). Free some, or record fewer --forced_steps."
            ) from error
        except DAMAGED as error:
            raise SceneError(
                f"{path}: not a recording of a rung ({error}). Make one: python -m runtime.record --bundle BUNDLE "
                f"--point_cloud scene.ply --output {path}"
            ) from error
        return cls(facts, arrays)


def missing_names(arrays: dict[str, Array]) -> list[str]:
    """Names that a recording has and these arrays lack."""
    return [name for name in NAMES if name not in arrays]


def _check_sizes(path: Path) -> None:
    if not path.is_file() and path.exists():  # opening a pipe would wait for its other end
        raise ValueError("it is no ordinary file")
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.file_size > LARGEST:
                raise ValueError(f"{member.filename} has {member.file_size:,} bytes")
            if member.flag_bits & ENCRYPTED or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{member.filename} is encrypted or packed in an unknown way")


def _check_arrays(arrays: dict[str, Array]) -> None:
    sizes: dict[str, int] = {}
    for name, axes in AXES.items():
        array, dtype = arrays[name], "int32" if name in INTEGERS else "float32"
        if array.dtype != dtype or array.ndim != len(axes):
            raise ValueError(f"{name} is {array.dtype}{list(array.shape)}, but {dtype}[{', '.join(axes)}] was expected")
        for axis, size in zip(axes, array.shape, strict=True):
            if sizes.setdefault(axis, size) != size:
                raise ValueError(f"{name} has {axis} = {size}, but another array has {sizes[axis]}")
        if name in INTEGERS and array.min(initial=0) < 0:
            raise ValueError(f"{name} holds {array.min()}, but ids of tokens begin at 0")
    if sizes["2L"] % 2 or not all(sizes[axis] for axis in ("S", "V", "2L", "n")):
        raise ValueError("some of its arrays are empty, or it has keys without values")


def _check_facts(facts: dict[str, Any]) -> None:
    if wrong := [name for name in TEXTS if not isinstance(facts.get(name), str)]:
        raise ValueError(f"its facts have no {wrong[0]}")
    if not (facts["rung"] and facts["rung"].isprintable()):
        raise ValueError(f"its rung is named {facts['rung']!r:.40}, but printable characters were expected")
    digests = facts.get("digests")
    if digests is not None and not (isinstance(digests, dict) and all(isinstance(d, str) for d in digests.values())):
        raise ValueError("its digests are not a text for each graph")
    if facts["precision"] not in PRECISIONS or facts.get("quantization") not in (None, 4, 8):
        raise ValueError(f"its precision is {facts['precision']!r}, quantization {facts.get('quantization')!r}")
