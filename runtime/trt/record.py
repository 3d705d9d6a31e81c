"""Records of plans: what ``engines/NAME.json`` says of one, read strictly."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from albert_deploy.runtime.contract import TASKS, VARIANTS, TensorSpec
from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.manifest import read_json
from albert_deploy.runtime.trt.profiles import Profile

FOLDER = "engines"
FORMAT = 1
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
REBUILD = "build it again: albert-deploy build DIR"


@dataclass(frozen=True, kw_only=True)
class PlanRecord:
    """What ``engines/NAME.json`` says of a plan.

    Attributes:
        name: Of the engine, such as ``sm89-fp16``.
        file: Path of the plan in the deployment directory.
        sha256: Of the plan.
        bytes: Size of the plan.
        task: Key of ``TASKS``.
        variant: Key of ``VARIANTS``.
        onnx_file: What it was built from.
        onnx_sha256: Of that file.
        target: Key of ``runtime.trt.targets.TARGETS``.
        capability: Compute capability that it was built for.
        flavour: Key of ``runtime.trt.flavours.FLAVOURS``.
        version: Of the flavour.
        version_compatible: Runs in later versions as well.
        hardware_compatible: Runs on Ampere and everything later.
        stripped: Has no weights: they are put in from the ONNX file.
        weight_streaming: Weights stay on the host and are brought when they are needed.
        built_on: Name of the GPU; None where it was built without one.
        inputs: As in the contract.
        outputs: Likewise.
        profiles: Shapes that it takes.
        memory_bytes: Device memory that it needs: weights, and what it works in.
    """

    name: str
    file: str
    sha256: str
    bytes: int
    task: str
    variant: str
    onnx_file: str
    onnx_sha256: str
    target: str
    capability: tuple[int, int]
    flavour: str
    version: str
    version_compatible: bool
    hardware_compatible: bool
    stripped: bool
    weight_streaming: bool
    built_on: str | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    profiles: tuple[Profile, ...]
    memory_bytes: int


def record_file(name: str) -> str:
    """Return the path of an engine's record in the deployment directory."""
    return f"{FOLDER}/{name}.json"


def read_record(directory: Path, name: str) -> PlanRecord:
    """Read the record of an engine, without looking at the manifest or the plan.

    Raises:
        InputError: There is none, or it is not one of this format.
    """
    if _NAME.fullmatch(name) is None:
        raise InputError(f"got the engine {name!r}; wanted a name such as sm89-fp16")
    path = directory / record_file(name)
    missing = f"{path} is missing: a plan without its record cannot be checked; {REBUILD}"
    value = read_json(path, REBUILD, missing=missing)
    got = value.get("format") if isinstance(value, dict) else None
    if got != FORMAT:
        raise InputError(f"{path} has format {got}, this version reads {FORMAT}; {REBUILD}")
    try:
        record = _parsed(name, value)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is no engine record ({error!r}); {REBUILD}") from error
    if record.file != f"{FOLDER}/{name}.plan":
        raise InputError(f"{path} belongs to {record.file}, not to {name}; {REBUILD}")
    return record


def _parsed(name: str, value: Mapping[str, Any]) -> PlanRecord:
    major, minor = (int(part) for part in value["capability"])
    if value["task"] not in TASKS or value["variant"] not in VARIANTS:
        raise ValueError(f"{value['task']} or {value['variant']} is not known")
    settings = value.get("settings") or {}
    working = value.get("device_memory_bytes")
    if working is None:
        working = max(int(value.get(f"{k}_bytes") or 0) for k in ("scratch", "activation"))
    return PlanRecord(
        name=name,
        file=str(value["plan"]),
        sha256=str(value["sha256"]),
        bytes=int(value["bytes"]),
        task=value["task"],
        variant=value["variant"],
        onnx_file=str(value["onnx"]["file"]),
        onnx_sha256=str(value["onnx"]["sha256"]),
        target=str(value["target"]),
        capability=(major, minor),
        flavour=str(value["flavour"]),
        version=str(value["version"]),
        version_compatible=bool(value.get("version_compatible")),
        hardware_compatible=bool(value.get("hardware_compatible")),
        stripped=bool(value.get("stripped")),
        weight_streaming=bool(settings.get("weight_streaming")),
        built_on=(value.get("built_on") or {}).get("gpu"),
        inputs=tuple(map(TensorSpec.from_json, value["inputs"])),
        outputs=tuple(map(TensorSpec.from_json, value["outputs"])),
        profiles=tuple(Profile.from_json(one) for one in value["profiles"]),
        memory_bytes=int(value.get("weights_bytes") or value["bytes"]) + int(working),
    )
