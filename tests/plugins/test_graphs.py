"""Calls of the language model's operator as CUDA graphs, over a CUDA that only writes down what it is asked for."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.plugins.small import HERE

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is needed to compile the host code")
KEPT = 8


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Any:
    built, plugins = tmp_path_factory.mktemp("graphs") / "graphs.so", HERE.parents[1] / "plugins"
    sources = [str(HERE / "run_graphs.cpp"), str(plugins / "language_model" / "graphs.cpp")]
    # Its own CUDA, also where PyTorch has laid the true one open to all libraries of the process.
    options = ["-std=c++17", "-fPIC", "-shared", "-Wl,-Bsymbolic", f"-I{HERE / 'no_cuda'}", f"-I{plugins}"]
    subprocess.run(["g++", *options, *sources, "-o", str(built)], check=True)
    loaded = ctypes.CDLL(str(built))
    loaded.create.restype = ctypes.c_void_p
    loaded.call.restype = ctypes.c_char_p
    loaded.destroy.argtypes = [ctypes.c_void_p]
    loaded.call.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_long]
    loaded.set.argtypes = [ctypes.c_bool, ctypes.c_bool]
    return loaded


class Calls:
    def __init__(self, library: Any) -> None:
        self.library, self.graphs = library, library.create()

    def __call__(self, rows: int, logits: int = 1) -> str:
        """What reached the GPU."""
        return str(self.library.call(self.graphs, rows, logits).decode().strip())


@pytest.fixture
def calls(library: Any) -> Iterator[Calls]:
    made = Calls(library)
    yield made
    library.set(False, False)
    library.destroy(made.graphs)
    assert library.living() == 0, "graphs and the stream are given back"


def test_the_first_is_launched_the_second_captured_later_ones_replayed(calls: Calls) -> None:
    assert [calls(7) for _ in range(4)] == ["7@1", "graph(7@1)", "graph(7@1)", "graph(7@1)"]


def test_other_shapes_and_addresses_are_other_calls(calls: Calls) -> None:
    assert [calls(7), calls(8), calls(7, 2)] == ["7@1", "8@1", "7@2"]
    assert [calls(7, 2), calls(8), calls(7)] == ["graph(7@2)", "graph(8@1)", "graph(7@1)"]


def test_those_not_used_for_long_are_forgotten(calls: Calls) -> None:
    assert [calls(1), calls(1)] == ["1@1", "graph(1@1)"]
    for rows in range(2, 2 + KEPT):
        calls(rows)
    assert calls(1) == "1@1", "a new call again"
    assert calls(1 + KEPT) == f"graph({1 + KEPT}@1)"


def test_a_stream_that_is_captured_takes_the_launches_themselves(calls: Calls, library: Any) -> None:
    calls(7), calls(7)
    library.set(True, False)
    assert calls(7) == "7@1"
    library.set(False, False)
    assert calls(7) == "graph(7@1)"


def test_what_cannot_be_captured_is_launched(calls: Calls, library: Any) -> None:
    calls(7)
    library.set(False, True)
    assert calls(7) == "7@1"
    library.set(False, False)
    assert calls(7) == "7@1", "it is not tried again"
