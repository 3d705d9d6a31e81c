"""Memory on a GPU and pinned beside it, streams, events and graphs: thin helpers over CUDA.

Every call is checked, and CUDA's errors become a ``MachineError``; but for those that give
something back: after a failure CUDA refuses them all, and hiding the failure would help nobody.
Nothing here frees itself; who makes a thing closes it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from albert_deploy.runtime.errors import MachineError

# What TensorRT wants of addresses that it is given.
ALIGNMENT = 256
_LEAST = 16 * 1024


def load_cuda() -> Any:
    """Return ``cuda.bindings.runtime``.

    Raises:
        MachineError: It is not installed.
    """
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise MachineError(
            "cuda-bindings is not installed; run: pip install 'cuda-bindings>=12.6'"
        ) from error
    return runtime


def call(cuda: Any, name: str, *args: Any) -> Any:
    """Call a function of the CUDA runtime and return its value, if it has one.

    Args:
        cuda: Result of ``load_cuda``.
        name: Of the function.
        args: What it takes.

    Raises:
        MachineError: CUDA reports an error.
    """
    error, *values = getattr(cuda, name)(*args)
    if int(error) != 0:
        text = cuda.cudaGetErrorString(error)[1]
        reason = text.decode() if isinstance(text, bytes) else str(text)
        remedy = "close other sessions or take a GPU with more memory"
        if int(error) != int(cuda.cudaError_t.cudaErrorMemoryAllocation):
            remedy = "open the session again, and look at nvidia-smi and the driver's log"
        raise MachineError(f"CUDA failed in {name}: {reason} (error {int(error)}); {remedy}")
    return values[0] if values else None


class Block:
    """One range of device memory and, of the same size, pinned host memory to copy from and to.

    It grows by doubling, so that shapes that grow step by step do not allocate at each step.

    Args:
        cuda: Result of ``load_cuda``.
        host: Whether to have the host memory too.

    Attributes:
        device: Address on the GPU; 0 while it is empty.
        capacity: Its size in bytes.
    """

    def __init__(self, cuda: Any, *, host: bool = True) -> None:
        self._cuda = cuda
        self._pinned = host
        self._host = 0
        self.device = 0
        self.capacity = 0

    def reserve(self, size: int) -> None:
        """Make room for ``size`` bytes; what the block held is lost if it has to move.

        Raises:
            MachineError: There is not enough memory.
        """
        if size <= self.capacity:
            return
        wanted = max(size, 2 * self.capacity, _LEAST)
        self.close()
        self.device = int(call(self._cuda, "cudaMalloc", wanted))
        try:
            if self._pinned:
                self._host = int(call(self._cuda, "cudaMallocHost", wanted))
        except MachineError:
            self.close()
            raise
        self.capacity = wanted

    def view(
        self, offset: int, shape: Sequence[int], dtype: npt.DTypeLike
    ) -> npt.NDArray[np.generic]:
        """Return a part of the pinned host memory as an array; it is void once the block moves."""
        kind = np.dtype(dtype)
        size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        raw = (ctypes.c_byte * size).from_address(self._host + offset)
        return np.frombuffer(memoryview(raw), dtype=kind).reshape(tuple(shape))

    def to_device(self, size: int, stream: Any) -> None:
        """Queue a copy of the first ``size`` bytes from the host to the GPU."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        call(self._cuda, "cudaMemcpyAsync", self.device, self._host, size, kind, stream)

    def to_host(self, size: int, stream: Any) -> None:
        """Queue a copy of the first ``size`` bytes from the GPU to the host."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        call(self._cuda, "cudaMemcpyAsync", self._host, self.device, size, kind, stream)

    def close(self) -> None:
        """Free the memory; the block is empty, and may grow again."""
        device, host = self.device, self._host
        self.device = self._host = self.capacity = 0
        if device:
            self._cuda.cudaFree(device)
        if host:
            self._cuda.cudaFreeHost(host)


class Stream:
    """A stream of its own, which does not wait for the default one."""

    def __init__(self, cuda: Any) -> None:
        self._cuda = cuda
        self._marks: tuple[Any, Any] | None = None
        self.handle = call(cuda, "cudaStreamCreateWithFlags", cuda.cudaStreamNonBlocking)

    def wait(self) -> None:
        """Wait until everything that was queued is done.

        Raises:
            MachineError: Something of it failed.
        """
        call(self._cuda, "cudaStreamSynchronize", self.handle)

    def start_clock(self) -> None:
        """Queue the mark from which ``stop_clock`` counts."""
        if self._marks is None:
            first = call(self._cuda, "cudaEventCreate")
            self._marks = (first, call(self._cuda, "cudaEventCreate"))
        call(self._cuda, "cudaEventRecord", self._marks[0], self.handle)

    def stop_clock(self) -> None:
        """Queue the mark at which the clock stops."""
        if self._marks is not None:
            call(self._cuda, "cudaEventRecord", self._marks[1], self.handle)

    def elapsed_ms(self) -> float:
        """Return the time between both marks on the GPU; wait for the stream before."""
        if self._marks is None:
            return 0.0
        return float(call(self._cuda, "cudaEventElapsedTime", *self._marks))

    def close(self) -> None:
        """Give the stream and its marks back."""
        marks, self._marks = self._marks, None
        for mark in marks or ():
            self._cuda.cudaEventDestroy(mark)
        if self.handle is not None:
            handle, self.handle = self.handle, None
            self._cuda.cudaStreamDestroy(handle)


class Graph:
    """Work that was captured once and is launched as one."""

    def __init__(self, cuda: Any, executable: Any) -> None:
        self._cuda = cuda
        self._executable = executable

    def launch(self, stream: Stream) -> None:
        """Queue the captured work."""
        call(self._cuda, "cudaGraphLaunch", self._executable, stream.handle)

    def close(self) -> None:
        """Give the graph back."""
        executable, self._executable = self._executable, None
        if executable is not None:
            self._cuda.cudaGraphExecDestroy(executable)


def capture(cuda: Any, stream: Stream, work: Callable[[], None]) -> Graph | None:
    """Capture what ``work`` queues on a stream; nothing of it runs.

    Returns:
        The graph, or None where the work cannot be captured: it has to be queued each time.

    Raises:
        MachineError: The stream cannot be used any more.
    """
    # Other threads may allocate meanwhile: only what this one does is looked at.
    mode = cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    call(cuda, "cudaStreamBeginCapture", stream.handle, mode)
    failed = False
    try:
        work()
    except MachineError:
        failed = True
    error, graph = cuda.cudaStreamEndCapture(stream.handle)
    if failed or int(error) != 0 or graph is None:
        # The error of a capture sticks to the thread until it is read.
        cuda.cudaGetLastError()
        if int(error) == 0 and graph is not None:
            cuda.cudaGraphDestroy(graph)
        return None
    try:
        return Graph(cuda, call(cuda, "cudaGraphInstantiate", graph, 0))
    except MachineError:
        return None
    finally:
        cuda.cudaGraphDestroy(graph)
