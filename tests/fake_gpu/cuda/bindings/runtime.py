"""Fake of `cuda.bindings.runtime` over `fake_device`."""

from __future__ import annotations

import ctypes
import itertools
import threading
from enum import IntEnum
from functools import wraps
from types import SimpleNamespace
from typing import Any

import fake_streams
from fake_device import Span, device
from fake_streams import Capture, Event, Stream, new_handle, stream_of

from cuda.bindings._handles import Handle


class cudaError_t(IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorInvalidDevice = 101
    cudaErrorInvalidResourceHandle = 400
    cudaErrorNotReady = 600
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901
    cudaErrorStreamCaptureImplicit = 906
    cudaErrorStreamCaptureWrongThread = 908


class cudaMemcpyKind(IntEnum):
    cudaMemcpyHostToHost = 0
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2
    cudaMemcpyDeviceToDevice = 3
    cudaMemcpyDefault = 4


class cudaStreamCaptureMode(IntEnum):
    cudaStreamCaptureModeGlobal = 0
    cudaStreamCaptureModeThreadLocal = 1
    cudaStreamCaptureModeRelaxed = 2


class cudaStreamCaptureStatus(IntEnum):
    cudaStreamCaptureStatusNone = 0
    cudaStreamCaptureStatusActive = 1
    cudaStreamCaptureStatusInvalidated = 2


class cudaDeviceAttr(IntEnum):
    cudaDevAttrMultiProcessorCount = 16
    cudaDevAttrComputeCapabilityMajor = 75
    cudaDevAttrComputeCapabilityMinor = 76


class cudaStream_t(Handle): ...


class cudaEvent_t(Handle): ...


class cudaGraph_t(Handle): ...


class cudaGraphExec_t(Handle): ...


cudaStreamDefault, cudaStreamNonBlocking = 0, 1
cudaEventDefault, cudaEventBlockingSync, cudaEventDisableTiming = 0, 1, 2
cudaHostAllocDefault, cudaHostAllocPortable, cudaHostAllocMapped = 0, 1, 2
OK, BAD, HANDLE = cudaError_t.cudaSuccess, cudaError_t.cudaErrorInvalidValue, cudaError_t.cudaErrorInvalidResourceHandle
UNSUPPORTED = cudaError_t.cudaErrorStreamCaptureUnsupported
TEXTS = {0: "no error", 1: "invalid argument", 2: "out of memory", 100: "no CUDA-capable device is detected",
         101: "invalid device ordinal", 400: "invalid resource handle", 600: "device not ready",
         900: "operation not permitted when stream is capturing",
         901: "operation failed due to a previous error during capture"}  # fmt: skip


def _counted(results: int = 0) -> Any:
    """Count calls by name, remember failures; without a GPU fail with `results` times None. Work may raise."""

    def decorate(function: Any) -> Any:
        @wraps(function)
        def called(*arguments: Any) -> tuple[Any, ...]:
            device.counts[function.__name__] += 1
            if not device.gpus:
                return (cudaError_t.cudaErrorNoDevice, *itertools.repeat(None, results))
            _ = device.current  # the thread has a context from here on
            answer = function(*arguments)
            answer = answer if isinstance(answer, tuple) else (answer, *itertools.repeat(None, results))
            device.thread.last_error = answer[0] or getattr(device.thread, "last_error", OK)
            return answer

        return called

    return decorate


@_counted(1)
def cudaGetDeviceCount() -> Any:
    return OK, len(device.gpus)


@_counted()
def cudaSetDevice(index: int) -> Any:
    if not 0 <= index < len(device.gpus):
        return cudaError_t.cudaErrorInvalidDevice
    device.current = index
    return OK


@_counted(1)
def cudaGetDevice() -> Any:
    return OK, device.current


@_counted(1)
def cudaGetDeviceProperties(index: int) -> Any:
    if not 0 <= index < len(device.gpus):
        return cudaError_t.cudaErrorInvalidDevice
    gpu = device.gpus[index]
    return OK, SimpleNamespace(name=gpu.name.encode(), major=gpu.major, minor=gpu.minor, totalGlobalMem=device.memory,
                               multiProcessorCount=4)  # fmt: skip


@_counted(1)
def cudaDeviceGetAttribute(attribute: cudaDeviceAttr, index: int) -> Any:
    if not 0 <= index < len(device.gpus):
        return cudaError_t.cudaErrorInvalidDevice
    gpu = device.gpus[index]
    return OK, {16: 4, 75: gpu.major, 76: gpu.minor}[attribute]


def cudaRuntimeGetVersion() -> Any:
    return OK, 12090


def cudaDriverGetVersion() -> Any:
    return OK, 13000 if device.gpus else 0


def cudaGetErrorString(error: int) -> Any:
    return OK, TEXTS.get(int(error), cudaError_t(error).name).encode()


def cudaGetErrorName(error: int) -> Any:
    return OK, cudaError_t(error).name.encode()


def cudaGetLastError() -> Any:
    """What failed last in this thread, which is then forgotten."""
    error, device.thread.last_error = getattr(device.thread, "last_error", OK), OK
    return (error,)


@_counted(2)
def cudaMemGetInfo() -> Any:
    return OK, device.memory - device.bytes_allocated(device.current), device.memory


def _allocate(size: int, where: int | None) -> Any:
    if fake_streams.unsafe_call():
        return UNSUPPORTED
    if size == 0:
        return OK, 0
    block = device.allocate(size, where)
    return (OK, block.address) if block else cudaError_t.cudaErrorMemoryAllocation


def _free(address: Any, pinned: bool) -> Any:
    if fake_streams.unsafe_call():
        return UNSUPPORTED
    cudaDeviceSynchronize()  # cudaFree waits for all that runs
    return OK if int(address) == 0 or device.free(int(address), pinned) else BAD


@_counted(1)
def cudaMalloc(size: int) -> Any:
    return _allocate(size, device.current)


@_counted(1)
def cudaMallocHost(size: int) -> Any:
    return _allocate(size, None)


@_counted(1)
def cudaHostAlloc(size: int, flags: int) -> Any:
    return _allocate(size, None)


@_counted()
def cudaFree(devPtr: Any) -> Any:
    return _free(devPtr, pinned=False)


@_counted()
def cudaFreeHost(ptr: Any) -> Any:
    return _free(ptr, pinned=True)


def _span(address: int, size: int, on_device: bool) -> Span | None:
    """Known memory; None: pageable memory of the host, which nobody can check."""
    if on_device or device.find(address) is not None:
        return device.span(address, size)
    return None


def _move(target: int, source: int, size: int, spans: list[Span]) -> None:
    for span in spans:
        span.check()
    ctypes.memmove(target, source, size)


def _copy(dst: Any, src: Any, count: int, kind: int, stream: Stream) -> Any:
    target, source = int(dst), int(src)
    if kind == cudaMemcpyKind.cudaMemcpyDefault or count == 0:
        return BAD if count else OK
    device.counts[cudaMemcpyKind(kind).name.removeprefix("cudaMemcpy")] += 1
    spans = [_span(target, count, kind in (1, 3)), _span(source, count, kind in (2, 3))]
    for span, wanted in zip(spans, (kind in (1, 3), kind in (2, 3)), strict=True):
        if span is not None and (span.block.device is not None) != wanted:
            return BAD
    known = [span for span in spans if span is not None]
    if len(known) == 2 or kind == 0:
        stream.submit(lambda: _move(target, source, count, known))
        return OK
    if fake_streams.spoil(stream):  # pageable memory may be anywhere when the graph is replayed
        return UNSUPPORTED
    if spans[1] is None:  # CUDA reads pageable memory before it returns
        kept = ctypes.create_string_buffer(ctypes.string_at(source, count), count)
        stream.submit(lambda: _move(target, ctypes.addressof(kept), count, known))
        return OK
    stream.submit(lambda: _move(target, source, count, known))
    stream.finish()  # and writes it before it returns
    return OK


@_counted()
def cudaMemcpyAsync(dst: Any, src: Any, count: int, kind: cudaMemcpyKind, stream: Any) -> Any:
    found = stream_of(stream)
    return HANDLE if found is None else _copy(dst, src, count, kind, found)


@_counted()
def cudaMemcpy2DAsync(
    dst: Any, dpitch: int, src: Any, spitch: int, width: int, height: int, kind: cudaMemcpyKind, stream: Any
) -> Any:
    found = stream_of(stream)
    if found is None:
        return HANDLE
    if kind != cudaMemcpyKind.cudaMemcpyDeviceToDevice or width > min(dpitch, spitch):
        return BAD  # others are not needed
    target, source = int(dst), int(src)
    device.counts["DeviceToDevice"] += 1
    if width * height:
        spans = [
            device.span(start, (height - 1) * pitch + width) for start, pitch in ((target, dpitch), (source, spitch))
        ]
        found.submit(lambda: [_move(target + r * dpitch, source + r * spitch, width, spans) for r in range(height)])
    return OK


@_counted()
def cudaMemcpy(dst: Any, src: Any, count: int, kind: cudaMemcpyKind) -> Any:
    if fake_streams.unsafe_call() or fake_streams.default_stream_call():
        return cudaError_t.cudaErrorStreamCaptureImplicit
    cudaDeviceSynchronize()
    return _copy(dst, src, count, kind, Stream(device.current))


@_counted()
def cudaMemsetAsync(devPtr: Any, value: int, count: int, stream: Any) -> Any:
    found = stream_of(stream)
    if found is None:
        return HANDLE
    if count:
        span = device.span(int(devPtr), count)
        found.submit(lambda: span.array().fill(value))
    return OK


@_counted(1)
def cudaStreamCreateWithFlags(flags: int) -> Any:
    handle = new_handle()
    fake_streams.streams[handle] = Stream(device.current, blocking=flags != cudaStreamNonBlocking)
    return OK, cudaStream_t(handle)


def cudaStreamCreate() -> Any:
    return cudaStreamCreateWithFlags(cudaStreamDefault)


@_counted()
def cudaStreamDestroy(stream: Any) -> Any:
    found = fake_streams.streams.pop(int(stream), None)
    if found is None:
        return HANDLE
    found.finish()
    return OK


@_counted()
def cudaStreamSynchronize(stream: Any) -> Any:
    found = stream_of(stream)
    if found is None:
        return HANDLE
    if fake_streams.spoil(found):
        return UNSUPPORTED
    found.finish()
    return OK


@_counted()
def cudaDeviceSynchronize() -> Any:
    if fake_streams.unsafe_call():
        return UNSUPPORTED
    for stream in [s for s in list(fake_streams.streams.values()) if s.device == device.current]:
        stream.finish()
    return OK


@_counted(1)
def cudaStreamIsCapturing(stream: Any) -> Any:
    found = stream_of(stream)
    if found is None:
        return HANDLE
    state = 0 if found.capture is None else 2 if found.capture.invalid else 1
    return OK, cudaStreamCaptureStatus(state)


@_counted()
def cudaStreamWaitEvent(stream: Any, event: Any, flags: int) -> Any:
    found, awaited = stream_of(stream), fake_streams.events.get(int(event))
    if found is None or awaited is None:
        return HANDLE
    found.submit(awaited.wait)
    return OK


@_counted(1)
def cudaEventCreateWithFlags(flags: int) -> Any:
    handle = new_handle()
    fake_streams.events[handle] = Event()
    return OK, cudaEvent_t(handle)


def cudaEventCreate() -> Any:
    return cudaEventCreateWithFlags(cudaEventDefault)


@_counted()
def cudaEventRecord(event: Any, stream: Any) -> Any:
    found, recorded = stream_of(stream), fake_streams.events.get(int(event))
    if found is None or recorded is None:
        return HANDLE
    recorded.record(found)
    return OK


@_counted()
def cudaEventSynchronize(event: Any) -> Any:
    found = fake_streams.events.get(int(event))
    if found is None:
        return HANDLE
    if found.stream is not None and fake_streams.spoil(found.stream):
        return UNSUPPORTED
    found.wait()
    return OK


@_counted()
def cudaEventQuery(event: Any) -> Any:
    """Not ready, then ready: a stream that waits goes on between two looks."""
    found = fake_streams.events.get(int(event))
    if found is None:
        return HANDLE
    ready = found.stream is None or found.done is not None
    found.wait()
    return OK if ready else cudaError_t.cudaErrorNotReady


@_counted(1)
def cudaEventElapsedTime(start: Any, end: Any) -> Any:
    first, last = (fake_streams.events.get(int(event)) for event in (start, end))
    if first is None or last is None or first.done is None or last.done is None:
        return HANDLE
    return OK, (last.done - first.done) * 1e3


@_counted()
def cudaEventDestroy(event: Any) -> Any:
    return OK if fake_streams.events.pop(int(event), None) else HANDLE


@_counted()
def cudaStreamBeginCapture(stream: Any, mode: cudaStreamCaptureMode) -> Any:
    found = stream_of(stream)
    if found is None:
        return HANDLE
    if found.capture is not None or int(stream) == 0:  # the default stream cannot be captured
        return UNSUPPORTED
    found.capture = Capture(int(mode), threading.get_ident())
    return OK


@_counted(1)
def cudaStreamEndCapture(stream: Any) -> Any:
    found = stream_of(stream)
    if found is None or found.capture is None:
        return BAD
    capture = found.capture
    if capture.mode != fake_streams.RELAXED and capture.thread != threading.get_ident():
        return cudaError_t.cudaErrorStreamCaptureWrongThread
    found.capture = None
    if capture.invalid:
        return cudaError_t.cudaErrorStreamCaptureInvalidated
    handle = new_handle()
    fake_streams.graphs[handle] = capture.work
    return OK, cudaGraph_t(handle)


@_counted(1)
def cudaGraphInstantiate(graph: Any, flags: int) -> Any:
    work = fake_streams.graphs.get(int(graph))
    if work is None:
        return BAD
    handle = new_handle()
    fake_streams.executables[handle] = list(work)
    return OK, cudaGraphExec_t(handle)


@_counted()
def cudaGraphLaunch(graphExec: Any, stream: Any) -> Any:
    work, found = fake_streams.executables.get(int(graphExec)), stream_of(stream)
    if work is None or found is None:
        return HANDLE
    for action in work:
        found.submit(action)
    return OK


@_counted()
def cudaGraphExecDestroy(graphExec: Any) -> Any:
    return OK if fake_streams.executables.pop(int(graphExec), None) is not None else HANDLE


@_counted()
def cudaGraphDestroy(graph: Any) -> Any:
    return OK if fake_streams.graphs.pop(int(graph), None) is not None else HANDLE
