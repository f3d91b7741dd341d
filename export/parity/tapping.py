"""Taps of a bundle that was exported without: its prefill graph is rewritten in a folder of its own."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnx

from export.passes.taps import add_taps
from runtime.bundle import TAPS, Bundle
from runtime.errors import SceneError


@contextmanager
def with_taps(bundle: Bundle, layers: Sequence[int]) -> Iterator[Bundle]:
    """The bundle with a graph that taps these layers, whatever taps it was exported with; nothing in it is changed.

    Raises SceneError where there is no room for the graph: some megabytes, and a copy of the weights where the
    temporary folder lies on another disk than the bundle.
    """
    try:
        folder = tempfile.mkdtemp(prefix="taps-")
    except OSError as error:
        raise _no_room(error) from error
    try:
        yield _tapped(bundle, layers, Path(folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _tapped(bundle: Bundle, layers: Sequence[int], folder: Path) -> Bundle:
    manifest = bundle.manifest
    model = onnx.load(bundle.graph("prefill"), load_external_data=False)
    add_taps(model, manifest.language_model, layers)
    path, weights = folder / manifest.graphs["prefill"], manifest.weights["prefill"]
    try:
        path.write_bytes(model.SerializeToString(deterministic=True))
        _bring(bundle.folder / weights, folder / weights)
    except OSError as error:
        raise _no_room(error) from error
    graphs = manifest.graphs | {TAPS: str(path)}
    return Bundle(
        bundle.folder, dataclasses.replace(manifest, graphs=graphs, weights=manifest.weights | {TAPS: weights})
    )


def _bring(source: Path, target: Path) -> None:
    """A hard link where that can be; ONNX Runtime refuses a symbolic one that leads out of the graph's folder."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def _no_room(error: OSError) -> SceneError:
    return SceneError(
        f"The graph with taps cannot be written to {tempfile.gettempdir()} ({error.strerror}). "
        f"Set TMPDIR to a folder on the bundle's disk."
    )
