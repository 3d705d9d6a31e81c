"""A CUDA runtime without a GPU: the members of ``cuda.bindings.runtime`` that are used here.

Device memory is the process's own, so that copies are real; addresses that were freed are not to
be met again. Work on a stream happens at once, but for what is captured.
"""
# ruff: noqa: N801, N802, N815 (the names are CUDA's)

from __future__ import annotations

import ctypes
import enum
import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any


class cudaError_t(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureUnsupported = 900


class cudaMemcpyKind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class cudaStreamCaptureMode(enum.IntEnum):
    cudaStreamCaptureModeThreadLocal = 1


OK = cudaError_t.cudaSuccess
_Method = Callable[..., tuple[Any, ...]]


def member(values: int) -> Callable[[_Method], _Method]:
    """Mark a function of the runtime, which returns so many values after its error."""

    def wrap(method: _Method) -> _Method:
        @functools.wraps(method)
        def called(self: FakeCuda, *args: Any) -> tuple[Any, ...]:
            self.calls.append(method.__name__)
            if method.__name__ in self.fails:
                if method.__name__ == "cudaStreamEndCapture":
                    self.streams[args[0]] = None
                return (self.fails[method.__name__], *[None] * values)
            return method(self, *args)

        return called

    return wrap


class FakeCuda:
    """One fake module; ``fails`` maps a function's name to the error that it returns."""

    cudaError_t = cudaError_t
    cudaMemcpyKind = cudaMemcpyKind
    cudaStreamCaptureMode = cudaStreamCaptureMode
    cudaStreamNonBlocking = 1

    def __init__(
        self,
        *,
        devices: tuple[tuple[str, tuple[int, int], int], ...] = (
            ("NVIDIA L4", (8, 9), 24 * 2**30),
        ),
        driver: int = 13000,
        free: int = 20 * 2**30,
    ) -> None:
        self.devices, self.driver, self.free = devices, driver, free
        self.fails: dict[str, cudaError_t] = {}
        self.calls: list[str] = []
        self.memory: dict[int, tuple[int, Any]] = {}
        self.freed: list[Any] = []
        self.streams: dict[int, list[Callable[[], None]] | None] = {}
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.events: dict[int, float] = {}
        self._handles = iter(range(1000, 10**9))

    # What is there.
    @member(1)
    def cudaDriverGetVersion(self) -> Any:
        return OK, self.driver

    @member(1)
    def cudaRuntimeGetVersion(self) -> Any:
        return OK, 13050

    @member(1)
    def cudaGetDeviceCount(self) -> Any:
        return OK, len(self.devices)

    @member(1)
    def cudaGetDeviceProperties(self, device: int) -> Any:
        name, (major, minor), total = self.devices[device]
        return OK, SimpleNamespace(
            name=name.encode(), major=major, minor=minor, totalGlobalMem=total
        )

    @member(0)
    def cudaGetLastError(self) -> Any:
        return (OK,)

    @member(1)
    def cudaGetErrorString(self, error: int) -> Any:
        return OK, cudaError_t(error).name.encode()

    @member(0)
    def cudaSetDevice(self, device: int) -> Any:
        assert device < len(self.devices)
        return (OK,)

    @member(2)
    def cudaMemGetInfo(self) -> Any:
        return OK, self.free, self.devices[0][2]

    # Memory.
    def _allocate(self, size: int) -> Any:
        block = ctypes.create_string_buffer(size + 256)
        address = -(-ctypes.addressof(block) // 256) * 256
        self.memory[address] = (size, block)
        return OK, address

    @member(1)
    def cudaMalloc(self, size: int) -> Any:
        return self._allocate(size)

    @member(1)
    def cudaMallocHost(self, size: int) -> Any:
        return self._allocate(size)

    @member(0)
    def cudaFree(self, address: int) -> Any:
        # Kept, so that the address is not given out again and a use after it is noticed.
        self.freed.append(self.memory.pop(address))
        return (OK,)

    @member(0)
    def cudaFreeHost(self, address: int) -> Any:
        self.freed.append(self.memory.pop(address))
        return (OK,)

    def check(self, address: int, size: int) -> None:
        assert any(
            start <= address and address + size <= start + reserved
            for start, (reserved, _) in self.memory.items()
        ), "outside of what is allocated"

    @member(0)
    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: Any, stream: int) -> Any:
        assert isinstance(kind, cudaMemcpyKind)
        self.check(target, size)
        self.check(source, size)
        self.enqueue(stream, lambda: ctypes.memmove(target, source, size))
        return (OK,)

    # Streams, graphs and events.
    def enqueue(self, stream: int, work: Callable[[], Any]) -> None:
        captured = self.streams[stream]
        if captured is None:
            work()
        else:
            captured.append(work)

    @member(1)
    def cudaStreamCreateWithFlags(self, flags: int) -> Any:
        assert flags == self.cudaStreamNonBlocking
        handle = next(self._handles)
        self.streams[handle] = None
        return OK, handle

    @member(0)
    def cudaStreamDestroy(self, stream: int) -> Any:
        del self.streams[stream]
        return (OK,)

    @member(0)
    def cudaStreamSynchronize(self, stream: int) -> Any:
        assert self.streams[stream] is None, "a stream that captures cannot be waited for"
        return (OK,)

    @member(0)
    def cudaStreamBeginCapture(self, stream: int, mode: Any) -> Any:
        assert isinstance(mode, cudaStreamCaptureMode)
        assert self.streams[stream] is None
        self.streams[stream] = []
        return (OK,)

    @member(1)
    def cudaStreamEndCapture(self, stream: int) -> Any:
        work = self.streams[stream]
        assert work is not None
        self.streams[stream] = None
        handle = next(self._handles)
        self.graphs[handle] = work
        return OK, handle

    @member(1)
    def cudaGraphInstantiate(self, graph: int, flags: int) -> Any:
        handle = next(self._handles)
        self.graphs[handle] = list(self.graphs[graph])
        return OK, handle

    @member(0)
    def cudaGraphLaunch(self, graph: int, stream: int) -> Any:
        for work in self.graphs[graph]:
            self.enqueue(stream, work)
        return (OK,)

    @member(0)
    def cudaGraphDestroy(self, graph: int) -> Any:
        del self.graphs[graph]
        return (OK,)

    @member(0)
    def cudaGraphExecDestroy(self, graph: int) -> Any:
        del self.graphs[graph]
        return (OK,)

    @member(1)
    def cudaEventCreate(self) -> Any:
        handle = next(self._handles)
        self.events[handle] = 0.0
        return OK, handle

    @member(0)
    def cudaEventRecord(self, event: int, stream: int) -> Any:
        assert stream in self.streams
        self.events[event] = float(len(self.calls))
        return (OK,)

    @member(1)
    def cudaEventElapsedTime(self, start: int, end: int) -> Any:
        return OK, self.events[end] - self.events[start]

    @member(0)
    def cudaEventDestroy(self, event: int) -> Any:
        del self.events[event]
        return (OK,)
