"""TensorRT 10, TensorRT 11 and TensorRT for RTX: finds the one to use and hides what differs.

TensorRT builds for the GPU that it runs on; TensorRT for RTX builds ahead of time, for GPUs that
are elsewhere. Precision lives in the ONNX file in all of them: no flag here asks for one.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from albert_deploy.runtime.errors import InputError, MachineError
from albert_deploy.runtime.trt.gpu import probe
from albert_deploy.runtime.trt.targets import TENSORRT, TENSORRT_RTX, Target

AUTO = "auto"
# TensorRT 10 is asked for strong typing; later ones know nothing else.
_ASKED_FOR_TYPING = {10}


@dataclass(frozen=True, kw_only=True)
class FlavourRow:
    """What is known of a flavour without importing it.

    Args:
        label: What its vendor calls it.
        package: What is imported.
        remedy: How it is installed, and where.
        ahead_of_time: Whether it builds for a GPU other than the one here. Such a builder
            measures no kernels, so it keeps no timings either.
        majors: Major versions whose API this project knows; None for all.
        settings: Fields of ``export.engine.build.EngineConfig`` that it has -> builder flags of
            each.
        driver: Those of ``settings`` that need a driver while building, found by trying.
        lacks: Those that it does not have -> why, and what to do instead.
    """

    label: str
    package: str
    remedy: str
    ahead_of_time: bool
    majors: frozenset[int] | None = None
    settings: Mapping[str, tuple[str, ...]]
    driver: frozenset[str] = frozenset()
    lacks: Mapping[str, str] = field(default_factory=dict)


FLAVOURS: dict[str, FlavourRow] = {
    TENSORRT: FlavourRow(
        label="TensorRT",
        package="tensorrt",
        remedy="pip install 'albert-deploy[gpu]' on the machine with the GPU",
        ahead_of_time=False,
        majors=frozenset({10, 11}),
        settings={
            "workspace_bytes": (),
            "level": (),
            "timing_cache": (),
            "require_cache_hit": ("ERROR_ON_TIMING_CACHE_MISS",),
            "version_compatible": ("VERSION_COMPATIBLE",),
            "hardware_compatible": (),
            "refit": ("REFIT",),
            "strip": ("STRIP_PLAN",),
            "weight_streaming": ("WEIGHT_STREAMING",),
            "tf32": ("TF32",),
            "detailed": (),
        },
        lacks={"stream_capture": "its contexts can always be captured; leave it out"},
    ),
    TENSORRT_RTX: FlavourRow(
        label="TensorRT for RTX",
        package="tensorrt_rtx",
        remedy="pip install 'albert-deploy[rtx]'",
        ahead_of_time=True,
        settings={
            "workspace_bytes": (),
            # A folder for them may be given, and stays empty.
            "timing_cache": (),
            # It has no lean runtime to put into the plan.
            "version_compatible": ("VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME"),
            "refit": ("REFIT",),
            "strip": ("STRIP_PLAN",),
            "weight_streaming": ("WEIGHT_STREAMING",),
            "tf32": ("TF32",),
            "stream_capture": ("REQUIRE_USER_ALLOCATION",),
            "detailed": (),
        },
        driver=frozenset({"refit", "strip"}),
        lacks={
            "level": "its plans are the same at every level",
            "require_cache_hit": "it times nothing while it builds: its plans are reproducible",
            "hardware_compatible": "it ignores the level; build one plan for each target",
        },
    ),
}


@dataclass(frozen=True, kw_only=True)
class Flavour:
    """A flavour that is installed here.

    Attributes:
        name: Key of ``FLAVOURS``.
        version: Of its package, such as ``1.7.1.116``.
        module: What was imported.
        ahead_of_time: Whether it builds for a GPU other than the one here.
    """

    name: str
    version: str
    module: Any
    ahead_of_time: bool

    @property
    def label(self) -> str:
        """Return what its vendor calls it, with the version."""
        return f"{FLAVOURS[self.name].label} {self.version}"

    @property
    def major(self) -> int:
        """Return the major version."""
        return int(self.version.split(".")[0])


def installed(name: str) -> bool:
    """Tell whether a flavour's package is there, without importing it."""
    return importlib.util.find_spec(FLAVOURS[name].package) is not None


def load_flavour(name: str = AUTO, *, need: Target | None = None) -> Flavour:
    """Import a flavour.

    ``auto`` is TensorRT where it can build for the target, else TensorRT for RTX.

    Args:
        name: Key of ``FLAVOURS``, or ``auto``.
        need: What is to be built for, if that is known.

    Raises:
        InputError: Unknown flavour.
        MachineError: It is not installed, cannot be imported, is of a version whose API is not
            known, or does not serve the target; the message has the remedy.
    """
    if name == AUTO:
        return _import(_choose(need))
    if name not in FLAVOURS:
        raise InputError(f"unknown flavour {name!r}; use {AUTO} or one of: {', '.join(FLAVOURS)}")
    if need is not None and name not in need.flavours:
        raise MachineError(_not_served(name, need))
    return _import(name)


def _choose(need: Target | None) -> str:
    serving = list(FLAVOURS) if need is None else [n for n in FLAVOURS if n in need.flavours]
    there = [name for name in serving if installed(name)]
    if not there:
        remedies = " or: ".join(FLAVOURS[name].remedy for name in serving)
        other = [name for name in FLAVOURS if name not in serving and installed(name)]
        if need is not None and other:
            raise MachineError(f"{_not_served(other[0], need)}; or run: {remedies}")
        what = "TensorRT" if need is None else f"what builds for {need.name}"
        raise MachineError(f"{what} is not installed; run: {remedies}")
    if need is not None and len(there) > 1:
        here = {device.capability for device in probe().devices}
        there.sort(key=lambda n: not FLAVOURS[n].ahead_of_time and need.capability not in here)
    return there[0]


def _not_served(name: str, need: Target) -> str:
    others = " or ".join(FLAVOURS[other].label for other in need.flavours)
    return (
        f"{FLAVOURS[name].label} does not build for {need.label} ({need.sm}); {others} does, on "
        "the machine that has this GPU: make a build kit for it with `kit=True`"
    )


def _import(name: str) -> Flavour:
    row = FLAVOURS[name]
    if not installed(name):
        raise MachineError(f"{row.label} is not installed; run: {row.remedy}")
    try:
        module = importlib.import_module(row.package)
    except (ImportError, OSError) as error:
        raise MachineError(
            f"{row.label} is installed but cannot be imported: {error}; install it again: "
            f"{row.remedy}"
        ) from error
    version = str(getattr(module, "__version__", "0"))
    found = Flavour(name=name, version=version, module=module, ahead_of_time=row.ahead_of_time)
    if row.majors is not None and found.major not in row.majors:
        known = " and ".join(str(major) for major in sorted(row.majors))
        raise MachineError(
            f"got {found.label}, wanted version {known}; run: pip install 'tensorrt>=10.3,<12'"
        )
    return found


def check_settings(flavour: Flavour, asked: Mapping[str, object]) -> None:
    """Fail where a setting is asked for that a flavour does not have.

    Args:
        flavour: The flavour.
        asked: Settings away from their defaults, by field of ``export.engine.build.EngineConfig``.

    Raises:
        InputError: It does not have one; the message names those that it has.
        MachineError: It has it, but only on a machine with a driver.
    """
    row = FLAVOURS[flavour.name]
    for setting in asked:
        if setting not in row.settings:
            why = row.lacks.get(setting, "unknown setting")
            having = ", ".join(row.settings)
            raise InputError(f"{row.label} has no setting {setting}: {why}; what it has: {having}")
    if late := [setting for setting in asked if setting in row.driver]:
        found = probe()
        if not found.devices:
            raise MachineError(
                f"{row.label} needs a GPU to build with {', '.join(late)}: {found.why}"
            )


def builder_flags(flavour: Flavour, asked: Mapping[str, object]) -> tuple[str, ...]:
    """Return the names of the builder flags to set; TF32 is cleared by who sets them.

    A stripped plan without ``refit`` is one that takes the same weights again: the builder may
    then fuse as if they were constants.
    """
    row = FLAVOURS[flavour.name]
    flags = [flag for setting in asked for flag in row.settings[setting]]
    if "strip" in asked and "refit" not in asked:
        flags.append("REFIT_IDENTICAL")
    return tuple(flags)


def create_network(flavour: Flavour, builder: Any) -> Any:
    """Return an empty network whose types are those of the ONNX file."""
    if flavour.name == TENSORRT and flavour.major in _ASKED_FOR_TYPING:
        typed = flavour.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED
        return builder.create_network(1 << int(typed))
    return builder.create_network(0)


def set_target(flavour: Flavour, config: Any, target: Target) -> None:
    """Have a builder configuration build for a target.

    Args:
        flavour: Who builds.
        config: Its builder configuration; None to see only whether it can build for the target.
        target: For what.

    Raises:
        MachineError: The flavour does not serve the target, or builds for the GPU here alone
            and that is another one, or none.
    """
    if flavour.name not in target.flavours:
        raise MachineError(_not_served(flavour.name, target))
    if flavour.ahead_of_time:
        capability = getattr(flavour.module.ComputeCapability, target.sm.upper(), None)
        if capability is None:
            raise MachineError(
                f"{flavour.label} does not know {target.sm}; update it: "
                f"{FLAVOURS[flavour.name].remedy}"
            )
        if config is not None:
            config.num_compute_capabilities = 1
            config.set_compute_capability(capability, 0)
        return
    found = probe()
    if not found.devices:
        raise MachineError(
            f"{flavour.label} builds for {target.label} on a machine that has one: {found.why}; "
            "make a build kit with `kit=True` and run it there"
        )
    here = found.devices[0]
    if here.capability != target.capability:
        raise MachineError(
            f"{flavour.label} builds for the GPU of this machine, {here.name} "
            f"(sm{here.capability[0]}{here.capability[1]}), not for {target.label} "
            f"({target.sm}); make a build kit with `kit=True` and run it there, or use "
            "`target` local"
        )
