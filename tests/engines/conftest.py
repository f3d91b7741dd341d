"""Fixtures for tests of engines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.bundle import Bundle
from tests.engines.built import MODES, Built, Place, Start, open_place
from tests.engines.shop import Shop
from tests.exported import Export
from tests.fake_gpu_fixture import fake_gpu

__all__ = ["fake_gpu"]


@pytest.fixture
def shop(exported: Export, tmp_path: Path) -> Shop:
    """The bundle's large files are links: nobody here reads them."""
    case = exported("qwen")
    folder = tmp_path / "bundle"
    folder.mkdir()
    for path in case.bundle.folder.iterdir():
        (folder / path.name).symlink_to(path)
    return Shop(Bundle(folder, case.bundle.manifest))


@pytest.fixture(scope="session")
def built() -> Built:
    return {}


@pytest.fixture
def place(
    fake_gpu: Start, built: Built, exported: Export, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Place]:
    """`place(version, mode)`, mode one of MODES: a GPU and a bundle with engines, which tests must leave as it is."""

    def make(version: str = "10.16.1", mode: str = "3d") -> Place:
        return open_place(fake_gpu, built, exported, tmp_path_factory.mktemp("built"), version, mode)

    return make


@pytest.fixture
def here(place: Callable[..., Place]) -> Place:
    """TensorRT 10, for tests that one version serves."""
    return place("10.16.1")


@pytest.fixture(params=MODES[:2])
def either(place: Callable[..., Place], request: pytest.FixtureRequest) -> Place:
    """The same, prefill and decode in one engine or each in its own."""
    return place("10.16.1", request.param)
