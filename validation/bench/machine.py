"""What a measurement ran on: times mean nothing without it."""

from __future__ import annotations

import contextlib
import csv
import importlib.metadata
import io
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from albert_deploy.runtime.errors import MachineError

_CPUINFO = Path("/proc/cpuinfo")
_PACKAGES = ("onnxruntime", "openvino", "torch", "transformers", "nncf", "numpy")
_GPU_PACKAGES = ("onnxruntime-gpu", "tensorrt", "tensorrt-rtx", "cuda-bindings", "triton")
# Instruction sets that decide how fast int8, bf16 and fp32 products are.
_INSTRUCTIONS = (
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "asimddp",
    "i8mm",
    "sve",
)

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


def machine() -> dict[str, Any]:
    """Return processor, cores, instruction sets, load average and versions.

    ``load_average`` is the mean number of running processes in the last minute, None where the
    system does not tell; one above 0 before a measurement means that others were at work.
    """
    model, flags = _processor()
    load = None
    with contextlib.suppress(OSError, AttributeError):
        load = round(os.getloadavg()[0], 2)
    return {
        "cpu": model,
        "cores": cores(),
        "instructions": [name for name in _INSTRUCTIONS if name in flags],
        "system": f"{platform.system()} {platform.machine()}",
        "load_average": load,
        "versions": {"python": platform.python_version()} | _versions(),
    }


def describe(record: dict[str, Any]) -> str:
    """Return one line for people about a result of ``machine``."""
    parts = [
        f"{record['cpu']}, {record['cores']} cores",
        " ".join(record["instructions"]),
        record["system"],
        ", ".join(f"{name} {version}" for name, version in record["versions"].items()),
    ]
    if record["load_average"] is not None:
        parts.append(f"load average {record['load_average']} at the start")
    if "gpu" in record:
        parts.insert(0, _gpu_words(record["gpu"]))
    return "; ".join(part for part in parts if part)


def _gpu_words(gpu: dict[str, Any]) -> str:
    words = [gpu["name"], f"compute capability {'.'.join(map(str, gpu['capability']))}"]
    words += [f"{gpu['memory_bytes'] / 2**30:.0f} GiB", f"driver {gpu['driver'] or 'unknown'}"]
    words.append(f"CUDA {gpu['cuda']} in PyTorch")
    for key, what in (
        ("sm_clock_mhz", "MHz at the start"),
        ("sm_clock_most_mhz", "MHz at most"),
        ("power_limit_w", "W at most"),
    ):
        if gpu.get(key) is not None:
            words.append(f"{gpu[key]:.0f} {what}")
    return ", ".join(words)


def _processor() -> tuple[str, set[str]]:
    fields: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip().lower(), value.strip())
    name = fields.get("model name") or platform.processor() or "unknown processor"
    return name, set(fields.get("flags", fields.get("features", "")).split())


def cores() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _versions(packages: tuple[str, ...] = _PACKAGES) -> dict[str, str]:
    found = {}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


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
    """Return what ``machine`` does, the packages for GPUs too, and ``gpu``.

    ``gpu`` has ``name``, ``capability``, ``memory_bytes``, ``processors`` (streaming
    multiprocessors), ``cuda`` (of PyTorch), ``driver`` and the readings of ``readings``.
    """
    import torch

    found = machine()
    found["versions"] |= _versions(_GPU_PACKAGES)
    of = torch.cuda.get_device_properties(0)
    found["gpu"] = {
        "name": of.name,
        "capability": [of.major, of.minor],
        "memory_bytes": of.total_memory,
        "processors": of.multi_processor_count,
        "cuda": torch.version.cuda,
        **readings(),
    }
    return found


def readings() -> dict[str, Any]:
    """Return what ``nvidia-smi`` reads of PyTorch's GPU now; None for what it does not tell."""
    found: dict[str, Any] = dict.fromkeys(_FIELDS.values())
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return found
    fields = ",".join(_FIELDS)
    command = [tool, f"--query-gpu={fields}", "--format=csv,noheader,nounits", "-i", _which()]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        found |= read_smi(answer.stdout)
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


def slug(name: str) -> str:
    """Return a GPU's name as that of a file: ``nvidia-h100-80gb-hbm3``."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "gpu"
