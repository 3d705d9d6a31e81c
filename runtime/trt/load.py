"""Load a checked plan: from its bytes to an engine that contexts can run."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from albert_deploy.runtime.errors import ContractError, MachineError
from albert_deploy.runtime.manifest import sha256_of
from albert_deploy.runtime.trt.buffers import Block, call, load_cuda
from albert_deploy.runtime.trt.context import Loaded, errors_in
from albert_deploy.runtime.trt.flavours import Flavour, load_flavour
from albert_deploy.runtime.trt.log import collecting, logger
from albert_deploy.runtime.trt.record import PlanRecord
from albert_deploy.runtime.trt.targets import TENSORRT

if TYPE_CHECKING:
    from albert_deploy.runtime.trt.context import TrtConfig

_DTYPES = {"int64": "INT64", "int32": "INT32", "float32": "FLOAT"}


def load(directory: Path, record: PlanRecord, config: TrtConfig) -> Loaded:
    """Load a plan that ``plans.check_plan`` has passed.

    Raises:
        ContractError: The plan was changed since, TensorRT refuses it, or it is not what its
            record says.
        MachineError: TensorRT or CUDA cannot be used here.
    """
    path = directory / record.file
    plan = path.read_bytes()
    if hashlib.sha256(plan).hexdigest() != record.sha256:
        raise ContractError(f"{path} was changed while it was opened; open it again")
    flavour = load_flavour(record.flavour)
    cuda = load_cuda()
    call(cuda, "cudaSetDevice", config.device)
    with collecting() as lines:
        runtime = flavour.module.Runtime(logger(flavour))
        _check_validity(flavour.module, runtime, plan, record)
        if record.version_compatible and flavour.name == TENSORRT:
            # Such a plan brings the runtime of its version along, which is code for the host.
            runtime.engine_host_code_allowed = True
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise ContractError(f"{flavour.label} refuses {path}: {errors_in(lines)}")
        if record.stripped:
            _refit(flavour, engine, directory, record)
    _check_tensors(flavour.module, engine, record)
    if record.weight_streaming:
        engine.weight_streaming_budget_v2 = engine.get_weight_streaming_automatic_budget()
    settings = engine.create_runtime_config() if hasattr(engine, "create_runtime_config") else None
    cache = None
    scratch = None
    if hasattr(settings, "cuda_graph_strategy"):
        cache = _set_up(flavour.module, settings, record, config)
    elif size := int(engine.device_memory_size_v2):
        scratch = Block(cuda, host=False)
        scratch.reserve(size)
    return Loaded(
        cuda=cuda,
        module=flavour.module,
        runtime=runtime,
        engine=engine,
        config=settings,
        cache=cache,
        scratch=scratch,
        inputs=tuple(spec.name for spec in record.inputs),
        outputs=tuple(spec.name for spec in record.outputs),
    )


def runtime_cache_file(folder: Path, record: PlanRecord) -> Path:
    """Return where the kernels that were compiled for a plan are kept."""
    return folder / f"{record.sha256[:16]}-{record.version}.kernels"


def _check_validity(module: Any, runtime: Any, plan: bytes, record: PlanRecord) -> None:
    """Ask TensorRT for RTX, which looks at the plan's header alone; TensorRT has no such call."""
    if not hasattr(runtime, "get_engine_validity"):
        return
    validity, reasons = runtime.get_engine_validity(plan)
    if validity != module.EngineValidity.INVALID:
        return
    known = module.EngineInvalidityDiagnostics.__members__
    named = [name for name, flag in known.items() if int(reasons) & int(flag)]
    raise MachineError(
        f"TensorRT for RTX says that the engine {record.name} does not run here: "
        f"{', '.join(named).lower().replace('_', ' ') or 'no reason given'}; build it again for "
        "this machine: albert-deploy build DIR --target local"
    )


def _set_up(module: Any, settings: Any, record: PlanRecord, config: TrtConfig) -> Any:
    """Set what TensorRT for RTX has besides; return its cache of kernels, if it is to be kept."""
    if config.cuda_graphs:
        settings.cuda_graph_strategy = module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    if config.eager_kernels:
        settings.dynamic_shapes_kernel_specialization_strategy = (
            module.DynamicShapesKernelSpecializationStrategy.EAGER
        )
    if config.cache is None:
        return None
    cache = settings.create_runtime_cache()
    with contextlib.suppress(FileNotFoundError):
        # One of another GPU, driver or version is refused, and then filled anew.
        cache.deserialize(runtime_cache_file(config.cache, record).read_bytes())
    settings.set_runtime_cache(cache)
    return cache


def _refit(flavour: Flavour, engine: Any, directory: Path, record: PlanRecord) -> None:
    """Put the weights of the ONNX file into a plan that was stripped of them."""
    path = directory / record.onnx_file
    if not path.is_file() or sha256_of(path) != record.onnx_sha256:
        raise ContractError(
            f"the engine {record.name} has no weights of its own, and {path} is not the file "
            "that they come from; copy that one here too"
        )
    with collecting() as lines:
        refitter = flavour.module.Refitter(engine, logger(flavour))
        parser = flavour.module.OnnxParserRefitter(refitter, logger(flavour))
        if not (parser.refit_from_file(str(path)) and refitter.refit_cuda_engine()):
            raise ContractError(
                f"the weights of {path} do not fit {record.file}: {errors_in(lines)}"
            )


def _check_tensors(module: Any, engine: Any, record: PlanRecord) -> None:
    """Compare inputs, outputs and profiles with the record."""
    modes = {module.TensorIOMode.INPUT: "input", module.TensorIOMode.OUTPUT: "output"}
    found = {}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        dtype = engine.get_tensor_dtype(name)
        found[name] = (modes[engine.get_tensor_mode(name)], dtype)
    wanted = {
        spec.name: (mode, getattr(module.DataType, _DTYPES[spec.dtype]))
        for mode, specs in (("input", record.inputs), ("output", record.outputs))
        for spec in specs
    }
    if found != wanted:
        raise ContractError(f"{record.file} has the tensors {found}, its record says {wanted}")
    first = record.inputs[0].name
    profiles = [
        [tuple(shape) for shape in engine.get_tensor_profile_shape(first, index)]
        for index in range(engine.num_optimization_profiles)
    ]
    recorded = [[p.minimum, p.optimum, p.maximum] for p in record.profiles]
    if profiles != recorded:
        raise ContractError(
            f"{record.file} takes the shapes {profiles}, its record says {recorded}"
        )
