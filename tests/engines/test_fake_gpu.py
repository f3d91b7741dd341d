"""The fake GPU is honest: it has the names of its version, refuses what the real one refuses, and sees stale memory."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.blocked import run_without
from tests.engines.fake_trial import Trial, write_graph
from tests.fake_gpu.tensorrt_names import VERSIONS, members
from tests.fake_gpu_fixture import FakeGpu, fake_gpu  # noqa: F401

Start = Callable[..., FakeGpu]


@pytest.fixture(autouse=True)
def start(fake_gpu: Start) -> Start:  # noqa: F811
    return fake_gpu


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return write_graph(tmp_path / "tiny.onnx")


@pytest.fixture(params=VERSIONS)
def trial(request: pytest.FixtureRequest, start: Start, graph: Path) -> Trial:
    return Trial(start(request.param), graph)


@pytest.fixture
def oldest(start: Start, graph: Path) -> Trial:
    return Trial(start("8.6.0"), graph)


@pytest.mark.parametrize("version", VERSIONS)
def test_names_are_those_of_the_version_and_no_others(start: Start, version: str) -> None:
    trt, known = start(version).tensorrt, members(version)
    assert trt.__version__ == version
    assert {name for name in vars(trt) if not name.startswith("_")} == known.keys()
    for owner, found in known.items():
        made = getattr(trt, owner)
        inherited = {name for base in made.__mro__[1:] for name in vars(base)} if isinstance(made, type) else set()
        public = {name for name in dir(made) if not name.startswith("_")} - inherited
        assert public <= found.keys(), owner
        assert all(hasattr(made, name) for name in found if name not in {"name", "value"}), owner


def test_what_a_version_lacks_cannot_be_set(start: Start) -> None:
    trt = start("8.6.0").tensorrt
    config = trt.Builder(trt.Logger()).create_builder_config()
    with pytest.raises(AttributeError, match="progress_monitor"):
        config.progress_monitor = None
    with pytest.raises(AttributeError, match="no_such_thing"):
        config.no_such_thing = 1


def test_flags_have_the_numbers_of_their_version(start: Start) -> None:
    numbers = {v: int(start(v).tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED) for v in VERSIONS[1:]}
    assert numbers == {"10.16.1": 1, "11.4.0": 0}
    assert int(start("8.6.0").tensorrt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH) == 0
    assert start("8.6.0").tensorrt.BuilderFlag.FP16 != 0, "pybind11's enumerations equal no numbers"


def test_a_graph_is_computed_in_place(trial: Trial) -> None:
    context, _, y = trial.ready()
    assert context.execute_async_v3(trial.stream())
    np.testing.assert_array_equal(trial.values(y), 2 * np.arange(1, 9).reshape(2, 4) + np.arange(4))
    assert tuple(context.get_tensor_shape("y")) == (2, 4)


def test_version_8_narrows_64_bit_integers(start: Start, graph: Path) -> None:
    kinds = {v: Trial(start(v), graph).engine().get_tensor_dtype("z").name for v in VERSIONS}
    assert kinds == {"8.6.0": "INT32", "10.16.1": "INT64", "11.4.0": "INT64"}


def test_a_shape_outside_the_profile_is_refused(trial: Trial) -> None:
    context = trial.context(trial.engine())
    assert [tuple(shape) for shape in context.engine.get_tensor_profile_shape("x", 0)] == [(1, 4), (2, 4), (8, 4)]
    assert context.set_input_shape("x", (8, 4)) and not context.set_input_shape("x", (9, 4))
    assert not context.set_input_shape("x", (2, 5)) and not context.set_input_shape("x", (2,))
    assert tuple(context.get_tensor_shape("x")) == (8, 4)
    assert "profile 0" in trial.errors[0]


def test_nothing_runs_before_shapes_addresses_and_memory_are_there(oldest: Trial) -> None:
    engine, stream = oldest.engine(), oldest.stream()
    context = engine.create_execution_context_without_device_memory()
    reasons = []
    for step in (
        lambda: None,
        lambda: context.set_input_shape("x", (2, 4)),
        lambda: [context.set_tensor_address(name, oldest.malloc(32)) for name in "xyz"],
        lambda: setattr(context, "device_memory", oldest.malloc(engine.device_memory_size)),
    ):
        step()
        if not context.execute_async_v3(stream):
            reasons.append(oldest.errors[-1].rpartition(": ")[2])
    assert reasons == ["the shape of x is not set", "the address of x is not set", "no device memory was given"]


@pytest.mark.parametrize(("version", "built"), list(zip(VERSIONS, [False, False, True], strict=True)))
def test_a_network_needs_its_flag(start: Start, graph: Path, version: str, built: bool) -> None:
    trial = Trial(start(version), graph)
    assert (trial.build(flags=0) is not None) == built and bool(trial.errors) != built


def test_a_profile_is_checked(trial: Trial) -> None:
    profile = trial.trt.Builder(trial.logger).create_optimization_profile()
    with pytest.raises(RuntimeError, match="inconsistent"):
        profile.set_shape("x", (2, 4), (1, 4), (8, 4))
    assert trial.build(change=lambda _, config: config._profiles[0].set_shape("x", (1, 5), (2, 5), (8, 5))) is None
    assert trial.build(change=lambda _, config: config._profiles.clear()) is None
    assert "no optimization profile" in trial.errors[-1]


def test_strong_types_leave_no_precision_flags(start: Start, graph: Path) -> None:
    old, new = Trial(start("8.6.0"), graph), Trial(start("10.16.1"), graph)
    assert old.build(change=lambda _, config: config.set_flag(old.trt.BuilderFlag.FP16)) is not None
    assert new.build(change=lambda _, config: config.set_flag(new.trt.BuilderFlag.FP16)) is None


def test_damaged_and_foreign_plans_are_refused(start: Start, graph: Path) -> None:
    old = Trial(start("8.6.0"), graph)
    plan = bytes(old.build())
    assert old.engine(plan[:-1]) is None and old.engine(plan[:-9] + b"x" + plan[-8:]) is None
    assert old.engine(b"") is None and old.engine(plan) is not None
    new = Trial(start("10.16.1"), graph)
    assert new.engine(plan) is None and "version 8.6.0" in new.errors[-1]
    other = Trial(start("8.6.0", FAKE_GPU_NAMES="NVIDIA Fake 5@8.0"), graph)
    assert other.engine(plan) is None and "capability" in other.errors[-1]


def test_version_compatible_plans_need_permission_and_run_later(start: Start, graph: Path) -> None:
    old = Trial(start("8.6.0"), graph)
    plan = bytes(old.build(change=lambda _, config: config.set_flag(old.trt.BuilderFlag.VERSION_COMPATIBLE)))
    new = Trial(start("11.4.0"), graph)
    runtime = new.trt.Runtime(new.logger)
    assert runtime.deserialize_cuda_engine(plan) is None
    runtime.engine_host_code_allowed = True
    assert runtime.deserialize_cuda_engine(plan) is not None


def test_the_inspector_lists_a_copy_for_each_format_left_open(trial: Trial) -> None:
    def linear(network: Any, config: Any) -> None:
        config.profiling_verbosity = trial.trt.ProfilingVerbosity.DETAILED
        network.get_input(0).allowed_formats = 1 << int(trial.trt.TensorFormat.LINEAR)

    inspector = trial.engine(trial.build(change=linear)).create_engine_inspector()
    layers = json.loads(inspector.get_engine_information(trial.trt.LayerInformationFormat.JSON))["Layers"]
    assert [layer["LayerType"] for layer in layers] == ["Reformat", "Reformat", "Myelin"]  # y and z, not x


@pytest.mark.parametrize("going", [True, False])
def test_a_progress_monitor_can_cancel(start: Start, graph: Path, going: bool) -> None:
    trial, seen = Trial(start("10.16.1"), graph), []

    class Monitor(trial.trt.IProgressMonitor):  # type: ignore[misc]
        def phase_start(self, *arguments: Any) -> None:
            seen.append(arguments)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return going

        def phase_finish(self, phase_name: str) -> None:
            seen.append(phase_name)

    def watch(_: Any, config: Any) -> None:
        config.progress_monitor = Monitor()

    assert (trial.build(change=watch) is not None) == going
    assert seen[0] == ("Building Engine", None, 2) and seen[-1] == "Building Engine"


def test_a_class_of_ours_must_call_the_base(oldest: Trial) -> None:
    class Careless(oldest.trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            self.kept = []

    with pytest.raises(TypeError, match=r"__init__\(\) must be called"):
        Careless()


def test_a_timing_cache_knows_its_version(start: Start, graph: Path) -> None:
    old = Trial(start("8.6.0"), graph)
    kept: list[bytes] = []

    def remember(_: Any, config: Any) -> None:
        cache = config.create_timing_cache(b"")
        assert config.set_timing_cache(cache, False)
        kept.append(cache)

    old.build(change=remember)
    data = bytes(memoryview(kept[0].serialize()))
    assert old.trt.Builder(old.logger).create_builder_config().create_timing_cache(b"no cache") is None
    new = Trial(start("11.4.0"), graph)
    config = new.trt.Builder(new.logger).create_builder_config()
    assert not config.set_timing_cache(config.create_timing_cache(data), False)


def test_operators_of_other_domains_and_missing_weights_are_refused(oldest: Trial) -> None:
    (oldest.graph.parent / "tiny.weights").unlink()
    assert oldest.build() is None and "tiny.weights" in oldest.errors[-1]
    model = onnx.load(oldest.graph, load_external_data=False)
    model.graph.node[0].domain = "com.microsoft"
    del model.graph.initializer[0].external_data[:]
    oldest.graph.write_bytes(model.SerializeToString())
    assert oldest.build() is None and "No importer registered for op: Add" in oldest.errors[-1]


@pytest.mark.parametrize(
    ("fault", "sign"),
    [("parse", "None"), ("build:tiny", "None"), ("build:other", "plan"), ("deserialize", "no engine")],
)
def test_faults_can_be_asked_for(oldest: Trial, fault: str, sign: str) -> None:
    oldest.gpu.device.faults.add(fault)
    plan = oldest.build()
    got = "None" if plan is None else "no engine" if oldest.engine(plan) is None else "plan"
    assert got == sign


def test_execution_can_fail_and_a_process_can_abort(oldest: Trial) -> None:
    context, _, _ = oldest.ready()
    oldest.gpu.device.faults.add("execute")
    assert not context.execute_async_v3(oldest.stream())
    code = """
import tensorrt as trt
config = trt.Builder(trt.Logger()).create_builder_config()
config.create_timing_cache(b"").serialize()
"""
    assert run_without([], code).returncode == 0
    assert run_without(["onnx"], "import os; os.environ['FAKE_GPU_FAULTS'] = 'timing_cache'" + code).returncode == -6


def test_without_a_gpu(start: Start) -> None:
    gpu = start("8.6.0", FAKE_GPU_NAMES="")
    assert int(gpu.cudart.cudaGetDeviceCount()[0]) == 100 and gpu.cudart.cudaMalloc(8)[1] is None
    with pytest.raises(TypeError, match="nullptr"):
        gpu.tensorrt.Runtime(gpu.tensorrt.Logger())


def test_engines_take_memory_and_give_it_back(oldest: Trial) -> None:
    device, plan = oldest.gpu.device, oldest.build()
    engine = oldest.engine(plan)
    context = engine.create_execution_context()
    assert device.bytes_allocated() == plan.nbytes + engine.device_memory_size
    del context, engine
    assert device.live() == 0 and device.bytes_allocated() == 0
    device.memory = plan.nbytes - 1
    assert oldest.engine(plan) is None and "out of memory" in oldest.errors[-1]


def test_the_fixture_leaves_nothing_behind() -> None:
    assert "tensorrt" not in sys.modules or not hasattr(sys.modules["tensorrt"], "_common")
