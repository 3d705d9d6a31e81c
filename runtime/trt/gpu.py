"""What GPUs and driver this machine has, told without a crash where there are none.

The order matters: TensorRT's lean runtime crashes without a driver, and the bindings raise where
the driver's library is missing. So the library is looked for first.
"""

from __future__ import annotations

import ctypes
import re
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from albert_deploy.runtime.errors import MachineError

DRIVER_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
BINDINGS = "pip install 'cuda-bindings>=12.6'"
# First driver branch of each CUDA major version; docs.nvidia.com/deploy/cuda-compatibility.
LEAST_DRIVERS: dict[int, str] = {11: "450", 12: "525", 13: "580"}

_KERNEL_MODULE = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU.

    Attributes:
        index: Its number, among those that ``CUDA_VISIBLE_DEVICES`` shows.
        name: What it calls itself.
        capability: Compute capability, major and minor.
        total_bytes: Its memory.
    """

    index: int
    name: str
    capability: tuple[int, int]
    total_bytes: int

    def to_json(self) -> dict[str, Any]:
        """Return the form that reports hold."""
        return asdict(self) | {"capability": list(self.capability)}


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What was found.

    Attributes:
        devices: GPUs that can be used; empty where there are none.
        why: Why there are none, and what to do; empty where there is one.
        driver: Version of the driver, such as ``580.65.06``; None where it is not told.
        cuda: Newest CUDA version that the driver runs, such as (13, 0); None without a driver.
    """

    devices: tuple[Gpu, ...] = ()
    why: str = ""
    driver: str | None = None
    cuda: tuple[int, int] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the form that reports hold."""
        return {
            "devices": [gpu.to_json() for gpu in self.devices],
            "why": self.why or None,
            "driver": self.driver,
            "cuda": ".".join(map(str, self.cuda)) if self.cuda else None,
        }


def probe() -> Probe:
    """Look for GPUs; no context is made on any of them, so none of their memory is taken."""
    try:
        ctypes.CDLL(DRIVER_LIBRARY)
    except OSError:
        return Probe(
            why=f"no NVIDIA driver is here ({DRIVER_LIBRARY} cannot be loaded); install one or, "
            "in a container, start it with access to the GPUs"
        )
    driver = _driver_version()
    try:
        from cuda.bindings import runtime
    except ImportError:
        return Probe(why=f"cuda-bindings is not installed; run: {BINDINGS}", driver=driver)
    try:
        return _devices(runtime, driver)
    except (RuntimeError, OSError) as error:
        # What the bindings raise where a library of the driver lacks a function.
        return Probe(why=f"CUDA does not start: {error}; update the driver", driver=driver)


def require_gpu(index: int = 0) -> Gpu:
    """Return a GPU of this machine.

    Args:
        index: Its number, among those that ``CUDA_VISIBLE_DEVICES`` shows.

    Raises:
        MachineError: There is none, or none of that number.
    """
    return chosen_gpu(probe(), index)


def chosen_gpu(found: Probe, index: int = 0) -> Gpu:
    """Return a GPU of those that were found.

    Raises:
        MachineError: There is none, or none of that number.
    """
    if not found.devices:
        raise MachineError(f"this needs a GPU: {found.why}")
    if index >= len(found.devices):
        raise MachineError(
            f"got GPU {index}, there are {len(found.devices)}, numbered from 0; "
            "choose another or set CUDA_VISIBLE_DEVICES"
        )
    return found.devices[index]


def free_bytes(index: int = 0) -> int | None:
    """Return a GPU's free memory in bytes; None where it cannot be told.

    CUDA starts on that GPU for it, which takes some of its memory.
    """
    try:
        from cuda.bindings import runtime

        if int(runtime.cudaSetDevice(index)[0]) != 0:
            return None
        error, free, _ = runtime.cudaMemGetInfo()
        return int(free) if int(error) == 0 else None
    except (ImportError, RuntimeError, OSError):
        return None


def _devices(runtime: Any, driver: str | None) -> Probe:
    error, version = runtime.cudaDriverGetVersion()
    cuda = (version // 1000, version % 1000 // 10) if int(error) == 0 and version else None
    error, count = runtime.cudaGetDeviceCount()
    if int(error) != 0:
        return Probe(why=_refusal(runtime, error, cuda), driver=driver, cuda=cuda)
    if not count:
        return Probe(why=_NONE_SHOWN, driver=driver, cuda=cuda)
    gpus = []
    for index in range(count):
        error, reason = runtime.cudaGetDeviceProperties(index)
        if int(error) != 0:
            return Probe(why=_refusal(runtime, error, cuda), driver=driver, cuda=cuda)
        name = reason.name.decode() if isinstance(reason.name, bytes) else str(reason.name)
        gpus.append(
            Gpu(
                index=index,
                name=name.rstrip("\0"),
                capability=(int(reason.major), int(reason.minor)),
                total_bytes=int(reason.totalGlobalMem),
            )
        )
    return Probe(devices=tuple(gpus), driver=driver, cuda=cuda)


_NONE_SHOWN = (
    "the driver shows no GPU; look at nvidia-smi and at CUDA_VISIBLE_DEVICES and, in a "
    "container, start it with access to the GPUs"
)


def _refusal(runtime: Any, error: Any, cuda: tuple[int, int] | None) -> str:
    if int(error) == int(runtime.cudaError_t.cudaErrorNoDevice):
        return _NONE_SHOWN
    if int(error) == int(runtime.cudaError_t.cudaErrorInsufficientDriver):
        wanted = runtime.cudaRuntimeGetVersion()[1] // 1000
        has = f"runs CUDA {cuda[0]}.{cuda[1]}" if cuda else "tells no CUDA version"
        least = LEAST_DRIVERS.get(wanted, "the newest")
        return (
            f"the driver {has}, cuda-bindings wants CUDA {wanted}; update the driver to {least} "
            f"or later, or run: pip install 'cuda-bindings<{wanted}'"
        )
    text = runtime.cudaGetErrorString(error)[1]
    reason = text.decode() if isinstance(text, bytes) else str(text)
    return f"CUDA does not start: {reason} (error {int(error)}); look at nvidia-smi"


def _driver_version() -> str | None:
    """Return the version in the file of the kernel module, which WSL and Windows do not have."""
    try:
        text = _KERNEL_MODULE.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"Kernel Module.*?\s(\d+(?:\.\d+)+)\s", text)
    return found[1] if found else None
