"""One ONNX file becomes one TensorRT plan, with what the build log and the network say of it."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from albert_deploy.export.engine.log import BuildLog, read_log
from albert_deploy.export.engine.network import Network, read_network
from albert_deploy.export.engine.timing_cache import CacheUse, cache_path, load_cache, save_cache
from albert_deploy.runtime.errors import ContractError, InputError, MachineError
from albert_deploy.runtime.measure import measured
from albert_deploy.runtime.trt.flavours import (
    Flavour,
    builder_flags,
    check_settings,
    create_network,
    set_target,
)
from albert_deploy.runtime.trt.gpu import probe
from albert_deploy.runtime.trt.log import LogLine, collecting, logger
from albert_deploy.runtime.trt.profiles import Profile
from albert_deploy.runtime.trt.targets import Target, target_named

_LEVELS = range(6)
# TensorRT's log does not say which builder a line is of, so one at a time.
_ONE_BUILD = threading.Lock()

# What in TensorRT's messages tells whose fault a failed build is.
_OUT_OF_MEMORY = re.compile(r"out of memory|OutOfMemory|bad_alloc|insufficient memory", re.I)
_NO_DEVICE = re.compile(r"CUDA driver|no CUDA-capable device|cudaError|CUDA_SUCCESS", re.I)
_WORKSPACE = re.compile(r"within workspace limit|insufficient workspace", re.I)
_CACHE_MISS = re.compile(r"kERROR_ON_TIMING_CACHE_MISS")


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How a plan is built; what a flavour does not have is refused when it is asked for.

    Precision is not among it: that is what the ONNX file says.

    Args:
        profiles: Shapes that the plan takes, at least one.
        workspace_bytes: Most working memory of one layer; None for no limit.
        level: Builder optimization level, 0 to 5; None for the flavour's default.
        timing_cache: Folder of timing caches; None for none. Ahead of time nothing is timed.
        require_cache_hit: Fail where anything has to be timed anew.
        version_compatible: A plan for later versions of the same major version as well.
        hardware_compatible: A plan for every GPU from Ampere on.
        refit: Weights can be exchanged in the plan.
        strip: A plan without weights, which are put in when it is loaded.
        weight_streaming: Weights can stay in host memory.
        stream_capture: A plan whose contexts can be captured in CUDA graphs.
        tf32: Let float32 products round their operands to 10 bits. Off: the fp32 variant is
            the one that equals its source.
        detailed: Keep names and types of layers in the plan, which the proofs read.

    Raises:
        InputError: No profile, profiles of different rank, or a value out of range.
    """

    profiles: tuple[Profile, ...]
    workspace_bytes: int | None = None
    level: int | None = None
    timing_cache: Path | None = None
    require_cache_hit: bool = False
    version_compatible: bool = False
    hardware_compatible: bool = False
    refit: bool = False
    strip: bool = False
    weight_streaming: bool = False
    stream_capture: bool = False
    tf32: bool = False
    detailed: bool = True

    def __post_init__(self) -> None:
        ranks = {len(profile.maximum) for profile in self.profiles}
        if len(ranks) != 1:
            raise InputError(
                f"got profiles of ranks {sorted(ranks)}; wanted one rank, at least one"
            )
        if self.level is not None and self.level not in _LEVELS:
            raise InputError(f"got optimization level {self.level}; wanted 0 to {_LEVELS[-1]}")
        if self.workspace_bytes is not None and self.workspace_bytes <= 0:
            raise InputError(f"got a workspace of {self.workspace_bytes} bytes; wanted more than 0")
        if self.require_cache_hit and self.timing_cache is None:
            raise InputError(
                "a cache hit is required but no timing cache is given; name its folder"
            )

    def asked(self) -> dict[str, object]:
        """Return the settings that are away from their defaults, profiles aside."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        defaults = {f.name: f.default for f in fields(self)}
        return {k: v for k, v in values.items() if k != "profiles" and v != defaults[k]}


@dataclass(frozen=True, kw_only=True)
class Built:
    """A plan and what is known of it.

    Attributes:
        plan: The serialized engine. It is code: load it only with a verified manifest.
        log: What the build log says.
        network: What the ONNX file asks for.
        flavour: Key of ``FLAVOURS``.
        version: Of the flavour.
        capability: Compute capability that the plan is for.
        build_ms: Time from parsing to the finished plan.
        peak_bytes: Largest resident memory of the process meanwhile.
        timing_cache: ``file``, ``sha256`` and ``hit``, where a cache was used.
        inspector: What the engine inspector says, where the plan can be loaded here.
    """

    plan: bytes
    log: BuildLog
    network: Network
    flavour: str
    version: str
    capability: tuple[int, int]
    build_ms: float
    peak_bytes: int | None
    timing_cache: dict[str, Any] | None
    inspector: dict[str, Any] | None


def build_plan(onnx: Path, target: Target, config: EngineConfig, *, flavour: Flavour) -> Built:
    """Build a plan in memory.

    Args:
        onnx: One of our ONNX files; data in files beside it is read too.
        target: What the plan is for.
        config: How it is built.
        flavour: Who builds.

    Raises:
        InputError: No such file, profiles that are not those of its inputs, a workspace that is
            too small, or a setting that the flavour does not have.
        ContractError: TensorRT refuses the file, or a required timing-cache hit is missed.
        MachineError: The flavour cannot build for the target on this machine.
    """
    if not onnx.is_file():
        raise InputError(f"there is no ONNX file {onnx}; export and quantize first")
    check_settings(flavour, config.asked())
    set_target(flavour, None, target)
    with _ONE_BUILD, collecting() as lines:
        with measured() as cost:
            plan, network, cache = _build(onnx, target, config, flavour, lines)
        return Built(
            plan=plan,
            log=read_log(lines),
            network=network,
            flavour=flavour.name,
            version=flavour.version,
            capability=target.capability,
            build_ms=round(cost.seconds * 1000, 1),
            peak_bytes=cost.peak_memory_bytes,
            timing_cache=cache,
            inspector=inspect_plan(plan, target, flavour) if config.detailed else None,
        )


def _build(
    onnx: Path, target: Target, config: EngineConfig, flavour: Flavour, lines: list[LogLine]
) -> tuple[bytes, Network, dict[str, Any] | None]:
    module = flavour.module
    try:
        builder = module.Builder(logger(flavour))
    except TypeError as error:
        # The binding's way to say that the library gave no builder.
        raise MachineError(f"{flavour.label} cannot start: {_reasons(lines) or error}") from error
    network = create_network(flavour, builder)
    parser = module.OnnxParser(network, logger(flavour))
    if not parser.parse_from_file(str(onnx)):
        raise ContractError(f"{flavour.label} refuses {onnx.name}: {_parser_errors(parser, lines)}")
    asked = read_network(module, network)
    settings = builder.create_builder_config()
    set_target(flavour, settings, target)
    for profile in config.profiles:
        settings.add_optimization_profile(_profile(profile, builder, network, onnx))
    cache = _apply(settings, target, config, flavour)
    plan = builder.build_serialized_network(network, settings)
    if plan is None:
        failure = _failure(onnx, flavour, target, lines)
        _forget_failure(flavour)
        raise failure
    return bytes(plan), asked, None if cache is None else save_cache(settings, cache)


def _forget_failure(flavour: Flavour) -> None:
    """Build one operator: right after a failure, TensorRT-RTX 1.7 makes a larger plan of a file."""
    if not flavour.ahead_of_time:
        return
    module = flavour.module
    builder = module.Builder(logger(flavour))
    network = create_network(flavour, builder)
    value = network.add_input("x", module.float32, (1,))
    made = network.add_activation(value, module.ActivationType.RELU)
    network.mark_output(made.get_output(0))
    settings = builder.create_builder_config()
    set_target(flavour, settings, target_named("l4"))
    builder.build_serialized_network(network, settings)


def _apply(
    settings: Any, target: Target, config: EngineConfig, flavour: Flavour
) -> CacheUse | None:
    module = flavour.module
    # TensorRT turns it on by itself; see EngineConfig.
    settings.clear_flag(module.BuilderFlag.TF32)
    for flag in builder_flags(flavour, config.asked()):
        settings.set_flag(getattr(module.BuilderFlag, flag))
    if config.workspace_bytes is not None:
        settings.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, config.workspace_bytes)
    if config.level is not None:
        settings.builder_optimization_level = config.level
    if config.hardware_compatible:
        settings.hardware_compatibility_level = module.HardwareCompatibilityLevel.AMPERE_PLUS
    if config.detailed:
        settings.profiling_verbosity = module.ProfilingVerbosity.DETAILED
    if config.timing_cache is None or flavour.ahead_of_time:
        return None
    gpus = probe().devices
    path = cache_path(config.timing_cache, flavour, target, gpus[0].name if gpus else None)
    return load_cache(settings, path, required=config.require_cache_hit)


def _profile(profile: Profile, builder: Any, network: Any, onnx: Path) -> Any:
    made = builder.create_optimization_profile()
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        if len(tensor.shape) != len(profile.maximum):
            raise InputError(
                f"got a profile of rank {len(profile.maximum)}, but {tensor.name} of {onnx.name} "
                f"has rank {len(tensor.shape)}; give one size for each axis"
            )
        made.set_shape(tensor.name, profile.minimum, profile.optimum, profile.maximum)
    return made


def inspect_plan(plan: bytes, target: Target, flavour: Flavour) -> dict[str, Any] | None:
    """Return what the engine inspector says of a plan that was built here, as it came.

    None where no GPU of the target is here: loading a plan without one fails or crashes.
    """
    gpus = probe().devices
    if not gpus or gpus[0].capability != target.capability:
        return None
    module = flavour.module
    engine = module.Runtime(logger(flavour)).deserialize_cuda_engine(plan)
    if engine is None:
        return None
    text = engine.create_engine_inspector().get_engine_information(
        module.LayerInformationFormat.JSON
    )
    read: dict[str, Any] = json.loads(text)
    return read


def _parser_errors(parser: Any, lines: Sequence[LogLine]) -> str:
    found = [parser.get_error(i) for i in range(parser.num_errors)]
    listed = [f"{e.node_name() or '?'} ({e.node_operator() or '?'}): {e.desc()}" for e in found]
    return "; ".join(dict.fromkeys(listed)) or _reasons(lines) or "it gives no reason"


def _reasons(lines: Sequence[LogLine]) -> str:
    return "; ".join(dict.fromkeys(x.text for x in lines if x.severity.endswith("ERROR")))


def _failure(
    onnx: Path, flavour: Flavour, target: Target, lines: Sequence[LogLine]
) -> ContractError | InputError | MachineError:
    reasons = _reasons(lines) or "it gives no reason"
    said = f"{flavour.label} cannot build {onnx.name} for {target.label}: {reasons}"
    if _CACHE_MISS.search(reasons):
        return ContractError(f"{said}; a timing-cache hit is required, and this is a miss")
    if _WORKSPACE.search(reasons):
        return InputError(f"{said}; allow a larger workspace")
    if _OUT_OF_MEMORY.search(reasons):
        return MachineError(f"{said}; free memory, or give smaller profiles")
    if _NO_DEVICE.search(reasons):
        return MachineError(f"{said}; this needs a GPU with its driver")
    return ContractError(said)
