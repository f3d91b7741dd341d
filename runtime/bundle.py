"""A bundle on disk: the manifest, the graphs and their weights, the tokenizer. Opened once, checked on the way."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from runtime.arrays import Array
from runtime.errors import BundleError
from runtime.manifest import Manifest

INDEX_ENDING = ".index.json"  # beside each weight file: name -> dtype, shape, offset, bytes
BLOCK = 1 << 22


@dataclass(frozen=True, slots=True)
class Bundle:
    """A folder that `export_model.py` wrote."""

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: Path | str, *, verify: bool = True) -> Bundle:
        """Read the manifest and check every listed file: its size, and with `verify` its digest. Raises BundleError."""
        folder = Path(folder)
        bundle = cls(folder, Manifest.read(folder))
        for name in bundle.manifest.files:
            bundle._check(name, verify)
        return bundle

    def graph(self, name: str) -> Path:
        """The ONNX file of `encoder`, `prefill` or `decode`."""
        return self.folder / self.manifest.graphs[name]

    def weights(self, graph: str) -> dict[str, Array]:
        """The external initializers of a graph as views of one read-only memory map."""
        path = self.folder / self.manifest.weights[graph]
        try:
            index = json.loads(path.with_name(path.name + INDEX_ENDING).read_text(encoding="utf-8"))
            memory = np.memmap(path, np.uint8, mode="r")
            return {name: _view(memory, **record) for name, record in index.items()}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise BundleError(
                f"{path}: the weights do not fit their index ({error}). Export the bundle again."
            ) from error

    def _check(self, name: str, verify: bool) -> None:
        path, record = self.folder / name, self.manifest.files[name]
        if not path.is_file():
            raise BundleError(f"{path}: missing, but the manifest lists it. Copy the bundle again, or export it again.")
        if (size := path.stat().st_size) != record.bytes:
            raise BundleError(
                f"{path}: has {size:,} bytes, but the manifest says {record.bytes:,}. "
                f"The copy is incomplete or the file was altered; copy or export the bundle again."
            )
        if verify and (digest := file_digest(path)) != record.sha256:
            raise BundleError(
                f"{path}: its SHA-256 is {digest[:12]}..., but the manifest says {record.sha256[:12]}...: "
                f"the file was altered. Copy or export the bundle again."
            )


def file_digest(path: Path) -> str:
    """SHA-256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _view(memory: Array, *, dtype: str, shape: list[int], offset: int, bytes: int) -> Array:
    itemsize = 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize
    if not 0 <= offset <= offset + bytes <= memory.size or bytes != itemsize * int(np.prod(shape, dtype=np.int64)):
        raise ValueError(f"{bytes} bytes at {offset} for {dtype}{shape} in a file of {memory.size}")
    flat = memory[offset : offset + bytes]
    return flat.view("uint16" if dtype == "bfloat16" else dtype).reshape(shape)
