"""The language model's operator on the host: what is launched, kept as a graph, and said where something fails."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from plugins.build import HERE

TESTS = Path(__file__).parent
OPTIONS = ("-std=c++17", "-O1", "-w", "-fno-strict-aliasing", "-U_FORTIFY_SOURCE", "-pthread")
SOURCES = ("launch.cpp", "graphs.cpp", "products.cpp")
pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is needed to compile the operator's host side")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("calls"), "800,900")


def compiled(folder: Path, architectures: str) -> Path:
    """The operator over functions that count, and beside it a library that stands for cuBLASLt."""
    sources = [str(TESTS / "drive_calls.cpp"), *(str(HERE / "language_model" / name) for name in SOURCES)]
    folders = [f"-D__CUDA_ARCH_LIST__={architectures}", f"-I{TESTS}", f"-I{TESTS / 'no_cuda'}", f"-I{HERE}"]
    subprocess.run(["g++", *OPTIONS, *folders, *sources, "-ldl", "-o", str(folder / "drive")], check=True)
    library = [str(TESTS / "fake_cublaslt.cpp"), "-fPIC", "-shared", "-o", str(folder / "lt.so")]
    subprocess.run(["g++", "-std=c++17", *library], check=True)
    return folder / "drive"


def lines(program: Path, *arguments: str, **more: str) -> list[str]:
    given = {"SPATIALLM_CUBLASLT": str(program.with_name("lt.so")), "SPATIALLM_PRODUCTS": ""} | more
    command = [program, *arguments]
    return subprocess.run(
        command, check=True, capture_output=True, text=True, env=os.environ | given
    ).stdout.splitlines()


def expected(chained: Sequence[str], clusters: Sequence[str], describing: str) -> list[str]:
    launched, replayed = "0 launched 1 captured 0 replayed 0 ", "0 launched 0 captured 0 replayed 1 "
    captured = "0 launched 0 captured 1 replayed 1 "
    return [
        f"first: {launched}",
        f"second: {captured}",
        f"third: {replayed}",
        f"another: {launched}",
        "graphs of the last calls 8",
        f"forgotten: {launched}",
        *chained,
        *clusters,
        "launch: 1 launched 1 captured 0 replayed 0 out of memory",
        f"then: {launched}",
        "attribute: 1 launched 1 captured 0 replayed 0 out of memory",
        f"then: {launched}",
        f"describe: {describing}",
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


ONE_BY_ONE = expected(
    ["3 rows: 0 early 0 late 12", "8192 rows: 0 early 0 late 13"], [], "0 launched 1 captured 0 replayed 0 "
)


@pytest.mark.parametrize(("capability", "products"), [("8", ""), ("10", ""), ("9", "cublaslt")])
def test_calls_are_launched_captured_and_replayed_and_errors_stay_with_their_call(
    program: Path, capability: str, products: str
) -> None:
    assert lines(program, capability, SPATIALLM_PRODUCTS=products) == ONE_BY_ONE


def test_tiled_products_are_for_kernels_that_have_them(tmp_path: Path) -> None:
    assert lines(compiled(tmp_path, "750,800"), "9") == ONE_BY_ONE


def test_tiled_products_have_their_clusters_and_their_calls_need_no_cublaslt(program: Path, tmp_path: Path) -> None:
    """All kernels but the first may come early. 300 tokens are three tiles of 136, four where they share weights."""
    refused = "1 launched 1 captured 0 replayed 0 the driver refused to describe a matrix for copies of tiles"
    clusters = [
        f"weight {weight}, given [300, 200] by {box}, 1: {blocks} blocks of 384 threads by {cluster}"
        for weight, box, blocks, cluster in (
            ("[384, 200] by 128", 136, 9, 1),
            ("[384, 200] by 64", 136, 12, 2),
            ("[384, 200] by 128", 72, 12, 2),
            ("[768, 200] by 64", 136, 18, 1),
            ("[768, 200] by 64", 136, 24, 2),
            ("[768, 200] by 64", 72, 18, 2),
            ("[384, 200] by 128", 136, 9, 1),
            ("[384, 200] by 64", 136, 12, 2),
            ("[384, 200] by 128", 72, 12, 2),
        )
    ]
    few, many = "3 rows: 0 early 1 late 1", "8192 rows: 0 early 0 late 13"
    assert lines(program, "9") == expected([few, many], clusters, refused)
    found = lines(program, "9", SPATIALLM_CUBLASLT=str(tmp_path / "absent.so"))
    assert found == expected([few, "8192 rows: 1 early 0 late 1"], clusters, refused)


def test_a_driver_without_maps_is_said_to_be_old(program: Path) -> None:
    (*_, said) = lines(program, "9", "old")
    start = "products: 1 launched 1 captured 0 replayed 0"
    assert said == f"{start} the driver cannot describe matrices for copies of tiles: it is older than CUDA 12"


def test_a_cublaslt_that_is_named_is_taken_or_refused_by_name(program: Path, tmp_path: Path) -> None:
    absent = tmp_path / "absent.so"
    start = "products: 1 launched 1 captured 0 replayed 0 SPATIALLM_CUBLASLT names"
    for file, more in ((absent, {}), (program.with_name("lt.so"), {"FAKE_CUBLASLT_REFUSES": "1"})):
        (*_, said) = lines(program, SPATIALLM_CUBLASLT=str(file), **more)
        assert said == f"{start} {file}, which cannot be loaded or does not run with this driver"
