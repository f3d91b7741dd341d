"""Engines whose prefill and decode are one node each of the plugin library: what builds, runs, and is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from export.bundle import ExportOptions, write_bundle
from export.checkpoint import open_checkpoint
from export.engines.plugins import model_sizes
from plugins.decode_step.models import QWEN
from plugins.library import VARIABLE, VERSION
from runtime.bundle import WEIGHTS, Bundle
from runtime.engines import choose
from runtime.engines.plans import PLUGINS
from runtime.engines.record import EngineRecord
from runtime.errors import BundleError, EngineError
from runtime.manifest import FileRecord, Manifest
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
        self.sizes = model_sizes(self.manifest.language_model, self.manifest.precision)

    @property
    def manifest(self) -> Manifest:
        return Manifest.read(self.bundle)

    def make(self, name: str, tensorrt: str | None, version: int = VERSION, **more: Any) -> None:
        """Use another library: each has a path of its own, since a process keeps what it has loaded."""
        self.library = self._folder / name
        self._patch.setenv(VARIABLE, str(self.library))
        if tensorrt is not None:
            make_library(self.library, more.pop("sizes", self.sizes), tensorrt, version, **more)

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
    def folder(self) -> Path:
        (folder,) = (self.bundle / "engines").iterdir()
        return folder

    @property
    def record(self) -> EngineRecord:
        return EngineRecord.read(self.folder)

    @property
    def weights(self) -> Path:
        return self.bundle / self.manifest.weights["decode"]

    def load(self, backend: str = "tensorrt", **more: Any) -> Pipeline:
        return Pipeline.load(self.bundle, backend=backend, **more)

    def tokens(self, backend: str = "tensorrt") -> list[tuple[int, ...]]:
        with self.load(backend, threads=1) as pipeline:
            return [tokens_of(run(pipeline, [cloud], tokens=20))[0] for cloud in CLOUDS[:2]]


@pytest.fixture
def site(fake_gpu: Start, exported16: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(fake_gpu, exported16, tmp_path, monkeypatch)


def note(bundle: Bundle) -> str:
    return choose(bundle).note or ""


@pytest.mark.parametrize("version", VERSIONS)
def test_the_same_tokens_with_and_without(site: Site, version: str) -> None:
    gpu = site.begin(version)
    assert site.build("--language_model", "separate") == 0
    assert {plan.plugins for plan in site.record.plans.values()} == {0}
    portable, bytes_before = site.tokens(), site.record.plans["decode"].bytes
    assert site.build("--plugins") == 0
    plans, manifest = site.record.plans, site.manifest
    assert {name: plan.plugins for name, plan in plans.items()} == {"encoder": 0, "prefill": VERSION, "decode": VERSION}
    values = str(site.weights.stat().st_size // 2)
    for graph, name in PLUGINS.items():
        assert plans[graph].source == manifest.graphs[name]
        assert plans[graph].source_sha256 == manifest.files[manifest.graphs[name]].sha256
        assert plans[graph].weights_sha256 == manifest.files[site.weights.name].sha256
        assert plans[graph].inputs[WEIGHTS] == (values,)
        assert plans[graph].bytes < bytes_before / 4, "no weights in it"
    assert plans["decode"].inputs.keys() == {"input_ids", "cos", "sin", "past_length", "past", WEIGHTS}
    assert plans["decode"].profiles == {"decode": {"B": (1, 1, 1), "T": (1, 1, 1), "M": (512, 1024, 1024)}}
    before = gpu.device.counts["launch:next_tokens"]
    assert site.tokens() == portable == site.tokens("onnxruntime")
    assert gpu.device.counts["launch:next_tokens"] > before, "the loop on the device knows no difference"


def test_the_mask_is_fed_as_the_graph_takes_it(site: Site) -> None:
    """int32 now; bool where a bundle was written when the graph had a Cast of its own."""
    site.begin("8.6.0")
    assert site.build("--plugins") == 0
    tokens, taken = site.tokens(), []
    for cast in (False, True):
        if cast:
            cast_the_mask(site)
            assert site.build("--plugins", "--graphs", "prefill") == 0
        with site.load() as pipeline:
            taken.append(pipeline.engines.prefill.inputs["point_mask"].dtype)
        assert site.tokens() == tokens
    assert taken == ["int32", "bool"]


def cast_the_mask(site: Site) -> None:
    """Give prefill's graph the form it had before."""
    manifest, name = site.manifest, site.manifest.graphs[PLUGINS["prefill"]]
    model = onnx.load(site.bundle / name, load_external_data=False)
    (value,) = (value for value in model.graph.input if value.name == "point_mask")
    value.type.tensor_type.elem_type = onnx.TensorProto.BOOL
    (node,) = model.graph.node
    node.input[list(node.input).index("point_mask")] = "narrow"
    model.graph.node.insert(0, onnx.helper.make_node("Cast", ["point_mask"], ["narrow"], to=onnx.TensorProto.INT32))
    onnx.save(model, site.bundle / name)
    data = (site.bundle / name).read_bytes()
    record = FileRecord(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    dataclasses.replace(manifest, files={**manifest.files, name: record}).write(site.bundle)


def test_before_tensorrt_9_they_take_the_place_of_segments(site: Site) -> None:
    site.begin("8.6.0")
    assert site.build("--no-plugins") == 0
    parts = [f"{graph}.{n}" for graph in ("prefill", "decode") for n in range(3)]
    assert list(site.record.plans) == ["encoder", *parts]
    encoder, portable = site.record.plans["encoder"], site.tokens()
    assert site.build("--plugins", "--graphs", "prefill", "decode") == 0
    assert list(site.record.plans) == ["encoder", "prefill", "decode"]
    assert site.record.plans["encoder"] == encoder
    assert site.tokens() == portable


def test_engines_of_both_kinds_do_not_go_together(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.begin()
    assert site.build("--language_model", "separate") == 0
    assert site.build("--plugins", "--graphs", "decode") == 2
    assert "the prefill engine there was built from another graph. Build all graphs" in capsys.readouterr().err


def test_engines_of_another_version_of_the_library_do_not_stay(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.begin()
    assert site.build("--plugins") == 0
    facts = json.loads((site.folder / "engine.json").read_text())
    facts["plans"]["decode"]["plugins"] = VERSION - 1
    (site.folder / "engine.json").write_text(json.dumps(facts))
    assert site.build("--plugins", "--graphs", "prefill") == 2
    said = (
        f"the decode engine there was built with version {VERSION - 1} of the plugin library, but {VERSION} is here. "
    )
    assert said + "Build all graphs" in capsys.readouterr().err
    assert site.build("--plugins", "--graphs", "prefill", "decode") == 0


def test_a_batch(site: Site) -> None:
    site.begin()
    assert site.build("--language_model", "separate", "--max_batch", "3") == 0
    with site.load() as pipeline:
        portable = tokens_of(run(pipeline, CLOUDS, tokens=20))
    assert site.build("--plugins", "--max_batch", "3") == 0
    with site.load() as pipeline:
        assert tokens_of(run(pipeline, CLOUDS, tokens=20)) == portable


def test_the_weights_are_on_the_device_once(site: Site) -> None:
    gpu = site.begin()
    assert site.build("--plugins") == 0
    size = site.weights.stat().st_size
    before, copies = gpu.device.bytes_allocated(0), gpu.device.counts["HostToDevice"]
    with site.load(cuda_graphs=False) as pipeline:
        backend: Any = pipeline.engines.backend
        (tensor,) = backend._weights._tensors.values()
        held = [pipeline.engines.prefill._held[WEIGHTS], pipeline.engines.decode._held[WEIGHTS]]
        assert held == [tensor, tensor] and tensor.bytes == size and tensor.dtype == "float16"
        assert np.array_equal(backend.download(tensor).view(np.uint8), np.fromfile(site.weights, np.uint8))
        for engine in (pipeline.engines.prefill, pipeline.engines.decode):
            assert WEIGHTS not in engine.inputs and WEIGHTS not in engine.outputs and WEIGHTS not in engine.limits
        assert backend.load(pipeline.bundle, "decode")._held[WEIGHTS] is tensor, "a later load finds it there"
        run(pipeline, tokens=5)
        assert list(backend._weights._tensors.values()) == [tensor]
        del tensor, held
    assert gpu.device.counts["HostToDevice"] > copies
    assert gpu.device.bytes_allocated(0) == before, "and gone with the back end"


def test_loading_and_closing_ten_times_leaves_memory_as_it_was(site: Site) -> None:
    gpu = site.begin()
    assert site.build("--plugins") == 0
    tokens = site.tokens()
    for _ in range(10):
        with site.load() as pipeline:
            assert tokens_of(run(pipeline, CLOUDS[:1], tokens=20)) == tokens[:1]
        assert gpu.device.bytes_allocated(0) == gpu.device.bytes_allocated(None) == 0


def test_large_files_go_to_the_device_in_pieces(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.begin()
    assert site.build("--plugins") == 0
    tokens = site.tokens()
    monkeypatch.setattr("runtime.engines.trt_weights.PIECE", 1000)
    assert site.tokens() == tokens


def test_a_weight_file_that_was_altered(site: Site) -> None:
    site.begin()
    assert site.build("--plugins") == 0
    data = bytearray(site.weights.read_bytes())
    data[-1] ^= 1
    site.weights.write_bytes(data)
    with pytest.raises(BundleError, match=rf"{site.weights.name}: its SHA-256 is not the manifest's; it was altered"):
        site.load()
    site.load(verify=False).close()


def test_a_weight_file_of_another_size(site: Site) -> None:
    """The manifest and the record may be of that file; the plan is not."""
    site.begin()
    assert site.build("--plugins") == 0
    with site.weights.open("ab") as file:
        file.write(bytes(4))
    manifest, size = site.manifest, site.weights.stat().st_size
    record = FileRecord(bytes=size, sha256=manifest.files[site.weights.name].sha256)
    dataclasses.replace(manifest, files={**manifest.files, site.weights.name: record}).write(site.bundle)
    with pytest.raises(
        BundleError, match=rf"has {size:,} bytes, but the engine of prefill\.plugin was built for {size - 4:,}\."
    ):
        site.load(verify=False)


def test_a_gpu_that_has_no_room_for_the_weights(site: Site) -> None:
    gpu = site.begin()
    assert site.build("--plugins") == 0
    plans = site.record.plans
    gpu.device.memory = plans["encoder"].bytes + plans["prefill"].bytes + site.weights.stat().st_size // 2
    with pytest.raises(EngineError, match=rf"{site.weights.name}: the GPU has not the memory to load it \(0\.00 GB\)"):
        site.load()
    assert gpu.device.bytes_allocated(0) == 0
    gpu.device.memory *= 2
    site.load().close()


def test_a_library_that_is_gone_or_old_is_a_sentence_and_the_portable_engines_go_on(site: Site) -> None:
    site.begin()
    assert site.build("--plugins") == 0
    site.library.unlink()
    site.restart()
    bundle = Bundle.open(site.bundle)
    said = note(bundle)
    assert choose(bundle).backend == "onnxruntime"
    assert f"prefill was built with plugins, and the plugin library {site.library} is not there." in said
    assert f"Build it: make plugins. Build them: python -m export.build --bundle {site.bundle}" in said
    with pytest.raises(EngineError, match=r"is not there\. Build it: make plugins"):
        site.load()
    site.make("old.so", "10.16.1", VERSION - 1)
    assert f"has version {VERSION - 1}, but {VERSION} is needed. Build it anew: make plugins" in note(bundle)
    site.make("again.so", "10.16.1")
    assert choose(bundle).backend == "tensorrt"
    site.make("blackwell.so", "10.16.1", architectures="sm_120")
    assert f"{site.library} was built for sm_120, but NVIDIA Fake 9000 is sm_90. Build it anew: make" in note(bundle)
    site.make("again.so", "10.16.1")
    facts = json.loads((site.folder / "engine.json").read_text())
    facts["plans"]["decode"]["plugins"] = VERSION - 1
    (site.folder / "engine.json").write_text(json.dumps(facts))
    assert f"decode was built with version {VERSION - 1} of the plugin library, but {VERSION} is here" in note(bundle)
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
        EngineError, match=r"prefill\.plan: needs the plugin library .*, which TensorRT 10\.16\.1 does not"
    ):
        site.load()


def test_what_our_nodes_say_is_told_and_not_what_tensorrt_says_of_them(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.begin()
    site.restart(FAKE_GPU_FAULTS="cublaslt:decode.plugin")
    assert site.build("--plugins") == 2
    said = "SpatialLMDecodeStep: libcublasLt was not found; install CUDA's cuBLAS"
    assert f"decode: TensorRT 10.16.1 could not build the engine: {said}." in capsys.readouterr().err
    site.restart(FAKE_GPU_FAULTS="")
    assert site.build("--plugins") == 0
    site.restart(FAKE_GPU_FAULTS="cublaslt:decode.plugin")
    with pytest.raises(EngineError) as raised:
        site.load()
    assert f"decode: TensorRT could not run it ({said})." in str(raised.value)


def test_what_cannot_be_built_is_said_before_anything_is(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*more: str) -> str:
        assert site.build("--plugins", *more) == 2
        assert not (site.bundle / "engines").exists()
        return capsys.readouterr().err.removeprefix("python -m export.build: ").strip()

    site.begin()
    for layout in ("shared", "segmented"):
        assert refused("--language_model", layout) == (
            "--plugins makes an engine for prefill and one for decode: it goes with --language_model separate alone, "
            f"not with {layout}."
        )
    assert refused("--islands", "norm").startswith("--islands is about TensorRT's own layers, of which --plugins")
    assert refused("--hardware_compatible").startswith("--plugins is for one kind of GPU")
    site.restart(FAKE_GPU_NAMES="Card@7.5")
    assert refused().startswith("--plugins is for GPUs of compute capability 8.0 or more, but Card has 7.5.")
    site.restart(FAKE_GPU_NAMES="Card@8.9")
    assert refused() == (
        f"the plugin library {site.library} was built for sm_90, but Card is sm_89. Build it anew: make plugins "
        "PLUGIN_OPTIONS='--architecture sm_89'"
    )
    site.restart("8.6.0", FAKE_GPU_NAMES="Card@9.0")
    assert "was built with the headers of TensorRT 10, but 8.6.0 is installed" in refused()
    site.library.unlink()
    site.restart()
    assert refused() == (
        f"the plugin library {site.library} is not there. Build it: make plugins "
        "(or build the engines without --plugins)."
    )


def test_without_the_decode_kernel_it_builds_and_says_that_it_is_slower(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    def noted(*more: str) -> str:
        from export.build import main

        arguments = ["--bundle", str(site.bundle), *LIMITS[:-1], "--json", "--plugins", *more]
        assert main(arguments) == 0
        notes: list[str] = json.loads(capsys.readouterr().out)["notes"]
        return " ".join(note for note in notes if "decode kernel" in note)

    slower = "so a token of one scene takes the general kernels, which are slower"
    site.begin()
    assert noted() == ""
    site.make("other.so", "10.16.1", sizes=QWEN)
    site.restart()
    assert noted().endswith(f"make plugins PLUGIN_OPTIONS='--sizes {site.sizes.text}'")
    assert slower in noted()
    site.make("older.so", "10.16.1", architectures="sm_80,sm_90")
    site.restart(FAKE_GPU_NAMES="Card@8.9")
    assert noted() == f"the decode kernel is for sm_90 alone, and Card is another GPU, {slower}"


def test_bundles_that_have_no_such_graph(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.begin()
    manifest = site.manifest
    graphs, weights, files = dict(manifest.graphs), dict(manifest.weights), dict(manifest.files)
    for name in PLUGINS.values():
        del files[graphs.pop(name)], weights[name]
    older = dataclasses.replace(manifest, graphs=graphs, weights=weights, files=files)
    older.write(site.bundle)
    assert site.build("--plugins") == 2
    assert "the bundle has no graph 'prefill.plugin', for it was exported before" in capsys.readouterr().err
    dataclasses.replace(older, precision="fp32").write(site.bundle)
    assert site.build("--plugins") == 2
    assert "--plugins cannot run this bundle: the model is in fp32, but fp16 or bf16 was" in capsys.readouterr().err


def has_plugins(site: Site) -> bool:
    return any(plan.plugins for plan in site.record.plans.values())


def test_plugins_are_the_default_where_they_have_proven_better(site: Site) -> None:
    site.begin("8.6.0")
    assert site.build() == 0
    assert has_plugins(site) and site.record.language_model == "separate"
    assert site.build("--graphs", "prefill", "decode") == 0  # as the engines that are there
    assert has_plugins(site)
    assert site.build("--no-plugins") == 0
    assert not has_plugins(site)


@pytest.mark.parametrize(
    "more",
    [["--language_model", "separate"], ["--islands", "norm"], ["--hardware_compatible"], ["--version_compatible"]],
)
def test_options_that_ask_for_other_engines_leave_plugins_out(site: Site, more: list[str]) -> None:
    site.begin("8.6.0")
    assert site.build(*more) == 0
    assert not has_plugins(site)


def test_engines_with_plugins_beside_a_bundle_that_has_no_such_graphs(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.begin("8.6.0")
    assert site.build() == 0
    manifest = site.manifest
    graphs = {name: file for name, file in manifest.graphs.items() if name != PLUGINS["prefill"]}
    dataclasses.replace(manifest, graphs=graphs).write(site.bundle)
    assert site.build("--graphs", "encoder") == 2
    assert "the bundle has no graph 'prefill.plugin', for it was exported before" in capsys.readouterr().err


def test_limits_that_are_too_large_for_the_kernels(
    site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    site.begin("8.6.0")
    monkeypatch.setattr("plugins.language_model.sizes.MOST_VALUES", 3 * 1024 * 2 * 2 * 2 * 64)
    assert site.build("--plugins", "--max_batch", "4") == 2
    said = capsys.readouterr().err
    assert "--plugins cannot run the largest calls: 4 x 812 new rows of 512 values are more than the 1,572,864" in said
    assert site.build("--plugins", "--max_batch", "4", "--max_point_tokens", "10") == 2
    said = capsys.readouterr().err
    assert "a cache of 4 x 1,024 rows of 512 values has more than 1,572,864. Choose a smaller --max_batch" in said
    assert site.build("--max_batch", "4") == 0 and not has_plugins(site)
    assert site.build("--plugins", "--max_batch", "1") == 0


def test_where_they_have_not_run_plugins_are_asked_for(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.begin("10.16.1")
    assert site.build("--json") == 0
    assert "--plugins takes them" in json.loads(capsys.readouterr().out.splitlines()[-1])["notes"][0]
    assert not has_plugins(site)


def test_a_missing_library_is_told_and_engines_are_built_without(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.restart("8.6.0")
    assert site.build("--json") == 0
    hint, *_ = json.loads(capsys.readouterr().out.splitlines()[-1])["notes"]
    assert hint.startswith("built without our own kernels") and "is not there. Build it: make plugins" in hint
    assert not has_plugins(site)
