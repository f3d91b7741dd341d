"""The language model's operator on the host: what is launched, kept as a graph, and said where something fails."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from plugins.build import HERE

TESTS = Path(__file__).parent
OPTIONS = ("-std=c++17", "-O1", "-w", "-fno-strict-aliasing", "-U_FORTIFY_SOURCE", "-pthread")
SOURCES = ("launch.cpp", "graphs.cpp", "products.cpp")
pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is needed to compile the operator's host side")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The operator over functions that count, and beside it a library that stands for cuBLASLt."""
    folder = tmp_path_factory.mktemp("calls")
    sources = [str(TESTS / "drive_calls.cpp"), *(str(HERE / "language_model" / name) for name in SOURCES)]
    folders = [f"-I{TESTS}", f"-I{TESTS / 'no_cuda'}", f"-I{HERE}"]
    subprocess.run(["g++", *OPTIONS, *folders, *sources, "-ldl", "-o", str(folder / "drive")], check=True)
    library = [str(TESTS / "fake_cublaslt.cpp"), "-fPIC", "-shared", "-o", str(folder / "lt.so")]
    subprocess.run(["g++", "-std=c++17", *library], check=True)
    return folder / "drive"


def lines(program: Path, **more: str) -> list[str]:
    environment = os.environ | {"SPATIALLM_CUBLASLT": str(program.with_name("lt.so"))} | more
    return subprocess.run([program], check=True, capture_output=True, text=True, env=environment).stdout.splitlines()


def test_calls_are_launched_captured_and_replayed_and_errors_stay_with_their_call(program: Path) -> None:
    launched, replayed = "0 launched 1 captured 0 replayed 0 ", "0 launched 0 captured 0 replayed 1 "
    captured = "0 launched 0 captured 1 replayed 1 "
    assert lines(program) == [
        f"first: {launched}",
        f"second: {captured}",
        f"third: {replayed}",
        f"another: {launched}",
        "graphs of the last calls 8",
        f"forgotten: {launched}",
        "launch: 1 launched 1 captured 0 replayed 0 out of memory",
        f"then: {launched}",
        f"stream: {launched}",
        f"then: {launched}",
        f"begin: {launched}",
        f"then: {launched}",
        "instantiate: 0 launched 1 captured 1 replayed 0 ",
        f"then: {launched}",
        "replay: 1 launched 0 captured 1 replayed 1 out of memory",
        f"then: {launched}",
        "without memory: said 1 broken 0",
        "side by side: failed 0",
        "unfit: at most 256 query heads were expected, workspace 0",
        "unfit: an inner size of 8 to 262144, a multiple of 8, was expected, workspace 0",
        "unfit: query heads that are a multiple of key heads were expected, workspace 0",
        "left: graphs 0 executable 0 streams 0",
    ]


def test_a_cublaslt_that_is_named_is_taken_or_refused_by_name(program: Path, tmp_path: Path) -> None:
    absent = tmp_path / "absent.so"
    start = "products: 1 launched 1 captured 0 replayed 0 SPATIALLM_CUBLASLT names"
    for file, more in ((absent, {}), (program.with_name("lt.so"), {"FAKE_CUBLASLT_REFUSES": "1"})):
        (*_, said) = lines(program, SPATIALLM_CUBLASLT=str(file), **more)
        assert said == f"{start} {file}, which cannot be loaded or does not run with this driver"
