"""Engines whose decode is one node of the plugin library: what builds, runs, and is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from export.bundle import ExportOptions, write_bundle
from export.checkpoint import open_checkpoint
from export.engines.plugins import decode_step_sizes
from plugins.decode_step.models import QWEN
from plugins.library import VARIABLE, VERSION
from runtime.bundle import Bundle
from runtime.engines import choose
from runtime.engines.plans import PLUGIN
from runtime.engines.record import EngineRecord
from runtime.errors import EngineError
from runtime.manifest import Manifest
from runtime.pipeline import Pipeline
from tests.engines.built import CLOUDS, VERSIONS, run, tokens_of
from tests.fake_gpu_fixture import FakeGpu
from tests.plugins.library import make_library

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is needed to make a library")
LIMITS = ["--max_voxels", "2000", "--max_point_tokens", "300", "--quiet"]
Start = Callable[..., FakeGpu]


@pytest.fixture(scope="module")
def exported16(tiny_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "fp16"
    checkpoint = open_checkpoint(tiny_checkpoint("qwen"), vlm_pe="3D_RoPE", merge_rule="3D_only")
    write_bundle(checkpoint, folder, ExportOptions(precision="fp16", max_length=1024, segment_layers=1))
    return folder


class Site:
    """A bundle of its own, a GPU, and a plugin library for it."""

    def __init__(self, start: Start, bundle: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._start, self._folder, self._patch = start, folder, monkeypatch
        self.bundle = Path(shutil.copytree(bundle, folder / "bundle"))
        self.make("library.so", None)
        manifest = Manifest.read(self.bundle)
        self.sizes = decode_step_sizes(manifest.language_model, manifest.precision)

    def make(self, name: str, tensorrt: str | None, version: int = VERSION) -> None:
        """Use another library: each has a path of its own, since a process keeps what it has loaded."""
        self.library = self._folder / name
        self._patch.setenv(VARIABLE, str(self.library))
        if tensorrt is not None:
            make_library(self.library, self.sizes, tensorrt, version)

    def begin(self, version: str = "10.16.1") -> FakeGpu:
        """Start a TensorRT anew, with a library made for it."""
        self.make(f"library-{version}.so", version)
        return self.restart(version)

    def restart(self, version: str = "10.16.1", **more: str) -> FakeGpu:
        return self._start(version, XDG_CACHE_HOME=str(self._folder / "cache"), **more)

    def build(self, *more: str) -> int:
        from export.build import main

        return main(["--bundle", str(self.bundle), *LIMITS, *more])

    @property
    def record(self) -> EngineRecord:
        (folder,) = (self.bundle / "engines").iterdir()
        return EngineRecord.read(folder)

    def tokens(self, backend: str = "tensorrt") -> list[tuple[int, ...]]:
        with Pipeline.load(self.bundle, backend=backend, threads=1) as pipeline:
            return [tokens_of(run(pipeline, [cloud], tokens=20))[0] for cloud in CLOUDS[:2]]


@pytest.fixture
def site(fake_gpu: Start, exported16: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(fake_gpu, exported16, tmp_path, monkeypatch)


def note(bundle: Bundle) -> str:
    return choose(bundle).note or ""


def test_beside_prefill_in_segments(site: Site) -> None:
    site.begin("8.6.0")
    assert site.build() == 0
    assert list(site.record.plans) == [
        "encoder",
        *(f"{graph}.{n}" for graph in ("prefill", "decode") for n in range(3)),
    ]
    portable = site.tokens()
    assert site.build("--plugins", "--graphs", "decode") == 0
    assert list(site.record.plans) == ["encoder", "prefill.0", "prefill.1", "prefill.2", "decode"]
    assert site.tokens() == portable


@pytest.mark.parametrize("version", VERSIONS)
def test_the_same_tokens_with_and_without(site: Site, version: str) -> None:
    gpu = site.begin(version)
    assert site.build("--language_model", "separate") == 0
    assert {plan.plugins for plan in site.record.plans.values()} == {0}
    portable = site.tokens()
    assert site.build("--plugins", "--graphs", "decode") == 0
    plans, manifest = site.record.plans, Manifest.read(site.bundle)
    assert {name: plan.plugins for name, plan in plans.items()} == {"encoder": 0, "prefill": 0, "decode": VERSION}
    assert plans["decode"].source == manifest.graphs[PLUGIN]
    assert plans["decode"].source_sha256 == manifest.files[manifest.graphs[PLUGIN]].sha256
    assert plans["decode"].inputs.keys() == {"input_ids", "cos", "sin", "past_length", "past"}
    assert plans["decode"].profiles == {"decode": {"B": (1, 1, 1), "T": (1, 1, 1), "M": (512, 1024, 1024)}}
    before = gpu.device.counts["launch:next_tokens"]
    assert site.tokens() == portable == site.tokens("onnxruntime")
    assert gpu.device.counts["launch:next_tokens"] > before, "the loop on the device knows no difference"


def test_a_library_that_is_gone_or_old_is_a_sentence_and_the_portable_engines_go_on(site: Site) -> None:
    site.begin()
    assert site.build("--plugins") == 0
    (folder,) = (site.bundle / "engines").iterdir()
    site.library.unlink()
    site.restart()
    bundle = Bundle.open(site.bundle)
    said = note(bundle)
    assert choose(bundle).backend == "onnxruntime"
    assert f"decode was built with plugins, and the plugin library {site.library} is not there." in said
    assert f"Build it: make plugins. Build them: python -m export.build --bundle {site.bundle}" in said
    with pytest.raises(EngineError, match=r"is not there\. Build it: make plugins"):
        Pipeline.load(site.bundle, backend="tensorrt")
    site.make("old.so", "10.16.1", VERSION - 1)
    assert f"has version {VERSION - 1}, but {VERSION} is needed. Build it anew: make plugins" in note(bundle)
    site.make("again.so", "10.16.1")
    assert choose(bundle).backend == "tensorrt"
    facts = json.loads((folder / "engine.json").read_text())
    facts["plans"]["decode"]["plugins"] = VERSION + 1
    (folder / "engine.json").write_text(json.dumps(facts))
    assert f"decode was built with version {VERSION + 1} of the plugin library, but {VERSION} is here" in note(bundle)
    assert site.build() == 0, "all anew, without the library"
    site.library.unlink()
    assert choose(bundle).backend == "tensorrt"
    assert site.tokens()


def test_a_library_that_tensorrt_does_not_take(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.begin()
    site.restart(FAKE_GPU_FAULTS="plugins")
    assert site.build("--plugins") == 2
    assert f"{site.library}: TensorRT 10.16.1 does not take this plugin library" in capsys.readouterr().err
    site.restart(FAKE_GPU_FAULTS="")
    assert site.build("--plugins") == 0
    site.restart(FAKE_GPU_FAULTS="plugins")
    with pytest.raises(
        EngineError, match=r"decode\.plan: needs the plugin library .*, which TensorRT 10\.16\.1 does not"
    ):
        Pipeline.load(site.bundle, backend="tensorrt")


def test_what_cannot_be_built_is_said_before_anything_is(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*more: str) -> str:
        assert site.build("--plugins", *more) == 2
        assert not (site.bundle / "engines").exists()
        return capsys.readouterr().err.removeprefix("python -m export.build: ")

    site.begin()
    assert refused("--language_model", "shared").startswith("--plugins replaces the decode engine")
    assert refused("--max_batch", "2").startswith("--plugins decodes one scene at a time, but --max_batch is 2.")
    assert refused("--hardware_compatible").startswith("--plugins is for one kind of GPU")
    site.restart(FAKE_GPU_NAMES="Card@8.9")
    assert refused().startswith("--plugins is for GPUs of compute capability 9.0, but Card has 8.9.")
    site.restart("8.6.0", FAKE_GPU_NAMES="Card@9.0")
    assert "was built with the headers of TensorRT 10, but 8.6.0 is installed" in refused()
    site.library.unlink()
    site.restart()
    assert refused().strip() == (
        f"the plugin library {site.library} is not there. Build it: make plugins "
        "(or build the engines without --plugins)."
    )


def test_a_library_without_the_models_kernel(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.restart()
    make_library(site.library, QWEN, "10.16.1")
    assert site.build("--plugins") == 2
    assert (
        f"Build it anew with them: make plugins PLUGIN_OPTIONS='--sizes {site.sizes.text}'" in capsys.readouterr().err
    )


def test_bundles_that_have_no_such_graph(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.begin()
    manifest = Manifest.read(site.bundle)
    graphs, weights, files = dict(manifest.graphs), dict(manifest.weights), dict(manifest.files)
    del files[graphs.pop(PLUGIN)], weights[PLUGIN]
    older = dataclasses.replace(manifest, graphs=graphs, weights=weights, files=files)
    older.write(site.bundle)
    assert site.build("--plugins") == 2
    assert f"the bundle has no graph {PLUGIN!r}, for it was exported before" in capsys.readouterr().err
    dataclasses.replace(older, precision="fp32").write(site.bundle)
    assert site.build("--plugins") == 2
    assert "--plugins cannot run this bundle: the model is in fp32, but fp16 or bf16 was" in capsys.readouterr().err
