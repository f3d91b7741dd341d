"""Bundles, and `python -m export.build` over a TensorRT and a GPU that are made of Python."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from export.bundle import ExportOptions, write_bundle
from export.checkpoint import open_checkpoint
from runtime.bundle import file_digest
from runtime.engines.record import EngineRecord
from runtime.manifest import FileRecord, Manifest
from tests.blocked import ROOT

VERSIONS = ["8.6.0", "10.16.1", "11.4.0"]
PATHS = [ROOT / "tests" / "building" / "trouble", ROOT / "tests" / "fake_gpu"]
Ran = subprocess.CompletedProcess


@pytest.fixture(scope="session")
def made(tiny_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`made(precision)`: a bundle that tests share and leave as it is."""
    folders: dict[str, Path] = {}

    def make(precision: str) -> Path:
        if precision not in folders:
            folders[precision] = tmp_path_factory.mktemp("bundle") / precision
            options = ExportOptions(precision=precision, max_length=1024)
            write_bundle(open_checkpoint(tiny_checkpoint("qwen")), folders[precision], options)
        return folders[precision]

    return make


@dataclass(frozen=True, slots=True)
class Bench:
    """A bundle to build, and the environment to build it in."""

    bundle: Path
    cache: Path
    language_model: str = "shared"

    def environment(self, version: str = "8.6.0", **more: str) -> dict[str, str]:
        paths = os.pathsep.join(map(str, PATHS))
        ours = {"PYTHONPATH": paths, "FAKE_TENSORRT": version, "XDG_CACHE_HOME": str(self.cache), "COLUMNS": "200"}
        return os.environ | ours | more

    def start(self, *arguments: object, version: str = "8.6.0", **more: str) -> subprocess.Popen[str]:
        """Start a build; upper-case keywords go into its environment."""
        command = [sys.executable, "-m", "export.build", "--bundle", str(self.bundle)]
        command += ["--language_model", self.language_model, *map(str, arguments)]
        pipe = subprocess.PIPE
        environment = self.environment(version, **more)
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)

    def __call__(self, *arguments: object, version: str = "8.6.0", **more: str) -> Ran[str]:
        """Run a build to its end."""
        process = self.start(*arguments, version=version, **more)
        out, err = process.communicate(timeout=60)
        return Ran(process.args, process.returncode, out, err)

    def refused(self, *arguments: object, version: str = "8.6.0", **more: str) -> str:
        """A build that must fail: its one sentence."""
        ran = self(*arguments, "--quiet", version=version, **more)
        assert (ran.returncode, ran.stdout) == (2, ""), ran.stderr
        assert ran.stderr.startswith("python -m export.build: ")
        assert ran.stderr.count("\n") == 1, f"one sentence, no traceback: {ran.stderr}"
        return ran.stderr.removeprefix("python -m export.build: ").rstrip("\n")

    def facts(self, *arguments: object, version: str = "8.6.0", **more: str) -> dict[str, Any]:
        """A build that must succeed: its JSON."""
        ran = self(*arguments, "--json", version=version, **more)
        assert (ran.returncode, ran.stderr) == (0, ""), ran.stderr
        assert ran.stdout.count("\n") == 1
        facts: dict[str, Any] = json.loads(ran.stdout)
        return facts

    def folder(self, version: str = "8.6.0") -> Path:
        [folder] = (self.bundle / "engines").glob(f"*-trt{version}-*")
        return folder

    def record(self, version: str = "8.6.0") -> EngineRecord:
        return EngineRecord.read(self.folder(version))

    def plan_facts(self, graph: str, version: str = "8.6.0") -> dict[str, Any]:
        """What the fake builder was told, as it stands in the plan."""
        with zipfile.ZipFile(self.folder(version) / f"{graph}.plan") as plan:
            facts: dict[str, Any] = json.loads(plan.read("facts.json"))
            return facts


@pytest.fixture
def bench(made: Callable[[str], Path], tmp_path: Path, request: pytest.FixtureRequest) -> Bench:
    """A bundle of its own, fp16 unless the test is parametrized indirectly with another precision."""
    precision = getattr(request, "param", "fp16")
    return Bench(Path(shutil.copytree(made(precision), tmp_path / "bundle")), tmp_path / "cache")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder; an empty folder counts as one."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"folder"
        for path in folder.rglob("*")
        if path.is_file() or not any(path.iterdir())
    }


def resigned(folder: Path, path: Path) -> None:
    """Give the manifest the digest of a file that a test has changed."""
    manifest = Manifest.read(folder)
    record = FileRecord(bytes=path.stat().st_size, sha256=file_digest(path))
    replace(manifest, files=manifest.files | {path.name: record}).write(folder)


def wait_for(mark: Path) -> str:
    for _ in range(400):
        if mark.exists() and (text := mark.read_text()):
            return text
        time.sleep(0.05)
    raise AssertionError("the build never began")


def gone(child: int) -> bool:
    """Whether a process has ended, within two seconds. A zombie that nobody waits for has ended."""
    for _ in range(40):
        try:
            os.kill(child, 0)
            if Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False
