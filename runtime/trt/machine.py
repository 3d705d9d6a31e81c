"""What this machine lacks for a plan: TensorRT of the right version, GPU, driver and memory."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from albert_deploy.runtime.errors import MachineError
from albert_deploy.runtime.manifest import package_version
from albert_deploy.runtime.trt import gpu
from albert_deploy.runtime.trt.gpu import LEAST_DRIVERS, Gpu, Probe

if TYPE_CHECKING:
    from albert_deploy.runtime.trt.record import PlanRecord

# Flavour -> its name on the package index. Those ending in -cuNN tell the CUDA version.
_PACKAGES: dict[str, str] = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx"}
_SUFFIXES = ("", "-cu13", "-cu12", "-cu13-bindings", "-cu12-bindings")
_CUDA_MAJORS = (13, 12)
# Hardware-compatible plans run on Ampere and everything after it.
_AMPERE = (8, 0)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a plan may find on this machine.

    Attributes:
        found: GPUs and driver.
        index: Number of the GPU that is meant.
        flavours: Version of each flavour that is installed.
        cuda: Major version of CUDA that each of them was built with, where it is told.
        free_bytes: Free memory of that GPU; None where it is not known.
    """

    found: Probe = field(default_factory=Probe)
    index: int = 0
    flavours: Mapping[str, str] = field(default_factory=dict)
    cuda: Mapping[str, int] = field(default_factory=dict)
    free_bytes: int | None = None

    @property
    def gpu(self) -> Gpu | None:
        """Return the GPU that is meant; None where there is none of that number."""
        devices = self.found.devices
        return devices[self.index] if self.index < len(devices) else None


def this_machine(index: int = 0, *, memory: bool = True) -> Machine:
    """Look at this machine; neither TensorRT is loaded.

    Args:
        index: Number of the GPU.
        memory: Ask for its free memory, for which CUDA starts on it.
    """
    found = gpu.probe()
    there = index < len(found.devices)
    return Machine(
        found=found,
        index=index,
        flavours=installed_flavours(),
        cuda={name: major for name in _PACKAGES if (major := _cuda_of(name)) is not None},
        free_bytes=gpu.free_bytes(index) if memory and there else None,
    )


def installed_flavours() -> dict[str, str]:
    """Return the version of each TensorRT flavour that is installed; none is loaded for it."""
    found = {}
    for module, package in _PACKAGES.items():
        if importlib.util.find_spec(module) is None:
            continue
        versions = (package_version(f"{package}{suffix}") for suffix in _SUFFIXES)
        found[module] = next((version for version in versions if version), "of unknown version")
    return found


def machine_problems(record: PlanRecord, machine: Machine) -> Iterator[MachineError]:
    """Yield what keeps a plan from running here, what to do about it included."""
    yield from _flavour_problems(record, machine)
    if machine.gpu is None:
        why = (
            machine.found.why
            or f"there is no GPU {machine.index}; there are {len(machine.found.devices)}"
        )
        yield MachineError(f"the engine {record.name} needs a GPU: {why}")
        return
    yield from _gpu_problems(record, machine, machine.gpu)


def version_problem(record: PlanRecord, installed: str) -> str | None:
    """Return why another version of its flavour does not run a plan; None where it does.

    Plans run in the version that built them. Version-compatible ones of TensorRT run in later
    versions of the same major number too, and those of 10 in 11; TensorRT for RTX has none.
    """
    if installed == record.version:
        return None
    differs = f"was built with {record.flavour} {record.version}, {installed} is installed"
    if not record.version_compatible or record.flavour != "tensorrt":
        return differs
    built, now = _numbers(record.version), _numbers(installed)
    if now >= built and (now[:1] == built[:1] or (built[:1], now[:1]) == ((10,), (11,))):
        return None
    return f"{differs}, and is compatible only with later ones of the same major version"


def _flavour_problems(record: PlanRecord, machine: Machine) -> Iterator[MachineError]:
    package = _PACKAGES.get(record.flavour)
    if package is None:
        yield MachineError(
            f"the engine {record.name} was built with {record.flavour!r}, this version runs "
            f"{', '.join(_PACKAGES)}; build it again with one of them"
        )
        return
    pin = f"pip install '{package}=={record.version}'"
    installed = machine.flavours.get(record.flavour)
    if installed is None:
        yield MachineError(
            f"the engine {record.name} needs {record.flavour} {record.version}, which is not "
            f"installed; run: {pin}"
        )
    elif (why := version_problem(record, installed)) is not None:
        yield MachineError(f"the engine {record.name} {why}; run: {pin}, or build the engine again")


def _gpu_problems(record: PlanRecord, machine: Machine, device: Gpu) -> Iterator[MachineError]:
    compatible = record.hardware_compatible and min(record.capability, device.capability) >= _AMPERE
    if record.capability != device.capability and not compatible:
        sm = "sm{}{}".format(*device.capability)
        yield MachineError(
            f"the engine {record.name} was built for compute capability "
            f"{_dotted(record.capability)}, {device.name} has {_dotted(device.capability)}; run: "
            f"albert-deploy build DIR --target {sm} --variants {record.variant}"
        )
    wanted, has = machine.cuda.get(record.flavour), machine.found.cuda
    if wanted is not None and has is not None and has[0] < wanted:
        driver = machine.found.driver or "of this machine"
        yield MachineError(
            f"the driver {driver} runs CUDA {_dotted(has)}, {record.flavour} here wants CUDA "
            f"{wanted}; update the driver to {LEAST_DRIVERS[wanted]} or later"
        )
    free = device.total_bytes if machine.free_bytes is None else machine.free_bytes
    if record.memory_bytes > free and not record.weight_streaming:
        yield MachineError(
            f"the engine {record.name} needs {record.memory_bytes / 2**20:,.0f} MiB of GPU memory, "
            f"{device.name} has {free / 2**20:,.0f} MiB free; close what else runs there, or build "
            "with smaller profiles"
        )


def _cuda_of(flavour: str) -> int | None:
    package = _PACKAGES[flavour]
    for major in _CUDA_MAJORS:
        if package_version(f"{package}-cu{major}") or package_version(
            f"{package}-cu{major}-bindings"
        ):
            return major
    return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
