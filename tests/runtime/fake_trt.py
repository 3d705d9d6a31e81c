"""The part of TensorRT that builds plans, without it: the members that are used, and no others.

One fake for each flavour and major version, with the members that the real bindings have: what
TensorRT 11 removed is not there, and what it needs to be told in version 10 is checked. A test
holds the fakes to the bindings that are installed, and to names recorded from those that are not.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

Severity = enum.IntEnum("Severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE", start=0)
MISS = (
    "Error Code 10: Adding new entry to timing cache is not allowed if "
    "`BuilderFlag::kERROR_ON_TIMING_CACHE_MISS` is set."
)

# Names used here that the bindings of TensorRT 10.16.1.11 and 11.4.0.106 both hold, read out of
# their binaries: they cannot be imported without the libraries.
_NAMES = (
    "AMPERE_PLUS BuilderFlag DETAILED ERROR_ON_TIMING_CACHE_MISS EXCLUDE_LEAN_RUNTIME "
    "HardwareCompatibilityLevel IConstantLayer ITimingCache JSON LAYER_NAMES_ONLY "
    "LayerInformationFormat MemoryPoolType NetworkDefinitionCreationFlag OnnxParser "
    "ProfilingVerbosity REFIT REFIT_IDENTICAL STRIP_PLAN STRONGLY_TYPED TF32 VERSION_COMPATIBLE "
    "WEIGHT_STREAMING WORKSPACE add_optimization_profile build_serialized_network "
    "builder_optimization_level clear_flag combine create_builder_config "
    "create_engine_inspector create_network create_optimization_profile create_timing_cache "
    "deserialize_cuda_engine get_engine_information get_error get_input get_layer get_output "
    "hardware_compatibility_level node_name node_operator num_inputs num_layers parse_from_file "
    "profiling_verbosity set_flag set_memory_pool_limit set_shape set_timing_cache"
)
RECORDED = frozenset(_NAMES.split())
# The API of 10.x as its documentation has it; removed in 11.
REMOVED_IN_11 = ("FP16", "BF16", "INT8", "FP8", "OBEY_PRECISION_CONSTRAINTS")

_FLAGS = [
    "REFIT",
    "TF32",
    "VERSION_COMPATIBLE",
    "EXCLUDE_LEAN_RUNTIME",
    "ERROR_ON_TIMING_CACHE_MISS",
    "STRIP_PLAN",
    "REFIT_IDENTICAL",
    "WEIGHT_STREAMING",
]


class ILogger:
    Severity = Severity

    def __init__(self) -> None: ...

    def log(self, severity: Any, message: str) -> None: ...


class ITimingCache:
    """A set of kernels that were timed."""

    def __init__(self, data: bytes) -> None:
        self.entries = set(data.split(b"\n")) - {b""}

    def serialize(self) -> bytes:
        return b"\n".join(sorted(self.entries))

    def combine(self, other: ITimingCache, ignore_mismatch: bool) -> bool:
        if b"another GPU" in other.entries and not ignore_mismatch:
            return False
        self.entries |= other.entries
        return True


class Network:
    """A network with two inputs and no layers."""

    def __init__(self, flags: int) -> None:
        self.flags = flags
        self.num_layers = 0
        self.inputs = [SimpleNamespace(name=n, shape=(-1, -1)) for n in ("input_ids", "mask")]
        self.num_inputs = len(self.inputs)

    def get_input(self, index: int) -> Any:
        return self.inputs[index]

    def get_layer(self, index: int) -> Any:
        raise IndexError(index)


class Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, tuple[Any, ...]] = {}

    def set_shape(self, name: str, minimum: Any, optimum: Any, maximum: Any) -> None:
        self.shapes[name] = (minimum, optimum, maximum)


class Config:
    """A builder configuration that every flavour has; ``flags`` is what is set."""

    def __init__(self) -> None:
        self.flags: set[str] = {"TF32"}
        self.profiles: list[Profile] = []
        self.pools: dict[str, int] = {}
        self.cache: ITimingCache | None = None
        self.builder_optimization_level = 3
        self.hardware_compatibility_level: Any = None
        self.profiling_verbosity: Any = None

    def set_flag(self, flag: Any) -> None:
        self.flags.add(flag.name)

    def clear_flag(self, flag: Any) -> None:
        self.flags.discard(flag.name)

    def add_optimization_profile(self, profile: Profile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self.pools[pool.name] = size

    def create_timing_cache(self, data: bytes) -> ITimingCache:
        return ITimingCache(data)

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if b"another GPU" in cache.entries and not ignore_mismatch:
            return False
        self.cache = cache
        return True


class ConfigOfRtx(Config):
    def __init__(self) -> None:
        super().__init__()
        self.num_compute_capabilities = 0
        self.capabilities: dict[int, Any] = {}

    def set_compute_capability(self, capability: Any, index: int) -> bool:
        self.capabilities[index] = capability
        return True


def fake_trt(
    name: str = "tensorrt",
    version: str = "11.4.0.106",
    *,
    lines: Sequence[str] = (),
    refuses: str = "",
    fails: str = "",
    needs: Sequence[bytes] = (b"gemm",),
    inspector: str = "{}",
    while_building: Callable[[], None] = lambda: None,
) -> Any:
    """Make a fake module.

    Args:
        name: Key of ``FLAVOURS``.
        version: Its version; the major one decides on its members.
        lines: What a build logs.
        refuses: What the parser says; empty where it takes the file.
        fails: What the build says; empty where it gives a plan.
        needs: Kernels that a build times where its cache has them not.
        inspector: What the engine inspector says of any plan.
        while_building: Called in the midst of a build.

    Returns:
        A namespace; ``seen`` holds the network and configuration of the last build.
    """
    rtx = name == "tensorrt_rtx"
    ten = version.startswith("10.")
    flags = [*_FLAGS, *(REMOVED_IN_11 if ten else ()), *(["REQUIRE_USER_ALLOCATION"] * rtx)]
    seen = SimpleNamespace(network=None, config=None, capability=None)

    class Builder:
        def __init__(self, logger: ILogger) -> None:
            self.logger = logger

        def create_network(self, flags: int = 0) -> Network:
            network = seen.network = Network(flags)
            return network

        def create_builder_config(self) -> Config:
            config = seen.config = ConfigOfRtx() if rtx else Config()
            return config

        def create_optimization_profile(self) -> Profile:
            return Profile()

        def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
            for line in lines:
                self.logger.log(Severity.VERBOSE, line)
            while_building()
            error = fails
            if config.cache is not None and (missing := set(needs) - config.cache.entries):
                if "ERROR_ON_TIMING_CACHE_MISS" in config.flags:
                    error = MISS
                else:
                    config.cache.entries |= missing
            if error:
                self.logger.log(Severity.ERROR, error)
                return None
            return b"a plan"

    class OnnxParser:
        def __init__(self, network: Network, logger: ILogger) -> None:
            self.num_errors = int(bool(refuses))

        def parse_from_file(self, path: str) -> bool:
            return not refuses

        def get_error(self, index: int) -> Any:
            return SimpleNamespace(
                node_name=lambda: "encoder/MatMul",
                node_operator=lambda: "MatMulInteger",
                desc=lambda: refuses,
            )

    class Runtime:
        def __init__(self, logger: ILogger) -> None: ...

        def deserialize_cuda_engine(self, plan: bytes) -> Any:
            told = SimpleNamespace(get_engine_information=lambda form: inspector)
            return SimpleNamespace(create_engine_inspector=lambda: told)

    module = SimpleNamespace(
        __name__=name,
        __version__=version,
        seen=seen,
        ILogger=ILogger,
        Builder=Builder,
        OnnxParser=OnnxParser,
        Runtime=Runtime,
        BuilderFlag=enum.IntEnum("BuilderFlag", flags),
        # Version 10 still counts EXPLICIT_BATCH, so the same flag is another bit there.
        NetworkDefinitionCreationFlag=enum.IntEnum(
            "NetworkDefinitionCreationFlag",
            ["EXPLICIT_BATCH", "STRONGLY_TYPED"] if ten else ["STRONGLY_TYPED"],
            start=0,
        ),
        MemoryPoolType=enum.IntEnum("MemoryPoolType", "WORKSPACE", start=0),
        ProfilingVerbosity=enum.IntEnum("ProfilingVerbosity", "LAYER_NAMES_ONLY NONE DETAILED"),
        HardwareCompatibilityLevel=enum.IntEnum("HardwareCompatibilityLevel", "NONE AMPERE_PLUS"),
        LayerInformationFormat=enum.IntEnum("LayerInformationFormat", {"JSON": 1}),
        IConstantLayer=object,
        ITimingCache=ITimingCache,
    )
    if rtx:
        module.ComputeCapability = enum.IntEnum(
            "ComputeCapability", {"NONE": 0, "CURRENT": 1, "SM86": 86, "SM89": 89, "SM120": 120}
        )
    return module


def members(module: Any) -> set[str]:
    """Return all the names that a fake has, those of its classes and enumerations included."""
    own = {"seen", "fake_trt"}
    found: set[str] = set()
    for name, value in vars(module).items():
        if name.startswith("__") or name in own:
            continue
        found.add(name)
        if isinstance(value, type) and issubclass(value, enum.Enum):
            found |= set(value.__members__)
        elif isinstance(value, type):
            found |= {n for n in vars(value) if not n.startswith("_")} - own
    config = ConfigOfRtx if hasattr(module, "ComputeCapability") else Config
    for class_ in (Network, Profile, config, Config, ITimingCache):
        found |= {n for n, v in vars(class_).items() if callable(v) and not n.startswith("_")}
    return found
