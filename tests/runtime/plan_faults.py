"""A plan's faults and machines that cannot run it, each with its message."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from folders import flip

from albert_deploy.runtime.errors import AlbertDeployError, ContractError, InputError
from albert_deploy.runtime.manifest import file_record, read_manifest, write_json, write_manifest
from albert_deploy.runtime.trt.gpu import Gpu, Probe
from albert_deploy.runtime.trt.machine import Machine
from albert_deploy.runtime.trt.record import record_file

NAME = "sm89-fp32"
PLAN = f"engines/{NAME}.plan"
RECORD = record_file(NAME)
VERSION = "1.7.1.116"


def card(capability: tuple[int, int] = (8, 9), *, total: int = 24 * 2**30) -> Gpu:
    return Gpu(index=0, name="a card", capability=capability, total_bytes=total)


def machine(
    device: Gpu | None = None,
    *,
    cuda: tuple[int, int] = (13, 0),
    flavours: dict[str, str] | None = None,
    free: int | None = 20 * 2**30,
) -> Machine:
    """The machine that the plan was built for, unless told otherwise."""
    return Machine(
        found=Probe(devices=(device or card(),), driver="580.65.06", cuda=cuda),
        flavours={"tensorrt_rtx": VERSION} if flavours is None else flavours,
        cuda={"tensorrt_rtx": 13},
        free_bytes=free,
    )


def change_record(directory: Path, *, vouched: bool = True, **changes: Any) -> None:
    """Change a record; ``vouched``: enter the change in the manifest too."""
    path = directory / RECORD
    write_json(path, json.loads(path.read_text()) | changes)
    if vouched:
        manifest = read_manifest(directory)
        manifest["files"][RECORD] = file_record(path)
        write_manifest(directory, manifest)


def _truncate(directory: Path) -> None:
    path = directory / PLAN
    path.write_bytes(path.read_bytes()[:-1])


def _edit(directory: Path) -> None:
    change_record(directory, vouched=False, version="1.0.0.1")


def _other_plan(directory: Path) -> None:
    change_record(directory, sha256="0" * 64)


def _forget(directory: Path) -> None:
    manifest = read_manifest(directory)
    del manifest["engines"][NAME]
    write_manifest(directory, manifest)


def _forget_file(directory: Path) -> None:
    manifest = read_manifest(directory)
    del manifest["files"][PLAN]
    write_manifest(directory, manifest)


def _export_again(directory: Path) -> None:
    path = directory / "onnx/model.onnx"
    path.write_bytes(path.read_bytes() + b"\x00")
    manifest = read_manifest(directory)
    manifest["files"]["onnx/model.onnx"] = file_record(path)
    write_manifest(directory, manifest)


def _spoil(text: str) -> Callable[[Path], object]:
    return lambda directory: (directory / RECORD).write_text(text)


FAULTS: dict[str, tuple[Callable[[Path], object], type[AlbertDeployError], str]] = {
    "truncated": (_truncate, ContractError, r"is truncated: it has [\d,]+ of [\d,]+ bytes; copy"),
    "header": (lambda d: flip(d / PLAN, 0), ContractError, "is corrupted: it is not the plan"),
    "body": (lambda d: flip(d / PLAN, 5000), ContractError, "is corrupted: it is not the plan"),
    "plan gone": (lambda d: (d / PLAN).unlink(), ContractError, r"\.plan is missing, its record"),
    "record edited": (_edit, ContractError, "is not the record that the manifest knows"),
    "another plan": (_other_plan, ContractError, "disagree on the plan's hash"),
    "stale": (_export_again, ContractError, "was built from another onnx/model.onnx than"),
    "unknown": (_forget, InputError, "does not know the engine .* nobody vouches .* `trust=True`"),
    "unknown file": (_forget_file, InputError, "does not know the engine"),
    "record gone": (lambda d: (d / RECORD).unlink(), InputError, "a plan without its record"),
    "no json": (_spoil("{"), InputError, "cannot read .*sm89-fp32.json"),
    "a list": (_spoil("[]"), InputError, "has format None, this version reads 1"),
    "later format": (_spoil('{"format": 2}'), InputError, "has format 2, this version reads 1"),
    "no record": (_spoil('{"format": 1}'), InputError, r"is no engine record \(KeyError"),
    "other task": (
        lambda d: change_record(d, task="chess"),
        InputError,
        "is no engine record .*chess",
    ),
    "elsewhere": (
        lambda d: change_record(d, plan="../../etc/passwd"),
        InputError,
        r"belongs to \.\./\.\./etc/passwd",
    ),
    "another's header": (
        lambda d: change_record(d, version="1.6.2.5"),
        ContractError,
        r"was made by tensorrt_rtx 1\.7\.1, its record says 1\.6\.2\.5",
    ),
}


MACHINES: dict[str, tuple[Machine, str]] = {
    "wrong target": (
        machine(card((8, 6))),
        r"was built for compute capability 8\.9, a card has 8\.6; run: albert-deploy build DIR "
        "--target sm86 --variants fp32",
    ),
    "no flavour": (
        machine(flavours={"tensorrt": "11.4.0.106"}),
        r"needs tensorrt_rtx 1\.7\.1\.116, which is not installed; run: pip install 'tensorrt-rtx=",
    ),
    "foreign version": (
        machine(flavours={"tensorrt_rtx": "1.8.0.3"}),
        r"was built with tensorrt_rtx 1\.7\.1\.116, 1\.8\.0\.3 is installed; run: pip install "
        r"'tensorrt-rtx==1\.7\.1\.116', or build",
    ),
    "old driver": (
        machine(cuda=(12, 8)),
        r"the driver 580\.65\.06 runs CUDA 12\.8, tensorrt_rtx here wants CUDA 13; update",
    ),
    "little memory": (machine(free=1000), r"needs \d+ MiB of GPU memory, a card has 0 MiB free"),
    "little card": (machine(card(total=1000), free=None), "of GPU memory"),
    "no gpu": (
        replace(machine(), found=Probe(why="no driver; install one")),
        "needs a GPU: no driver; install one",
    ),
    "no such gpu": (replace(machine(), index=1), "there is no GPU 1; there are 1"),
}
