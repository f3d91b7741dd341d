"""A bundle on disk: the manifest, the graphs and their weights, the tokenizer. Opened once, checked on the way."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from runtime.arrays import Array
from runtime.errors import BundleError
from runtime.manifest import FILE_NAME, Manifest

INDEX_ENDING = ".index.json"  # beside each weight file: name -> dtype, shape, offset, bytes
BLOCK = 1 << 22
GRAPHS = ("encoder", "prefill", "decode")
LAYOUT = "MBKD"  # of the cache; see `CacheSpec`
PAST, ROWS = "past", "rows"  # the cache of graphs that hold all layers in one tensor [M, B, 2L*K, D], keys first
WEIGHTS = "weights"  # input [N] of graphs that are a plugin: the weight file as it is, in the model's half precision
KEYS, VALUES = "keys", "values"  # the two parts of `rows` that a graph of some layers gives
TAPS = "prefill.taps"  # prefill with queries, keys and tables as outputs, in bundles that were exported with --taps
DIALECTS = ("portable", "onnxruntime")
MAX_CAPACITY = 1 << 20  # positions; eight times the longest context of a published model


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
        for fault in _faults(bundle.manifest):
            raise BundleError(f"{folder / FILE_NAME}: {fault}. The file was altered; export the bundle again.")
        for name in bundle.manifest.files:
            bundle._check_size(name)
        if verify:
            bundle.verify()
        return bundle

    def verify(self, *, graphs: bool = True) -> None:
        """Compare every file's digest with the manifest; without `graphs`, not those of graphs and weights.

        Raises BundleError.
        """
        large = {*self.manifest.graphs.values(), *self.manifest.weights.values()}
        for name, record in self.manifest.files.items():
            if (graphs or name not in large) and (digest := file_digest(self.folder / name)) != record.sha256:
                raise BundleError(
                    f"{self.folder / name}: its SHA-256 is {digest[:12]}..., but the manifest says "
                    f"{record.sha256[:12]}...: the file was altered. Copy or export the bundle again."
                )

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
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise BundleError(
                f"{path}: the weights do not fit their index ({error}). Export the bundle again."
            ) from error

    def _check_size(self, name: str) -> None:
        path, record = self.folder / name, self.manifest.files[name]
        if not path.is_file():
            raise BundleError(f"{path}: missing, but the manifest lists it. Copy the bundle again, or export it again.")
        if (size := path.stat().st_size) != record.bytes:
            raise BundleError(
                f"{path}: has {size:,} bytes, but the manifest says {record.bytes:,}. "
                f"The copy is incomplete or the file was altered; copy or export the bundle again."
            )


def file_digest(path: Path) -> str:
    """SHA-256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _faults(manifest: Manifest) -> Iterator[str]:
    """What this runtime cannot work with, although the manifest's form is right."""
    for kind, files in (("graphs", manifest.graphs), ("weights", manifest.weights)):
        if missing := [graph for graph in GRAPHS if graph not in files]:
            yield f"{kind} names no file for {', '.join(missing)}"
        for name in sorted(files.values() - manifest.files.keys()):
            yield f"{kind} names {name!r}, which is not among its files"
    for name in manifest.files:
        if Path(name).name != name:
            yield f"files lists {name!r}, but a file of a bundle lies right in its folder"
    if manifest.dialect not in DIALECTS:
        yield f"the dialect is {manifest.dialect!r}, but this runtime knows {' and '.join(DIALECTS)}"
    if manifest.cache.layout != LAYOUT:
        yield f"the cache layout is {manifest.cache.layout!r}, but this runtime writes {LAYOUT}"
    if not 1 <= manifest.cache.capacity <= MAX_CAPACITY:
        yield f"the cache capacity is {manifest.cache.capacity}, but 1 to {MAX_CAPACITY} positions were expected"


def _view(memory: Array, *, dtype: str, shape: list[int], offset: int, bytes: int) -> Array:
    itemsize = 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize
    inside = 0 <= offset <= offset + bytes <= memory.size and offset % itemsize == 0
    if not inside or min(shape, default=0) < 0 or bytes != itemsize * math.prod(shape):
        raise ValueError(f"{bytes} bytes at {offset} for {dtype}{shape} in a file of {memory.size}")
    flat = memory[offset : offset + bytes]
    return flat.view("uint16" if dtype == "bfloat16" else dtype).reshape(shape)
