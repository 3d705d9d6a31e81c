"""The GPU that a benchmark ran on: what it is, its driver, clocks and memory in use."""

from __future__ import annotations

import contextlib
import csv
import io
import re
import shutil
import subprocess
from typing import Any

from albert_deploy.runtime.errors import MachineError
from albert_deploy.validation.bench.gpu_turns import Device
from albert_deploy.validation.bench.machine import machine

# Field of nvidia-smi -> key in the report; numbers in the unit of the key's end.
_FIELDS = {
    "driver_version": "driver",
    "clocks.sm": "sm_clock_mhz",
    "clocks.max.sm": "sm_clock_most_mhz",
    "clocks.mem": "memory_clock_mhz",
    "power.limit": "power_limit_w",
    "power.draw": "power_draw_w",
    "temperature.gpu": "temperature_c",
}
_NEEDED = (
    "an NVIDIA GPU of compute capability 7.5 or later, its driver, and a CUDA build of PyTorch"
)
_PACKAGES = ("onnxruntime-gpu", "tensorrt", "tensorrt-rtx", "cuda-bindings", "triton")


def require_gpu() -> None:
    """Fail where no benchmark can run.

    Raises:
        MachineError: There is no PyTorch here, or it sees no GPU.
    """
    try:
        import torch
    except ImportError as error:
        raise MachineError(
            f"PyTorch is not installed ({error}); the benchmark needs {_NEEDED}"
        ) from error
    if torch.cuda.is_available():
        return
    if torch.version.cuda is None:
        why = f"PyTorch {torch.__version__} is built without CUDA"
    else:
        why = f"PyTorch {torch.__version__} sees no CUDA device"
    raise MachineError(f"no GPU to measure on: {why}; the benchmark needs {_NEEDED}")


def gpu_machine() -> dict[str, Any]:
    """Return what ``machine.machine`` does, the packages for GPUs too, and ``gpu``.

    ``gpu`` has ``name``, ``capability``, ``memory_bytes``, ``processors`` (streaming
    multiprocessors), ``cuda`` (of PyTorch), ``driver`` and the readings of ``readings``.
    """
    import importlib.metadata

    import torch

    told = machine()
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            told["versions"][name] = importlib.metadata.version(name)
    of = torch.cuda.get_device_properties(0)
    told["gpu"] = {
        "name": of.name,
        "capability": [of.major, of.minor],
        "memory_bytes": of.total_memory,
        "processors": of.multi_processor_count,
        "cuda": torch.version.cuda,
        **readings(),
    }
    return told


def readings() -> dict[str, Any]:
    """Return what ``nvidia-smi`` reads of PyTorch's GPU now; None for what it does not tell."""
    found: dict[str, Any] = dict.fromkeys(_FIELDS.values())
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return found
    fields = ",".join(_FIELDS)
    command = [tool, f"--query-gpu={fields}", "--format=csv,noheader,nounits", "-i", _which()]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        told = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        found |= read_smi(told.stdout)
    return found


def _which() -> str:
    """Name PyTorch's GPU to ``nvidia-smi``, whose numbers do not follow CUDA's."""
    import torch

    with contextlib.suppress(RuntimeError, AssertionError, AttributeError):
        return f"GPU-{torch.cuda.get_device_properties(0).uuid}"
    return "0"


def read_smi(text: str) -> dict[str, Any]:
    """Read one line of ``nvidia-smi``'s CSV; a field that is no number there becomes None."""
    row = next(csv.reader(io.StringIO(text), skipinitialspace=True), [])
    found: dict[str, Any] = {}
    for key, cell in zip(_FIELDS.values(), row, strict=False):
        value = cell.strip()
        if key == "driver":
            found[key] = value or None
            continue
        found[key] = float(value) if re.fullmatch(r"\d+(\.\d+)?", value) else None
    return found


def cuda_device() -> Device:
    """Return the GPU as the benchmark asks it: PyTorch's current device."""
    import gc

    import torch

    def used() -> int | None:
        torch.cuda.synchronize()
        free, total = torch.cuda.mem_get_info()
        return int(total - free)

    def release() -> None:
        gc.collect()
        torch.cuda.empty_cache()

    return Device(used_bytes=used, release=release)


def slug(name: str) -> str:
    """Return a GPU's name as that of a file: ``nvidia-h100-80gb-hbm3``."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "gpu"
