"""Fixtures for tests of engines."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.bundle import Bundle
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
