"""An execution context of an engine, with its stream, its memory and its graph."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from albert_deploy.runtime.errors import ContractError, MachineError, check_known
from albert_deploy.runtime.trt.buffers import ALIGNMENT, Block, Graph, Stream, capture
from albert_deploy.runtime.trt.log import LogLine, collecting
from albert_deploy.runtime.trt.profiles import POLICIES, Shape, written


@dataclass(frozen=True, kw_only=True)
class TrtConfig:
    """How an engine runs.

    Args:
        device: Number of the GPU, among those that ``CUDA_VISIBLE_DEVICES`` shows.
        policy: What to do with a batch outside every profile: a key of ``shapes.POLICIES``.
        cuda_graphs: Capture the work of a shape once and launch it as one: for shapes that come
            again and again. The least recently used of more than ``MOST_GRAPHS`` is let go.
        timed: Measure the time that the GPU computes, see ``TrtSession.device_ms``.
        cache: Folder that keeps the kernels that TensorRT for RTX compiles here, so that the
            next start is quicker. They are code: it must be as safe as the program itself.
        eager_kernels: Have TensorRT for RTX compile kernels for a new shape before it runs,
            instead of in the background while slower ones run.

    Raises:
        InputError: Unknown policy.
    """

    device: int = 0
    policy: str = "error"
    cuda_graphs: bool = False
    timed: bool = False
    cache: Path | None = None
    eager_kernels: bool = False

    def __post_init__(self) -> None:
        check_known(self.policy, POLICIES, "policy")


_BAD = ("ERROR", "INTERNAL_ERROR")


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """An engine in the memory of a GPU, and what its contexts share.

    Attributes:
        cuda: Result of ``device_buffers.load_cuda``.
        module: The flavour's module.
        runtime: TensorRT's runtime, which has to outlive the engine.
        engine: TensorRT's engine.
        config: Its runtime configuration; None where the flavour has none.
        cache: Kernels that were compiled on this machine; None without any.
        scratch: Memory that all contexts work in, one after the other; None where each of them
            brings its own.
        inputs: Names of its inputs.
        outputs: Names of its outputs.
    """

    cuda: Any
    module: Any
    runtime: Any
    engine: Any
    config: Any
    cache: Any
    scratch: Block | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where a tensor lies in its block."""

    name: str
    offset: int
    shape: Shape
    dtype: npt.DTypeLike


class Context:
    """Runs one profile of an engine, one run at a time.

    Inputs lie side by side in one block and outputs in another, so that a run copies once in
    either direction.

    Args:
        loaded: The engine.
        profile: Index of the profile.
        graphs: Capture a graph in the second run of a shape: what the first one does, such as
            compiling kernels, cannot be captured. Such a context should meet a single shape.
        timed: Measure the time on the GPU.
    """

    def __init__(
        self, loaded: Loaded, profile: int, *, graphs: bool = False, timed: bool = False
    ) -> None:
        self._loaded = loaded
        self._graphs = graphs
        self._timed = timed
        self._graph: Graph | None = None
        self._runs = 0
        self._shape: Shape | None = None
        self._places: tuple[tuple[_Place, ...], tuple[_Place, ...]] = ((), ())
        self._bytes = (0, 0)
        self._context: Any = None
        self._stream = Stream(loaded.cuda)
        self._blocks = (Block(loaded.cuda), Block(loaded.cuda))
        try:
            with collecting() as lines:
                self._context = _execution_context(loaded)
                if self._context is None:
                    raise MachineError(f"TensorRT makes no execution context: {errors_in(lines)}")
                if not self._context.set_optimization_profile_async(profile, self._handle):
                    raise MachineError(f"TensorRT refuses profile {profile}: {errors_in(lines)}")
            self._stream.wait()
        except MachineError:
            self.close()
            raise

    @property
    def captured(self) -> bool:
        """Tell whether runs launch a graph."""
        return self._graph is not None

    def run(
        self, feeds: Mapping[str, npt.NDArray[np.int64]], shape: Shape
    ) -> tuple[dict[str, npt.NDArray[np.float32]], float]:
        """Run once.

        Args:
            feeds: Inputs, each int64 of ``shape``.
            shape: One that the profile takes.

        Returns:
            The outputs, and the milliseconds that the GPU computed (0 where not timed), copies
            apart.

        Raises:
            MachineError: CUDA or TensorRT failed.
        """
        if shape != self._shape:
            self._bind(shape)
        places, (taken, given) = self._places, self._bytes
        sent, received = self._blocks
        for place in places[0]:
            sent.view(place.offset, place.shape, place.dtype)[...] = feeds[place.name]
        sent.to_device(taken, self._stream.handle)
        if self._timed:
            self._stream.start_clock()
        self._execute()
        if self._timed:
            self._stream.stop_clock()
        received.to_host(given, self._stream.handle)
        self._stream.wait()
        self._runs += 1
        values = {p.name: received.view(p.offset, p.shape, p.dtype) for p in places[1]}
        # Copies: the next run writes over the pinned memory.
        outputs = {name: value.astype(np.float32) for name, value in values.items()}
        return outputs, self._stream.elapsed_ms() if self._timed else 0.0

    def close(self) -> None:
        """Free everything."""
        if self._graph is not None:
            self._graph.close()
            self._graph = None
        self._context = None
        self._shape = None
        for block in self._blocks:
            block.close()
        self._stream.close()

    @property
    def _handle(self) -> int:
        return int(self._stream.handle)

    def _execute(self) -> None:
        if self._graph is None and self._graphs and self._runs == 1:
            self._graph = capture(self._loaded.cuda, self._stream, self._enqueue)
        if self._graph is not None:
            self._graph.launch(self._stream)
        else:
            self._enqueue()

    def _enqueue(self) -> None:
        with collecting() as lines:
            if not self._context.execute_async_v3(self._handle):
                raise MachineError(f"TensorRT failed to run: {errors_in(lines)}")

    def _bind(self, shape: Shape) -> None:
        """Tell the context a shape, and where inputs and outputs lie."""
        self._shape = None
        self._runs = 0
        if self._graph is not None:
            self._graph.close()
            self._graph = None
        loaded, context = self._loaded, self._context
        with collecting() as lines:
            for name in loaded.inputs:
                if not context.set_input_shape(name, shape):
                    raise MachineError(
                        f"TensorRT refuses {name} of {written(shape)}: {errors_in(lines)}"
                    )
            if missing := context.infer_shapes():
                raise ContractError(f"the engine leaves the shape of {', '.join(missing)} open")
            shapes = dict.fromkeys(loaded.inputs, shape)
            shapes |= {name: tuple(context.get_tensor_shape(name)) for name in loaded.outputs}
            inputs, taken = _placed(loaded, loaded.inputs, shapes)
            outputs, given = _placed(loaded, loaded.outputs, shapes)
            self._places, self._bytes = (inputs, outputs), (taken, given)
            for block, places, size in zip(self._blocks, self._places, self._bytes, strict=True):
                block.reserve(size)
                for place in places:
                    if not context.set_tensor_address(place.name, block.device + place.offset):
                        raise MachineError(
                            f"TensorRT refuses the address of {place.name}: {errors_in(lines)}"
                        )
        self._shape = shape


def errors_in(lines: Sequence[LogLine]) -> str:
    """Return the errors of a piece of TensorRT's log, the first of which is the cause."""
    bad = [line.text.strip() for line in lines if line.severity in _BAD]
    return "; ".join(bad[:3]) or "its log does not say why"


def _execution_context(loaded: Loaded) -> Any:
    engine, strategies = loaded.engine, loaded.module.ExecutionContextAllocationStrategy
    strategy = strategies.STATIC if loaded.scratch is None else strategies.USER_MANAGED
    if loaded.config is None:
        context = engine.create_execution_context(strategy)
    else:
        loaded.config.set_execution_context_allocation_strategy(strategy)
        context = engine.create_execution_context(loaded.config)
    if context is not None and loaded.scratch is not None:
        context.set_device_memory(loaded.scratch.device, loaded.scratch.capacity)
    return context


def _placed(
    loaded: Loaded, names: Sequence[str], shapes: Mapping[str, Shape]
) -> tuple[tuple[_Place, ...], int]:
    """Return where tensors lie in a block, and the bytes of all of them."""
    places, end = [], 0
    for name in names:
        dtype = np.dtype(loaded.module.nptype(loaded.engine.get_tensor_dtype(name)))
        offset = -(-end // ALIGNMENT) * ALIGNMENT
        places.append(_Place(name=name, offset=offset, shape=shapes[name], dtype=dtype))
        end = offset + math.prod(shapes[name]) * dtype.itemsize
    return tuple(places), end
