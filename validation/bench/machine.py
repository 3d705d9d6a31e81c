"""What a measurement ran on: times mean nothing without it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

_CPUINFO = Path("/proc/cpuinfo")
_PACKAGES = ("onnxruntime", "openvino", "torch", "transformers", "nncf", "numpy")
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
    return "; ".join(part for part in parts if part)


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


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
