"""One tokenizer per family for all tests of this folder."""

from __future__ import annotations

import pytest

from tests.prompt.families import FAMILIES, PromptFiles, write_family


@pytest.fixture(scope="session", params=FAMILIES)
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PromptFiles:
    folder = tmp_path_factory.mktemp(request.param)
    return PromptFiles(request.param, folder, write_family(folder, request.param))
