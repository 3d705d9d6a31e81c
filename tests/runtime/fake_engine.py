"""The part of TensorRT that runs plans, without a GPU: the members that are used, and no others.

A plan is JSON here, and what it computes can be told by hand: element j of a row of an output is
the sum of the row's tokens that the mask shows, plus j.
"""

from __future__ import annotations

import ctypes
import enum
import json
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
from fake_cuda import FakeCuda

Enum = enum.IntEnum
DataType = Enum("DataType", "FLOAT HALF INT32 INT64")
TensorIOMode = Enum("TensorIOMode", "INPUT OUTPUT")
ExecutionContextAllocationStrategy = Enum(
    "ExecutionContextAllocationStrategy", "STATIC ON_PROFILE_CHANGE USER_MANAGED"
)
CudaGraphStrategy = Enum("CudaGraphStrategy", "DISABLED WHOLE_GRAPH_CAPTURE")
Specialization = Enum("DynamicShapesKernelSpecializationStrategy", "LAZY EAGER NONE")
EngineValidity = Enum("EngineValidity", "VALID SUBOPTIMAL INVALID")
EngineInvalidityDiagnostics = enum.IntFlag(
    "EngineInvalidityDiagnostics", {"VERSION_MISMATCH": 1, "UNSUPPORTED_CC": 2}
)
Severity = Enum("Severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE")


class ILogger:
    Severity = Severity

    def log(self, severity: Any, message: str) -> None: ...


def nptype(dtype: DataType) -> Any:
    return {"FLOAT": np.float32, "HALF": np.float16, "INT32": np.int32, "INT64": np.int64}[
        dtype.name
    ]


def _array(address: int, shape: tuple[int, ...], dtype: Any) -> Any:
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = (ctypes.c_byte * size).from_address(address)
    return np.frombuffer(memoryview(raw), dtype=dtype).reshape(shape)


class RuntimeConfig:
    """``IRuntimeConfig`` of TensorRT 11."""

    def __init__(self) -> None:
        self.strategy = ExecutionContextAllocationStrategy.STATIC

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self.strategy = strategy


class RuntimeCache:
    """``IRuntimeCache``; refuses what another version has written."""

    def __init__(self) -> None:
        self.kernels = b""

    def deserialize(self, blob: bytes) -> bool:
        if blob.startswith(b"kernels"):
            self.kernels = bytes(blob)
        return blob.startswith(b"kernels")

    def serialize(self) -> bytes:
        return self.kernels or b"kernels of this machine"


class RtxRuntimeConfig(RuntimeConfig):
    """``IRuntimeConfig`` of TensorRT for RTX."""

    def __init__(self) -> None:
        super().__init__()
        self.cuda_graph_strategy = CudaGraphStrategy.DISABLED
        self.dynamic_shapes_kernel_specialization_strategy = Specialization.LAZY
        self.cache: RuntimeCache | None = None

    def create_runtime_cache(self) -> RuntimeCache:
        return RuntimeCache()

    def set_runtime_cache(self, cache: RuntimeCache) -> bool:
        self.cache = cache
        return True


class Context:
    """``IExecutionContext``."""

    def __init__(self, engine: Engine, strategy: Any) -> None:
        self._engine, self._strategy = engine, strategy
        self._profile = 0
        self._scratch = 0
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self.enqueued = 0
        engine.contexts.append(self)

    def set_device_memory(self, memory: int, size: int) -> None:
        assert self._strategy == ExecutionContextAllocationStrategy.USER_MANAGED
        assert size >= self._engine.device_memory_size_v2
        self._engine.cuda.check(memory, size)
        self._scratch = memory

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        assert stream_handle in self._engine.cuda.streams
        self._profile = profile_index
        return profile_index < self._engine.num_optimization_profiles

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name in self._engine.modes
        least, _, most = self._engine.get_tensor_profile_shape(name, self._profile)
        self._shapes[name] = tuple(shape)
        fits = all(a <= n <= b for a, n, b in zip(least, shape, most, strict=True))
        if not fits:
            self._engine.log("ERROR", f"{name} has dimensions outside of the profile")
        return fits

    def infer_shapes(self) -> list[str]:
        return [n for n in self._engine.inputs if n not in self._shapes]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        shape = self._shapes[self._engine.inputs[0]]
        sizes = dict(zip(self._engine.axes, shape, strict=True))
        return tuple(sizes.get(a, a) for a in self._engine.outputs[name])

    def set_tensor_address(self, name: str, memory: int) -> bool:
        assert memory % 256 == self._engine.alignment
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        if self._strategy == ExecutionContextAllocationStrategy.USER_MANAGED:
            assert self._scratch in self._engine.cuda.memory, "nothing to work in"
        self.enqueued += 1
        captures = self._engine.cuda.streams[stream_handle] is not None
        if self._engine.failing or (captures and self._engine.uncapturable):
            self._engine.log("ERROR", "out of luck")
            return False
        addresses, shapes = dict(self._addresses), dict(self._shapes)
        outputs = {name: self.get_tensor_shape(name) for name in self._engine.outputs}

        def work() -> None:
            values = {n: _array(addresses[n], shapes[n], np.int64) for n in self._engine.inputs}
            for name, size in (*shapes.items(), *outputs.items()):
                width = 8 if name in shapes else 4
                self._engine.cuda.check(addresses[name], math.prod(size) * width)
            total = (values["input_ids"] * values["attention_mask"]).sum(axis=-1)
            for name, size in outputs.items():
                row = total.reshape(total.shape + (1,) * (len(size) - total.ndim))
                row = row[: size[0]] if len(size) >= total.ndim else total
                _array(addresses[name], size, np.float32)[...] = row + np.arange(size[-1])

        self._engine.cuda.enqueue(stream_handle, work)
        return True


class Engine:
    """``ICudaEngine`` of TensorRT 10: contexts are made with a strategy."""

    def __init__(self, module: FakeTrt, told: dict[str, Any]) -> None:
        self.cuda: FakeCuda = module.cuda
        self.log = module.log_line
        self.alignment = 0
        self.failing = False
        self.uncapturable = False
        self.contexts: list[Context] = []
        self.axes = told["axes"]
        self.inputs = tuple(told["inputs"])
        self.outputs = {n: tuple(axes) for n, axes in told["outputs"].items()}
        self.modes = dict.fromkeys(self.inputs, TensorIOMode.INPUT)
        self.modes |= dict.fromkeys(self.outputs, TensorIOMode.OUTPUT)
        self._profiles = [[tuple(shape) for shape in p] for p in told["profiles"]]
        self.num_io_tensors = len(self.modes)
        self.num_optimization_profiles = len(self._profiles)
        self.device_memory_size_v2 = told.get("scratch", 1000)
        self.weight_streaming_budget_v2 = -1
        self.refitted = False

    def get_tensor_name(self, index: int) -> str:
        return list(self.modes)[index]

    def get_tensor_mode(self, name: str) -> Any:
        return self.modes[name]

    def get_tensor_dtype(self, name: str) -> Any:
        return DataType.INT64 if name in self.inputs else DataType.FLOAT

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        return self._profiles[profile_index]

    def get_weight_streaming_automatic_budget(self) -> int:
        return 12345

    def create_execution_context(self, strategy: Any) -> Context:
        return Context(self, strategy)


class Engine11(Engine):
    """``ICudaEngine`` of TensorRT 11: contexts are made with a configuration."""

    config_class: type[RuntimeConfig] = RuntimeConfig

    def create_runtime_config(self) -> RuntimeConfig:
        self.config = self.config_class()
        return self.config

    def create_execution_context(self, runtime_config: Any) -> Context:
        return Context(self, runtime_config.strategy)


class EngineRtx(Engine11):
    config_class = RtxRuntimeConfig


class Refitter:
    def __init__(self, engine: Engine, logger: Any) -> None:
        self.engine = engine

    def refit_cuda_engine(self) -> bool:
        self.engine.refitted = True
        return True


class OnnxParserRefitter:
    def __init__(self, refitter: Refitter, logger: Any) -> None: ...

    def refit_from_file(self, model: str) -> bool:
        return model.endswith(".onnx")


class Runtime:
    """``Runtime``; what it deserialized can be looked at in ``engines``."""

    def __init__(self, module: FakeTrt, logger: Any) -> None:
        assert isinstance(logger, ILogger)
        self._module = module
        self.engine_host_code_allowed = False
        module.logger = logger
        module.runtimes.append(self)

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Engine | None:
        try:
            told = json.loads(serialized_engine)
        except ValueError:
            self._module.log_line("ERROR", "magic tag does not match")
            return None
        engine = self._module.engine_class(self._module, told)
        self._module.engines.append(engine)
        return engine


class RtxRuntime(Runtime):
    def get_engine_validity(self, buffer: bytes) -> tuple[Any, Any]:
        return self._module.validity


class FakeTrt(SimpleNamespace):
    """A module: ``flavour`` is ``10``, ``11`` or ``rtx``."""

    def __init__(self, flavour: str, cuda: FakeCuda) -> None:
        runtime = RtxRuntime if flavour == "rtx" else Runtime
        super().__init__(
            ILogger=ILogger,
            DataType=DataType,
            TensorIOMode=TensorIOMode,
            ExecutionContextAllocationStrategy=ExecutionContextAllocationStrategy,
            Refitter=Refitter,
            OnnxParserRefitter=OnnxParserRefitter,
            nptype=nptype,
            Runtime=lambda logger: runtime(self, logger),
            __version__={"10": "10.13.3.9", "11": "11.4.0.106", "rtx": "1.7.1.116"}[flavour],
        )
        if flavour == "rtx":
            self.CudaGraphStrategy = CudaGraphStrategy
            self.DynamicShapesKernelSpecializationStrategy = Specialization
            self.EngineValidity = EngineValidity
            self.EngineInvalidityDiagnostics = EngineInvalidityDiagnostics
        # What a test looks at or sets.
        self.engine_class = {"10": Engine, "11": Engine11, "rtx": EngineRtx}[flavour]
        self.cuda = cuda
        self.logger: Any = None
        self.runtimes: list[Runtime] = []
        self.engines: list[Engine] = []
        self.validity: tuple[Any, Any] = (EngineValidity.VALID, 0)

    def log_line(self, severity: str, message: str) -> None:
        self.logger.log(Severity[severity], message)
