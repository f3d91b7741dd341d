"""The fake CUDA: errors instead of silence, capture that records, replay that notices freed memory."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.engines.fake_trial import Trial, write_graph
from tests.fake_gpu_fixture import FakeGpu, fake_gpu  # noqa: F401

Start = Callable[..., FakeGpu]
TO_DEVICE, TO_HOST, ON_DEVICE = 1, 2, 3
GLOBAL, THREAD_LOCAL, RELAXED = 0, 1, 2
SOURCE = b'extern "C" __global__ void add_one(float *x, int n) {}'


@pytest.fixture
def gpu(fake_gpu: Start) -> FakeGpu:  # noqa: F811
    return fake_gpu()


def codes(*results: tuple[Any, ...]) -> list[int]:
    return [int(result[0]) for result in results]


def stream_of(gpu: FakeGpu) -> Any:
    return gpu.cudart.cudaStreamCreate()[1]


def filled(gpu: FakeGpu, values: list[int]) -> int:
    """int32 values on the device."""
    address = int(gpu.cudart.cudaMalloc(4 * len(values))[1])
    look(gpu, address, len(values))[:] = values
    return address


def look(gpu: FakeGpu, address: int, count: int) -> Any:
    return gpu.device.view(address, (count,), "int32")


def test_memory_is_counted_and_dirty(gpu: FakeGpu) -> None:
    rt = gpu.cudart
    address = int(rt.cudaMalloc(1000)[1])
    assert rt.cudaMemGetInfo()[1:] == (gpu.device.memory - 1000, gpu.device.memory)
    assert address % 256 == 0 and set(gpu.device.view(address, (1000,), "uint8")) == {0xCD}
    assert codes(rt.cudaFree(address + 4), rt.cudaFree(address), rt.cudaFree(address), rt.cudaFree(0)) == [1, 0, 1, 0]
    assert codes(rt.cudaFreeHost(address)) == [1]
    assert gpu.device.live() == gpu.device.bytes_allocated() == 0 and gpu.device.counts["cudaMalloc"] == 1


def test_memory_ends(gpu: FakeGpu) -> None:
    gpu.device.memory = 100
    assert codes(gpu.cudart.cudaMalloc(60), gpu.cudart.cudaMalloc(60), gpu.cudart.cudaMallocHost(60)) == [0, 2, 0]
    assert gpu.cudart.cudaGetErrorString(2)[1] == b"out of memory"


def test_each_gpu_has_its_own_memory_and_each_thread_its_gpu(gpu: FakeGpu) -> None:
    rt = gpu.cudart
    assert codes(rt.cudaSetDevice(1), rt.cudaSetDevice(2)) == [0, 101]
    rt.cudaMalloc(8)
    there: list[int] = []
    thread = threading.Thread(target=lambda: there.append(rt.cudaGetDevice()[1]))
    thread.start()
    thread.join()
    assert (gpu.device.bytes_allocated(0), gpu.device.bytes_allocated(1), there) == (0, 8, [0])


def test_copies_are_checked_and_counted_by_kind(gpu: FakeGpu) -> None:
    rt, stream = gpu.cudart, stream_of(gpu)
    host, back, a, b = np.arange(4, dtype=np.int32), np.zeros(4, np.int32), filled(gpu, [0] * 4), filled(gpu, [0] * 4)
    moves = [(a, host.ctypes.data, TO_DEVICE), (b, a, ON_DEVICE), (back.ctypes.data, b, TO_HOST)]
    assert codes(*(rt.cudaMemcpyAsync(to, source, 16, kind, stream) for to, source, kind in moves)) == [0, 0, 0]
    assert back.tolist() == [0, 1, 2, 3]
    assert {kind: gpu.device.counts[kind] for kind in ("HostToDevice", "DeviceToDevice", "DeviceToHost")} == {
        "HostToDevice": 1, "DeviceToDevice": 1, "DeviceToHost": 1
    }  # fmt: skip
    pinned = int(rt.cudaMallocHost(16)[1])
    assert codes(rt.cudaMemcpyAsync(pinned, a, 16, ON_DEVICE, stream)) == [1]
    illegal = illegal_address()
    for to, source, kind in [(a + 4, b, ON_DEVICE), (host.ctypes.data, a + 16, TO_HOST), (a, back.ctypes.data, 3)]:
        with pytest.raises(illegal):
            rt.cudaMemcpyAsync(to, source, 16, kind, stream)


def illegal_address() -> type[Exception]:
    import fake_device

    return fake_device.IllegalAddress


def capture(gpu: FakeGpu, stream: Any, action: Callable[[], object], mode: int = THREAD_LOCAL) -> tuple[Any, ...]:
    assert codes(gpu.cudart.cudaStreamBeginCapture(stream, mode)) == [0]
    action()
    return gpu.cudart.cudaStreamEndCapture(stream)  # type: ignore[no-any-return]


def test_capture_records_and_replay_does(gpu: FakeGpu) -> None:
    rt, stream, a, b = gpu.cudart, stream_of(gpu), filled(gpu, [1, 2]), filled(gpu, [0, 0])
    error, graph = capture(gpu, stream, lambda: rt.cudaMemcpyAsync(b, a, 8, ON_DEVICE, stream))
    assert int(error) == 0 and look(gpu, b, 2).tolist() == [0, 0]
    instance = rt.cudaGraphInstantiate(graph, 0)[1]
    look(gpu, a, 2)[:] = [3, 4]
    assert codes(rt.cudaGraphDestroy(graph), rt.cudaGraphLaunch(instance, stream)) == [0, 0]
    assert look(gpu, b, 2).tolist() == [3, 4]
    assert codes(rt.cudaGraphExecDestroy(instance), rt.cudaGraphLaunch(instance, stream)) == [0, 400]


def test_replay_notices_memory_that_was_freed_even_where_new_memory_has_the_address(gpu: FakeGpu) -> None:
    rt, stream, a, b = gpu.cudart, stream_of(gpu), filled(gpu, [1, 2]), filled(gpu, [0, 0])
    graph = capture(gpu, stream, lambda: rt.cudaMemcpyAsync(b, a, 8, ON_DEVICE, stream))[1]
    instance = rt.cudaGraphInstantiate(graph, 0)[1]
    block = gpu.device.allocations[a]
    rt.cudaFree(a)
    with pytest.raises(illegal_address(), match="use after free"):
        rt.cudaGraphLaunch(instance, stream)
    gpu.device.allocations[a] = type(block)(a, 8, 0, block.buffer)  # as if cudaMalloc had given it again
    with pytest.raises(illegal_address(), match="use after free"):
        rt.cudaGraphLaunch(instance, stream)


@pytest.mark.parametrize("call", ["cudaMalloc", "cudaFree", "cudaMallocHost", "cudaStreamSynchronize", "pageable"])
def test_what_capture_forbids_spoils_it(gpu: FakeGpu, call: str) -> None:
    rt, stream, a, host = gpu.cudart, stream_of(gpu), filled(gpu, [1]), np.zeros(1, np.int32)
    said: list[int] = []

    def forbidden() -> None:
        arguments = {"cudaFree": a, "cudaStreamSynchronize": stream}.get(call, 8)
        pageable = (a, host.ctypes.data, 4, TO_DEVICE, stream)
        said.extend(codes(rt.cudaMemcpyAsync(*pageable) if call == "pageable" else getattr(rt, call)(arguments)))

    assert codes(capture(gpu, stream, forbidden)) == [901] and said == [900]
    assert gpu.device.live() == 1 and codes(capture(gpu, stream, lambda: None)) == [0]


@pytest.mark.parametrize(("mode", "spoilt"), [(GLOBAL, True), (THREAD_LOCAL, False), (RELAXED, False)])
def test_other_threads_may_allocate_unless_the_capture_is_global(gpu: FakeGpu, mode: int, spoilt: bool) -> None:
    def allocate() -> None:
        thread = threading.Thread(target=lambda: gpu.cudart.cudaMalloc(8))
        thread.start()
        thread.join()

    assert codes(capture(gpu, stream_of(gpu), allocate, mode)) == [901 if spoilt else 0]


def test_a_busy_gpu_works_when_the_host_waits(gpu: FakeGpu) -> None:
    rt, stream, a = gpu.cudart, stream_of(gpu), filled(gpu, [7])
    gpu.device.deferred = True
    pinned, event = int(rt.cudaMallocHost(4)[1]), rt.cudaEventCreate()[1]
    look(gpu, pinned, 1)[0] = 0
    rt.cudaMemcpyAsync(pinned, a, 4, TO_HOST, stream)
    rt.cudaEventRecord(event, stream)
    assert look(gpu, pinned, 1)[0] == 0
    rt.cudaEventSynchronize(event)
    assert look(gpu, pinned, 1)[0] == 7


def add_one(arguments: list[Any]) -> None:
    import fake_device

    address, count = arguments
    fake_device.device.view(address, (count,), "float32")[...] += 1


def module(gpu: FakeGpu, source: bytes = SOURCE, architecture: bytes = b"sm_90") -> tuple[int, Any, bytes]:
    """The compiler's code and words, and the module."""
    from cuda.bindings import driver, nvrtc

    program = nvrtc.nvrtcCreateProgram(source, b"add.cu", 0, [], [])[1]
    code = int(nvrtc.nvrtcCompileProgram(program, 1, [b"--gpu-architecture=" + architecture])[0])
    size = nvrtc.nvrtcGetProgramLogSize(program)[1]
    log, cubin = bytes(1 + size), bytes(nvrtc.nvrtcGetCUBINSize(program)[1])
    nvrtc.nvrtcGetProgramLog(program, log)
    if len(cubin) > 1:  # none after a failure
        nvrtc.nvrtcGetCUBIN(program, cubin)
    return code, driver.cuModuleLoadData(cubin), log[:size]


def test_kernels_run_their_twins(gpu: FakeGpu) -> None:
    from cuda.bindings import driver

    stream, x = stream_of(gpu), filled(gpu, [0, 0])
    gpu.device.view(x, (2,), "float32")[:] = [1, 2]
    handle = module(gpu)[1][1]
    assert codes(driver.cuModuleGetFunction(handle, b"add_two")) == [500]
    function = driver.cuModuleGetFunction(handle, b"add_one")[1]
    parameters = ((x, 2), (ctypes.c_void_p, ctypes.c_int))

    def launch(threads: int = 32) -> int:
        return codes(driver.cuLaunchKernel(function, 1, 1, 1, threads, 1, 1, 0, stream, parameters, 0))[0]

    assert launch() == 500, "a kernel without a twin"
    gpu.kernels.register("add_one", add_one)
    assert (launch(), launch(2048)) == (0, 1)
    assert gpu.device.view(x, (2,), "float32").tolist() == [2, 3] and gpu.device.counts["launch:add_one"] == 1
    instance = gpu.cudart.cudaGraphInstantiate(capture(gpu, stream, launch)[1], 0)[1]
    gpu.cudart.cudaFree(x)
    with pytest.raises(illegal_address(), match="use after free"):
        gpu.cudart.cudaGraphLaunch(instance, stream)
    driver.cuModuleUnload(handle)
    assert launch() == 400


def test_the_compiler_refuses_as_nvrtc_does(gpu: FakeGpu) -> None:
    gpu.cudart.cudaSetDevice(0)
    code, loaded, log = module(gpu, b"#error no")
    assert code == 6 and b"#error" in log and codes(loaded) == [200]
    assert module(gpu, architecture=b"sm_10")[0] == 5
    assert codes(module(gpu, architecture=b"sm_80")[1]) == [209], "code for another GPU"


def test_the_driver_needs_a_context_in_the_thread(gpu: FakeGpu) -> None:
    assert codes(module(gpu)[1]) == [201]
    gpu.cudart.cudaSetDevice(0)
    assert codes(module(gpu)[1]) == [0]


def test_engines_are_captured_after_a_first_run_with_the_same_shapes(gpu: FakeGpu, tmp_path: Path) -> None:
    trial = Trial(gpu, write_graph(tmp_path / "tiny.onnx"))
    context, x, y = trial.ready()
    stream = trial.stream()
    assert codes(capture(gpu, stream, lambda: context.execute_async_v3(stream))) == [901], "not run before"
    assert context.execute_async_v3(stream)
    error, graph = capture(gpu, stream, lambda: context.execute_async_v3(stream))
    instance = gpu.cudart.cudaGraphInstantiate(graph, 0)[1]
    trial.values(x)[...] = 0
    assert int(error) == 0 and trial.values(y)[0, 0] == 2
    gpu.cudart.cudaGraphLaunch(instance, stream)
    assert trial.values(y).tolist() == [[0, 1, 2, 3]] * 2 and gpu.device.counts["execute"] == 2
    gpu.cudart.cudaFree(y)
    with pytest.raises(illegal_address()):
        gpu.cudart.cudaGraphLaunch(instance, stream)


def test_engines_scribble_over_their_working_memory(gpu: FakeGpu, tmp_path: Path) -> None:
    trial = Trial(gpu, write_graph(tmp_path / "tiny.onnx"))
    context, _, _ = trial.ready()
    scratch = filled(gpu, [5] * (context.engine.device_memory_size // 4))
    context.device_memory = scratch
    assert context.execute_async_v3(trial.stream())
    assert 5 not in look(gpu, scratch, 16)
    context.device_memory = scratch + 4
    with pytest.raises(illegal_address()):
        context.execute_async_v3(trial.stream())
