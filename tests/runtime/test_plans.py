"""Plans are refused from outside, each fault with its own message and exit code."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from albert_deploy.runtime import gpu, plan_machine
from albert_deploy.runtime.errors import (
    AlbertDeployError,
    ContractError,
    InputError,
    MachineError,
)
from albert_deploy.runtime.gpu import Gpu, Probe
from albert_deploy.runtime.manifest import file_record, read_manifest, write_json, write_manifest
from albert_deploy.runtime.plan_machine import Here, installed_flavours, look, version_problem
from albert_deploy.runtime.plans import (
    PlanRecord,
    check_plan,
    find_plan,
    plan_names,
    plan_problems,
    read_record,
    record_file,
)
from albert_deploy.runtime.trt import open_trt

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
) -> Here:
    """The machine that the plan was built for, unless told otherwise."""
    return Here(
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


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def test_a_sound_plan_passes(built: Path) -> None:
    record = check_plan(built, NAME, here=machine())
    assert (record.file, record.bytes) == (PLAN, (built / PLAN).stat().st_size)
    assert (record.flavour, record.capability) == ("tensorrt_rtx", (8, 9))
    assert [spec.name for spec in record.outputs] == ["logits"]
    assert record.profiles[0].maximum == (4, 32)
    assert record.memory_bytes > 0
    assert find_plan(built, read_manifest(built), "fp32", machine()) == (NAME, [])
    assert find_plan(built, read_manifest(built), "fp16", machine()) == (None, [])


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
    "unknown": (_forget, InputError, "does not know the engine .* nobody vouches .* --trust"),
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


@pytest.mark.parametrize("fault", FAULTS)
def test_damaged_and_foreign_plans_are_refused(built: Path, fault: str) -> None:
    plant, kind, message = FAULTS[fault]
    plant(built)
    with pytest.raises(AlbertDeployError, match=message) as caught:
        check_plan(built, NAME, here=machine())
    assert type(caught.value) is kind
    # Nothing is said of the machine: what such a record says is worth nothing.
    record, problems = plan_problems(built, NAME, here=Here())
    assert record is None
    assert list(map(str, problems)) == [str(caught.value)]


MACHINES: dict[str, tuple[Here, str]] = {
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


@pytest.mark.parametrize("fault", MACHINES)
def test_machines_that_cannot_run_a_plan(built: Path, fault: str) -> None:
    here, message = MACHINES[fault]
    with pytest.raises(MachineError, match=message):
        check_plan(built, NAME, here=here)
    record, problems = plan_problems(built, NAME, here=here)
    assert record is not None
    assert len(problems) == 1
    name, reasons = find_plan(built, read_manifest(built), "fp32", here)
    assert (name, len(reasons)) == (None, 1)


def test_every_reason_is_told(built: Path) -> None:
    here = machine(card((8, 6)), cuda=(12, 0), flavours={}, free=1)
    _, problems = plan_problems(built, NAME, here=here)
    assert len(problems) == 4


def test_no_plan_is_loaded_that_does_not_pass(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("a plan was touched")

    monkeypatch.setattr("albert_deploy.runtime.trt.load", never)
    monkeypatch.setattr("albert_deploy.runtime.trt.look", lambda index: machine(card((8, 6))))
    with pytest.raises(MachineError, match="was built for compute capability"):
        open_trt(built, NAME)
    flip(built / PLAN, 5000)
    with pytest.raises(ContractError, match="is corrupted"):
        open_trt(built, NAME)
    # And one that does pass would have been.
    monkeypatch.setattr("albert_deploy.runtime.trt.look", lambda index: machine())
    flip(built / PLAN, 5000)
    with pytest.raises(AssertionError, match="a plan was touched"):
        open_trt(built, NAME)


def test_trust_is_for_the_maker_and_not_for_damage(built: Path) -> None:
    for file in ("other.plan", "other.json"):
        shutil.copy(built / f"engines/{NAME}{Path(file).suffix}", built / "engines" / file)
    write_json(
        built / "engines/other.json",
        json.loads((built / RECORD).read_text()) | {"plan": "engines/other.plan"},
    )
    assert plan_names(built, read_manifest(built)) == (NAME, "other")
    with pytest.raises(InputError, match="does not know the engine other"):
        check_plan(built, "other", here=machine())
    assert check_plan(built, "other", here=machine(), trust=True).file == "engines/other.plan"
    (built / "manifest.json").unlink()
    assert check_plan(built, "other", here=machine(), trust=True).name == "other"
    with pytest.raises(InputError, match="is not a deployment directory"):
        check_plan(built, "other", here=machine())
    with pytest.raises(MachineError, match="was built for"):
        check_plan(built, "other", here=machine(card((7, 5))), trust=True)
    flip(built / "engines/other.plan", 5000)
    with pytest.raises(ContractError, match="is corrupted"):
        check_plan(built, "other", here=machine(), trust=True)


@pytest.mark.parametrize("name", ["../sm89-fp32", "a/b", "", ".hidden", "A B"])
def test_names_that_lead_elsewhere(built: Path, name: str) -> None:
    with pytest.raises(InputError, match="wanted a name such as sm89-fp16"):
        read_record(built, name)


def record_of(built: Path, **changes: Any) -> PlanRecord:
    return replace(read_record(built, NAME), **changes)


@pytest.mark.parametrize(
    ("flavour", "compatible", "built_with", "installed", "runs"),
    [
        ("tensorrt", False, "10.13.3.9", "10.13.3.9", True),
        ("tensorrt", False, "10.13.3.9", "10.13.3.10", False),
        ("tensorrt", True, "10.13.3.9", "10.14.1.48", True),
        ("tensorrt", True, "10.13.3.9", "11.4.0.106", True),
        ("tensorrt", True, "10.14.1.48", "10.13.3.9", False),
        ("tensorrt", True, "11.4.0.106", "11.5.0.1", True),
        ("tensorrt", True, "11.4.0.106", "10.16.1.1", False),
        ("tensorrt", True, "11.4.0.106", "12.0.0.1", False),
        ("tensorrt_rtx", True, "1.7.1.116", "1.8.0.3", False),
        ("tensorrt_rtx", True, "1.7.1.116", "1.7.1.116", True),
    ],
)
def test_which_version_runs_which_plan(
    built: Path, flavour: str, compatible: bool, built_with: str, installed: str, runs: bool
) -> None:
    record = record_of(built, flavour=flavour, version=built_with, version_compatible=compatible)
    assert (version_problem(record, installed) is None) == runs


@pytest.mark.parametrize(
    ("of", "on", "runs"),
    [((8, 6), (8, 9), True), ((8, 0), (12, 0), True), ((8, 6), (7, 5), False),
     ((7, 5), (8, 6), False)],
)  # fmt: skip
def test_hardware_compatible_plans_run_from_ampere_on(
    built: Path, of: tuple[int, int], on: tuple[int, int], runs: bool
) -> None:
    record = record_of(built, capability=of, hardware_compatible=True)
    here = machine(card(on))
    assert (not list(plan_machine.machine_problems(record, here))) == runs
    other = replace(record, hardware_compatible=False)
    assert list(plan_machine.machine_problems(other, here))


def test_an_exact_plan_goes_before_a_compatible_one(built: Path) -> None:
    for name in ("a-fp32", "z-fp32"):
        shutil.copy(built / PLAN, built / f"engines/{name}.plan")
        told = json.loads((built / RECORD).read_text())
        told |= {"plan": f"engines/{name}.plan", "hardware_compatible": True}
        told["capability"] = [8, 0] if name == "a-fp32" else [8, 6]
        write_json(built / record_file(name), told)
        manifest = read_manifest(built)
        for file in (f"engines/{name}.plan", record_file(name)):
            manifest["files"][file] = file_record(built / file)
        manifest["engines"] = {name: {"variant": "fp32"}} | manifest["engines"]
        write_manifest(built, manifest)
    manifest = read_manifest(built)
    assert find_plan(built, manifest, "fp32", machine())[0] == NAME
    assert find_plan(built, manifest, "fp32", machine(card((8, 6))))[0] == "z-fp32"
    assert find_plan(built, manifest, "fp32", machine(card((9, 0))))[0] == "a-fp32"


def test_weights_that_stream_need_not_fit(built: Path) -> None:
    record = record_of(built, weight_streaming=True)
    assert not list(plan_machine.machine_problems(record, machine(free=1)))


def test_a_flavour_of_another_time(built: Path) -> None:
    record = record_of(built, flavour="tensorrt_lean")
    (problem,) = plan_machine.machine_problems(record, machine())
    assert "was built with 'tensorrt_lean', this version runs tensorrt, tensorrt_rtx" in str(
        problem
    )


def test_versions_are_told_without_loading_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt_rtx")
    assert installed_flavours()["tensorrt_rtx"] == importlib.metadata.version("tensorrt-rtx")
    monkeypatch.setattr(gpu, "probe", lambda: Probe(why="none"))
    here = look()
    assert (here.gpu, here.free_bytes, here.found.why) == (None, None, "none")
    assert here.cuda["tensorrt_rtx"] in (12, 13)
    monkeypatch.setattr(gpu, "probe", lambda: Probe(devices=(card(),)))
    monkeypatch.setattr(gpu, "free_bytes", lambda index: 7)
    assert (look().free_bytes, look(memory=False).free_bytes, look(3).gpu) == (7, None, None)
