"""What of a deployment directory runs on this machine, and why the rest does not.

Files are hashed and records read; no model and no plan is loaded.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from albert_deploy.runtime.contract import VARIANTS
from albert_deploy.runtime.engines.table import ENGINES
from albert_deploy.runtime.errors import (
    EXIT_PASS,
    AlbertDeployError,
    ContractError,
    InputError,
    MachineError,
)
from albert_deploy.runtime.manifest import check_file, model_files, package_version, read_manifest
from albert_deploy.runtime.trt.machine import Machine, this_machine
from albert_deploy.runtime.trt.plans import plan_names, plan_problems
from albert_deploy.runtime.trt.record import FOLDER

RUNS, NOT_HERE, REFUSED = "runs", "not here", "refused"
_PACKAGES = (
    "albert-deploy",
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-rtx",
    "cuda-bindings",
)
_GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Row:
    """An artifact in an engine.

    Attributes:
        artifact: Its path in the directory.
        variant: Key of ``VARIANTS``; None where nothing tells it.
        engine: Key of ``ENGINES``.
        status: ``runs``; ``not here``: it is sound, and this machine lacks something; or
            ``refused``: it is damaged, stale, or nobody vouches for it.
        why: Every reason, with what to do about it; empty where it runs.
        exit_code: That of the first reason; 0 where it runs.
        meant: Made for this machine: an ONNX file, or a plan for a GPU like the one here.
    """

    artifact: str
    variant: str | None
    engine: str
    status: str
    why: str
    exit_code: int
    meant: bool


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What ``doctor`` found.

    Attributes:
        rows: One for each ONNX file and engine, and for each plan.
        machine: ``system``, ``python``, ``gpu`` (see ``gpu.Probe``), ``free_bytes``, and
            ``packages``: name -> version, None where one is not installed.
    """

    rows: tuple[Row, ...]
    machine: Mapping[str, Any]

    @property
    def exit_code(self) -> int:
        """Return the code of the worst that was found.

        A refused artifact counts first, corrupted before foreign. Then a plan that was built for
        a GPU like the one here and does not run, and a variant that nothing here runs. What was
        built for another machine is no fault.
        """
        refused = [row.exit_code for row in self.rows if row.status == REFUSED]
        if refused:
            return max(refused)
        meant = [r for r in self.rows if r.engine == "trt" and r.meant and r.status != RUNS]
        running = {row.variant for row in self.rows if row.status == RUNS}
        if meant or any(row.variant not in running for row in self.rows if row.engine != "trt"):
            return MachineError.exit_code
        return EXIT_PASS

    def to_json(self) -> dict[str, Any]:
        """Return the form that ``albert-deploy doctor --json`` prints."""
        return {
            "exit_code": self.exit_code,
            "machine": dict(self.machine),
            "rows": [asdict(row) for row in self.rows],
        }

    def raise_for_damage(self) -> None:
        """Fail with ``exit_code``, for a command that has printed the table.

        Raises:
            ContractError: An artifact was damaged, or is not what the manifest knows.
            InputError: Nobody vouches for a plan, or its record cannot be read.
            MachineError: What was made for a machine like this one does not run on it.
        """
        code = self.exit_code
        for kind in (ContractError, InputError):
            if code == kind.exit_code:
                raise kind(f"refused: {self._listed(r for r in self.rows if r.exit_code == code)}")
        if code == MachineError.exit_code:
            running = {row.variant for row in self.rows if row.status == RUNS}
            idle = (r for r in self.rows if r.meant and r.status == NOT_HERE)
            named = self._listed(r for r in idle if r.engine == "trt" or r.variant not in running)
            raise MachineError(f"made for a machine like this one, and does not run: {named}")

    @staticmethod
    def _listed(rows: Iterable[Row]) -> str:
        names = dict.fromkeys(row.artifact for row in rows)
        return f"{', '.join(names)}; the table says why and what to do"

    def table(self) -> str:
        """Return the machine, a table, and the reasons below it, as they are long."""
        table = [("artifact", "variant", "engine", "here")]
        table += [(r.artifact, r.variant or "?", r.engine, r.status) for r in self.rows]
        widths = [max(len(row[column]) for row in table) for column in range(4)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in table
        ]
        lines.insert(1, "  ".join("-" * width for width in widths))
        reasons: dict[str, list[str]] = {}
        for row in self.rows:
            if row.why:
                reasons.setdefault(row.why, []).append(f"{row.artifact} in {row.engine}")
        explained = [f"{', '.join(which)}: {why}" for why, which in reasons.items()]
        return "\n".join(
            [*_machine_lines(self.machine), "", *lines, *([""] if explained else []), *explained]
        )


def doctor(directory: Path, *, index: int = 0) -> Diagnosis:
    """Tell for each artifact of a deployment directory whether it runs on this machine.

    Args:
        directory: Deployment directory.
        index: Number of the GPU.

    Raises:
        InputError: It is no deployment directory.
    """
    manifest = read_manifest(directory)
    machine = this_machine(index)
    rows = (*_onnx_rows(directory, manifest), *_plan_rows(directory, manifest, machine))
    return Diagnosis(rows=rows, machine=describe_machine(machine))


def describe_machine(machine: Machine) -> dict[str, Any]:
    """Return what a diagnosis says of the machine."""
    return {
        "system": platform.platform(),
        "python": platform.python_version(),
        "gpu": machine.found.to_json(),
        "free_bytes": machine.free_bytes,
        "packages": {name: package_version(name) for name in _PACKAGES},
    }


def _onnx_rows(directory: Path, manifest: dict[str, Any]) -> Iterator[Row]:
    for variant, row in VARIANTS.items():
        if variant not in manifest["variants"]:
            continue
        refusal: AlbertDeployError | None = None
        try:
            for name in model_files(manifest, row.file):
                check_file(directory, manifest, name)
        except AlbertDeployError as error:
            refusal = error
        for engine in (*row.engines, *row.gpu_engines):
            if engine == "trt":
                continue
            missing = ENGINES[engine].missing
            status, why, code = RUNS, "", EXIT_PASS
            if refusal is not None:
                status, why, code = REFUSED, str(refusal), refusal.exit_code
            elif missing is not None:
                status, why, code = NOT_HERE, f"{engine} {missing}", MachineError.exit_code
            yield Row(
                artifact=row.file,
                variant=variant,
                engine=engine,
                status=status,
                why=why,
                exit_code=code,
                meant=True,
            )


def _plan_rows(directory: Path, manifest: dict[str, Any], machine: Machine) -> Iterator[Row]:
    for name in plan_names(directory, manifest):
        record, problems = plan_problems(directory, name, machine=machine)
        listed = manifest.get("engines", {}).get(name, {})
        sound = record is not None
        yield Row(
            artifact=f"{FOLDER}/{name}.plan",
            variant=record.variant if record is not None else listed.get("variant"),
            engine="trt",
            status=RUNS if not problems else NOT_HERE if sound else REFUSED,
            why="; also: ".join(map(str, problems)),
            exit_code=problems[0].exit_code if problems else EXIT_PASS,
            meant=record is not None
            and machine.gpu is not None
            and record.capability == machine.gpu.capability,
        )


def _machine_lines(machine: Mapping[str, Any]) -> Iterator[str]:
    yield f"{machine['system']}, Python {machine['python']}"
    gpu = machine["gpu"]
    for device in gpu["devices"]:
        sm = ".".join(map(str, device["capability"]))
        line = f"{device['name']}, capability {sm}, {device['total_bytes'] / _GIB:.1f} GiB"
        yield f"GPU {device['index']}: {line}"
    if machine["free_bytes"] is not None:
        yield f"free GPU memory: {machine['free_bytes'] / _GIB:.1f} GiB"
    if gpu["why"]:
        yield f"GPU: {gpu['why']}"
    if gpu["driver"] or gpu["cuda"]:
        yield f"driver {gpu['driver'] or 'unknown'}, runs CUDA {gpu['cuda'] or 'unknown'}"
    packages = [f"{name} {version}" for name, version in machine["packages"].items() if version]
    yield ", ".join(packages)
