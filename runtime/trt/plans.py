"""Engine plans and their records: read and verified before a plan is touched.

A plan is code that runs on the GPU, and one that is damaged or made for something else may take
the process with it. So ``check_plan`` compares everything that can be known from outside first.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from albert_deploy.runtime.errors import AlbertDeployError, ContractError, InputError
from albert_deploy.runtime.manifest import MANIFEST_NAME, read_manifest, sha256_of
from albert_deploy.runtime.trt.machine import Machine, machine_problems
from albert_deploy.runtime.trt.record import FOLDER, REBUILD, PlanRecord, read_record, record_file

# TensorRT for RTX starts its plans with a header of 64 bytes, as seen in those of 1.7: this word,
# the size of all at byte 16, four bytes of version at 24, a bit for each capability at 32.
_RTX_MAGIC = b"vtrt"


def check_plan(directory: Path, name: str, *, machine: Machine, trust: bool = False) -> PlanRecord:
    """Return the record of an engine that can run here; its plan is hashed, never loaded.

    Args:
        directory: Deployment directory.
        name: Of the engine, such as ``sm89-fp16``.
        machine: Result of ``machine.this_machine``.
        trust: Run what no manifest vouches for. The record must be there all the same, and the
            plan the one that it describes.

    Raises:
        InputError: The manifest does not know the engine, or its record cannot be read.
        ContractError: The plan or its record was damaged, or its ONNX file made again since.
        MachineError: This machine cannot run it.
    """
    record, problems = plan_problems(directory, name, machine=machine, trust=trust)
    if problems or record is None:
        raise problems[0]
    return record


def plan_problems(
    directory: Path, name: str, *, machine: Machine, trust: bool = False
) -> tuple[PlanRecord | None, list[AlbertDeployError]]:
    """Return an engine's record and everything that keeps it from running here.

    What is wrong with the files comes first, and then nothing is said of the machine: what the
    record of such a plan says is worth nothing.
    """
    try:
        record = read_record(directory, name)
        if not trust:
            _check_manifest(directory, record)
        _check_bytes(directory / record.file, record)
    except AlbertDeployError as error:
        return None, [error]
    return record, list(machine_problems(record, machine))


def plan_names(directory: Path, manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the engines of a directory: those of the manifest, then plans that lie there too."""
    known = manifest.get("engines", {})
    lying = {path.stem for path in (directory / FOLDER).glob("*.plan")}
    return (*known, *sorted(lying - set(known)))


def find_plan(
    directory: Path, manifest: Mapping[str, Any], variant: str, machine: Machine
) -> tuple[str | None, list[str]]:
    """Return the engine of a variant that runs here, and why each of the others does not.

    One that was built for this very capability goes before one that is merely compatible.
    """
    reasons = []
    fitting = []
    for name, entry in manifest.get("engines", {}).items():
        if entry.get("variant") != variant:
            continue
        record, problems = plan_problems(directory, name, machine=machine)
        if record is None or problems:
            reasons.append(f"{name}: {problems[0]}")
        else:
            exact = machine.gpu is not None and record.capability == machine.gpu.capability
            fitting.append((not exact, name))
    return (min(fitting)[1] if fitting else None), reasons


def _check_manifest(directory: Path, record: PlanRecord) -> None:
    manifest = read_manifest(directory)
    files, place = manifest["files"], record_file(record.name)
    entry = manifest.get("engines", {}).get(record.name)
    if entry is None or not {place, record.file} <= set(files):
        raise InputError(
            f"{directory / MANIFEST_NAME} does not know the engine {record.name}: nobody vouches "
            f"for that plan, and a plan is code; {REBUILD}, or give `trust=True` if you know "
            "who made it"
        )
    if sha256_of(directory / place) != files[place]["sha256"]:
        raise ContractError(
            f"{directory / place} is not the record that the manifest knows; {REBUILD}"
        )
    if record.sha256 != files[record.file]["sha256"]:
        raise ContractError(
            f"{directory / place} and the manifest disagree on the plan's hash; {REBUILD}"
        )
    now = files.get(record.onnx_file, {}).get("sha256")
    if now != record.onnx_sha256:
        raise ContractError(
            f"the engine {record.name} was built from another {record.onnx_file} than the "
            f"directory holds now; {REBUILD} --variants {record.variant}"
        )


def _check_bytes(path: Path, record: PlanRecord) -> None:
    try:
        size = path.stat().st_size
    except OSError:
        raise ContractError(f"{path} is missing, its record is there; {REBUILD}") from None
    if size < record.bytes:
        raise ContractError(
            f"{path} is truncated: it has {size:,} of {record.bytes:,} bytes; copy it again or "
            f"{REBUILD}"
        )
    if sha256_of(path) != record.sha256:
        raise ContractError(
            f"{path} is corrupted: it is not the plan that its record describes; copy it again or "
            f"{REBUILD}"
        )
    with path.open("rb") as file:
        head = file.read(36)
    if record.flavour == "tensorrt_rtx" and head.startswith(_RTX_MAGIC):
        version = ".".join(str(part) for part in head[24:27])
        if not f"{record.version}.".startswith(f"{version}."):
            raise ContractError(
                f"{path} was made by tensorrt_rtx {version}, its record says {record.version}; "
                f"{REBUILD}"
            )
