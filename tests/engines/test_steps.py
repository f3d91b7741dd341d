"""The decode step's kernels as they are launched, over a GPU that checks every address: arguments, graphs, ring."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.arrays import Array
from runtime.engines import host_steps
from runtime.errors import EngineError
from tests.fake_gpu_fixture import FakeGpu

Start = Callable[..., FakeGpu]


@pytest.fixture(params=["at once", "deferred"])
def gpu(request: pytest.FixtureRequest, fake_gpu: Start, tmp_path: Any) -> FakeGpu:
    """Work happens when it is asked for, or when the host waits for it."""
    started = fake_gpu("10.16.1", XDG_CACHE_HOME=str(tmp_path))
    started.device.deferred = request.param == "deferred"
    return started


@pytest.fixture
def memory(gpu: FakeGpu) -> Iterator[Any]:
    from runtime.engines.cuda.memory import CudaMemory

    opened = CudaMemory(0)
    yield opened
    opened.close()


@pytest.fixture
def steps(memory: Any) -> Iterator[Any]:
    from runtime.engines.cuda.steps import CudaSteps

    opened = CudaSteps(memory, captures=True)
    yield opened
    opened.close()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("shape", [(4, 1, 1, 2, 8), (1, 1, 3, 96, 64), (2, 5, 2, 1, 8)])  # [X, T, B, K, D]
def test_rows_are_appended_as_defined(memory: Any, steps: Any, shape: tuple[int, ...], dtype: str) -> None:
    rng = np.random.default_rng(0)
    stacks, _, batch, *row = shape
    source = rng.normal(size=shape).astype(dtype)
    target = rng.normal(size=(stacks, 9, batch, *row)).astype(dtype)
    starts = np.array([-1, 8, 0, 9][:batch] if batch > 1 else [7], np.int32)
    want = target.copy()
    host_steps.append_rows(source, want, starts)
    tensors = [memory.upload(array) for array in (source, target, starts)]
    steps.append_rows(*tensors)
    np.testing.assert_array_equal(memory.download(tensors[1]), want)


def test_rows_of_odd_width_are_an_error_of_ours(memory: Any, steps: Any) -> None:
    tensors = [memory.zeros(shape, "float16") for shape in ((1, 1, 1, 1, 4), (1, 3, 1, 1, 4))]
    with pytest.raises(AssertionError, match="a cache row of 8 bytes is no multiple of 16"):
        steps.append_rows(*tensors, memory.zeros((1,), "int32"))


def state_arrays(batch: int, vocabulary: int, seed: int) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    logits = rng.integers(-9, 9, (batch, 1, vocabulary)).astype(np.float32)
    lengths = rng.integers(0, 11, batch).astype(np.int32)
    cos, sin = rng.normal(size=(2, 12, 8)).astype(np.float32)
    return {
        "input_ids": np.zeros((batch, 1), np.int32), "past_length": lengths,
        "starts": np.where(rng.random(batch) < 0.3, -1, lengths).astype(np.int32),
        "taken": np.full(batch, seed, np.int32), "cos": np.zeros((batch, 1, 8), np.float32),
        "sin": np.zeros((batch, 1, 8), np.float32), "cos_table": cos, "sin_table": sin,
        "stop_ids": np.array([3, 500], np.int32), "logits": logits,
    }  # fmt: skip


@pytest.mark.parametrize("batch", [1, 3])
def test_tokens_are_chosen_as_defined(memory: Any, steps: Any, batch: int) -> None:
    """Three steps on one state: what one leaves is what the next finds."""
    from runtime.engines.contract import StepState

    arrays = state_arrays(batch, 700, seed=5)
    twin = {name: array.copy() for name, array in arrays.items()}
    state = StepState(**{name: memory.upload(array) for name, array in arrays.items()})
    ring, twin_ring = steps.ring(4, batch), np.zeros((4, batch), np.int32)
    for step in range(3):
        logits = state_arrays(batch, 700, seed=step)["logits"]
        memory.write(logits, state.logits)
        steps.next_tokens(state, ring)
        host_steps.next_tokens(
            logits[:, 0], twin["input_ids"][:, 0], twin["past_length"], twin["starts"], twin["taken"],
            (twin["cos"][:, 0], twin["sin"][:, 0]), (twin["cos_table"], twin["sin_table"]), twin["stop_ids"], twin_ring,
        )  # fmt: skip
        wait = ring.mark()
        wait()
        np.testing.assert_array_equal(ring.read((5 + step) % 4), twin_ring[(5 + step) % 4])
    for name in ("input_ids", "past_length", "starts", "taken", "cos", "sin"):
        np.testing.assert_array_equal(memory.download(getattr(state, name)), twin[name], err_msg=name)


def test_a_graph_fits_its_addresses_and_shapes(gpu: FakeGpu, memory: Any, steps: Any) -> None:
    """The first time runs as it is, the second is captured, later ones are replayed; another tensor begins anew."""
    a, b, c = (memory.upload(np.full(8, value, np.float32)) for value in (1, 2, 3))
    done: list[str] = []

    def copy(source: Any, target: Any, name: str) -> None:
        def action() -> None:
            done.append(name)
            memory.copy(source, target)

        steps.replay([source, target], action)

    for value in range(5):
        memory.write(np.full(8, value, np.float32), a)
        copy(a, b, "a to b")
        assert (memory.download(b) == value).all()
    assert done == ["a to b"] * 2
    copy(c, b, "c to b")
    assert (memory.download(b) == 3).all()
    copy(a[0:4], b[0:4], "shorter")
    np.testing.assert_array_equal(memory.download(b), [4] * 4 + [3] * 4)
    assert done[2:] == ["c to b", "shorter"]
    assert gpu.device.counts["cudaGraphInstantiate"] == 1
    steps.graphs.clear()
    copy(a, b, "anew")
    assert done[4:] == ["anew"]


def test_old_graphs_go(gpu: FakeGpu, memory: Any, steps: Any) -> None:
    from runtime.engines.cuda.graphs import KEPT

    tensors = [memory.zeros((4,), "float32") for _ in range(KEPT + 5)]
    for _ in range(2):
        for tensor in tensors:
            steps.replay([tensor], lambda: memory.copy(tensor, tensor))  # noqa: B023
    kept = [tensor for tensor in tensors[-KEPT:] for _ in range(2)]
    for tensor in kept:
        steps.replay([tensor], lambda: memory.copy(tensor, tensor))  # noqa: B023
    made, gone = gpu.device.counts["cudaGraphInstantiate"], gpu.device.counts["cudaGraphExecDestroy"]
    assert made - gone <= KEPT
    steps.graphs.clear()
    assert gpu.device.counts["cudaGraphExecDestroy"] == made > 0
    assert gpu.device.counts["cudaGraphDestroy"] == made


def test_work_that_cannot_be_captured_runs_as_it_is(gpu: FakeGpu, memory: Any, steps: Any) -> None:
    """A library that allocates in the middle spoils the capture; from then on nothing is captured."""
    tensor, runs = memory.zeros((4,), "float32"), []

    def action() -> None:
        runs.append(len(runs))
        memory.pool.take(1_000_000 * len(runs))
        memory.write(np.full(4, len(runs), np.float32), tensor)

    for _ in range(4):
        steps.replay([tensor], action)
    assert memory.download(tensor)[0] == len(runs) == 5, "one more than asked for: the one whose capture failed"
    assert steps.graphs.refused is not None
    assert gpu.device.counts["cudaStreamBeginCapture"] == 1
    assert gpu.device.counts["cudaGraphInstantiate"] == 0


def test_an_interrupt_while_capturing_leaves_the_stream_as_it_was(gpu: FakeGpu, memory: Any, steps: Any) -> None:
    source, target = memory.upload(np.full(4, 7, np.float32)), memory.zeros((4,), "float32")
    ends: list[BaseException | None] = [None, KeyboardInterrupt(), None, None]

    def action() -> None:
        memory.copy(source, target)
        if (end := ends.pop(0)) is not None:
            raise end

    steps.replay([target], action)
    with pytest.raises(KeyboardInterrupt):
        steps.replay([target], action)
    memory.write(np.zeros(4, np.float32), target)
    assert (memory.download(target) == 0).all(), "what was asked for while capturing is not done later"
    steps.replay([target], action)
    assert (memory.download(target) == 7).all()
    assert steps.graphs.refused is None, "an interrupt says nothing about capturing"
    counts = gpu.device.counts
    assert (counts["cudaStreamBeginCapture"], counts["cudaGraphInstantiate"], counts["cudaGraphDestroy"]) == (2, 1, 2)


def test_another_thread_on_the_default_stream_does_not_spoil_a_capture(memory: Any, steps: Any) -> None:
    """PyTorch works there unless told otherwise."""
    from concurrent.futures import ThreadPoolExecutor

    from cuda.bindings import runtime as cudart

    a, b, other = (memory.upload(np.full(4, value, np.float32)) for value in (1, 2, 3))
    memory.synchronize()

    def elsewhere() -> int:
        return int(cudart.cudaMemcpy(other.address, b.address, 16, cudart.cudaMemcpyKind.cudaMemcpyDeviceToDevice)[0])

    def action() -> None:
        memory.copy(a, b)
        with ThreadPoolExecutor(1) as thread:
            assert thread.submit(elsewhere).result(timeout=60) == 0

    for _ in range(3):
        steps.replay([a, b], action)
    assert steps.graphs.refused is None


def test_a_graph_that_has_no_room_is_done_without(
    gpu: FakeGpu, memory: Any, steps: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cuda.bindings import runtime as cudart

    out_of_memory = cudart.cudaError_t.cudaErrorMemoryAllocation
    monkeypatch.setattr(cudart, "cudaGraphInstantiate", lambda graph, flags: (out_of_memory, None))
    source, target = memory.upload(np.full(4, 7, np.float32)), memory.zeros((4,), "float32")
    for _ in range(3):
        memory.write(np.zeros(4, np.float32), target)
        steps.replay([target], lambda: memory.copy(source, target))
        assert (memory.download(target) == 7).all()
    assert "the GPU has no room left" in str(steps.graphs.refused)
    assert gpu.device.counts["cudaStreamBeginCapture"] == gpu.device.counts["cudaGraphDestroy"] == 1


def test_without_graphs_every_step_is_asked_for(gpu: FakeGpu, memory: Any) -> None:
    from runtime.engines.cuda.steps import CudaSteps

    steps, runs = CudaSteps(memory, captures=False), []
    for _ in range(4):
        steps.replay([], lambda: runs.append(1))
    assert len(runs) == 4
    assert gpu.device.counts["cudaStreamBeginCapture"] == 0
    steps.close()


def test_everything_is_given_back(gpu: FakeGpu) -> None:
    from runtime.engines.cuda.memory import CudaMemory
    from runtime.engines.cuda.steps import CudaSteps

    memory = CudaMemory(0)
    steps = CudaSteps(memory, captures=True)
    ring = steps.ring(4, 2)
    assert steps.ring(4, 2) is ring is not steps.ring(4, 1), "graphs hold the ring's address"
    held = memory.upload(np.ones(300))
    assert gpu.device.live() > 0 < gpu.device.live(None)
    steps.close()
    memory.close()
    assert gpu.device.live(None) == 0
    assert gpu.device.bytes_allocated() == memory.pool.reserved > 0, "a tensor is still held"
    del held
    assert gpu.device.bytes_allocated() == memory.pool.reserved == 0
    assert gpu.device.counts["cudaStreamCreateWithFlags"] == gpu.device.counts["cudaStreamDestroy"] == 1


def test_equal_work_gets_equal_addresses_in_whatever_order_memory_comes_back(gpu: FakeGpu, memory: Any) -> None:
    addresses = []
    for order in ([0, 1, 2, 3], [3, 1, 0, 2], [2, 3, 1, 0]):
        tensors = [memory.zeros((100,), "float32") for _ in range(4)]
        addresses.append([tensor.address for tensor in tensors])
        for index in order:
            tensors[index] = None  # type: ignore[assignment]
    assert addresses[1] == addresses[2] == sorted(addresses[0])
    assert gpu.device.counts["cudaMalloc"] == 4


def test_memory_kept_for_reuse_gives_way_to_a_larger_piece(gpu: FakeGpu, memory: Any) -> None:
    from cuda.bindings import runtime as cudart

    from runtime.engines.cuda.library import OutOfDeviceMemory

    gpu.device.memory = 10_000_000
    for _ in range(2):
        memory.empty((7_000_000,), "uint8")
        memory.empty((9_000_000,), "uint8")
    with pytest.raises(OutOfDeviceMemory) as caught:
        memory.empty((11_000_000,), "uint8")
    assert str(caught.value) == (
        "the GPU has no room left (0.0 of 0.0 GB are free). Crop the scene, end other programs that use the GPU, or "
        "build the engines again with smaller --max_voxels or --max_length."
    )
    assert isinstance(caught.value, EngineError)
    memory.empty((9_000_000,), "uint8")
    assert cudart.cudaGetLastError()[0] == 0, "a library would take it for an error of its next launch"


def test_views_and_copies(memory: Any) -> None:
    array = np.arange(24, dtype=np.float32).reshape(4, 3, 2)
    tensor = memory.upload(array)
    for index in (0, -1, slice(1, 3), slice(2, 2), slice(None)):
        np.testing.assert_array_equal(memory.download(tensor[index]), array[index])
    np.testing.assert_array_equal(memory.download(tensor[2][1:3]), array[2][1:3])
    memory.write(np.zeros((3, 2), np.float32), tensor[1])
    memory.copy(tensor[3], tensor[0])
    array[1], array[0] = 0, array[3]
    np.testing.assert_array_equal(memory.download(tensor), array)
    with pytest.raises(IndexError):
        tensor[4]
    with pytest.raises(AssertionError, match="copy of"):
        memory.copy(tensor[0], tensor[0:1])


def test_bfloat16_comes_widened(memory: Any) -> None:
    tensor = memory.zeros((3,), "bfloat16")
    assert tensor.bytes == 6
    bits = (np.array([1.5, -2.0, 1e30], np.float32).view(np.uint32) >> 16).astype(np.uint16)
    memory.write(bits, tensor)
    got = memory.download(tensor)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, [1.5, -2.0, 1e30], rtol=1e-2)


def test_kernels_are_compiled_once_and_read_back(gpu: FakeGpu, memory: Any, tmp_path: Any, monkeypatch: Any) -> None:
    from runtime.engines.cuda import kernels

    compiled: list[str] = []
    real = kernels.compile_cubin
    monkeypatch.setattr(kernels, "compile_cubin", lambda *args: compiled.append(args[2]) or real(*args))
    for _ in range(2):
        kernels.Kernels(0).close()
    assert compiled == ["sm_90"]
    (kept,) = (tmp_path / "spatiallm-export").iterdir()
    assert kept.suffix == ".cubin"
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")  # a disk that cannot be written
    kernels.Kernels(0).close()
    assert compiled == ["sm_90"] * 2


@pytest.mark.parametrize("damage", ["cut", "altered", "empty", "folder", "pipe"])
def test_a_damaged_cache_of_kernels_is_made_anew(gpu: FakeGpu, memory: Any, tmp_path: Any, damage: str) -> None:
    """What it holds is machine code: the driver must never see it."""
    from runtime.engines.cuda.kernels import SOURCE, cubin

    code, (kept,) = cubin(SOURCE, "sm_90"), (tmp_path / "spatiallm-export").iterdir()
    whole = kept.read_bytes()
    kept.unlink()
    if damage in ("folder", "pipe"):
        kept.mkdir() if damage == "folder" else os.mkfifo(kept)
    else:
        kept.write_bytes({"cut": whole[:-1], "altered": whole[:-1] + b"!", "empty": b""}[damage])
    assert cubin(SOURCE, "sm_90") == code
    assert kept.is_dir() if damage == "folder" else kept.read_bytes() == whole
    assert list(kept.parent.iterdir()) == [kept]


def test_kernels_of_a_user_without_a_home(gpu: FakeGpu, memory: Any, monkeypatch: Any) -> None:
    from runtime.engines.cuda.kernels import SOURCE, cubin

    def nobody() -> Any:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", nobody)
    assert cubin(SOURCE, "sm_90") == cubin(SOURCE, "sm_90")


def test_a_compiler_that_refuses(gpu: FakeGpu, tmp_path: Any) -> None:
    from runtime.engines.cuda.kernels import compile_cubin

    with pytest.raises(EngineError) as caught:
        compile_cubin(b"this is no kernel", "step.cu", "sm_75000")
    assert str(caught.value).startswith("step.cu cannot be compiled for sm_75000 (")
    assert str(caught.value).endswith("pip install --upgrade 'cuda-bindings[all]'")


def test_a_compiler_that_makes_no_program_is_not_a_full_gpu(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """NVRTC's errors have the numbers of others in CUDA: 2 is no lack of memory here."""
    from cuda.bindings import nvrtc

    from runtime.engines.cuda.kernels import compile_cubin

    failure = nvrtc.nvrtcResult.NVRTC_ERROR_PROGRAM_CREATION_FAILURE
    monkeypatch.setattr(nvrtc, "nvrtcCreateProgram", lambda *_: (failure, None))
    with pytest.raises(EngineError) as caught:
        compile_cubin(b"", "step.cu", "sm_90")
    assert str(caught.value) == (
        "NVRTC refused <lambda>: NVRTC_ERROR_PROGRAM_CREATION_FAILURE. "
        "Install it anew: pip install --upgrade 'cuda-bindings[all]'"
    )
