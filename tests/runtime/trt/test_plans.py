"""Plans are refused from outside, each fault with its own message and exit code."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from plan_faults import FAULTS, MACHINES, NAME, PLAN, RECORD, card, flip, machine

from albert_deploy.runtime.errors import AlbertDeployError, ContractError, InputError, MachineError
from albert_deploy.runtime.manifest import file_record, read_manifest, write_json, write_manifest
from albert_deploy.runtime.trt import gpu
from albert_deploy.runtime.trt import machine as plan_machine
from albert_deploy.runtime.trt.gpu import Probe
from albert_deploy.runtime.trt.machine import (
    Machine,
    installed_flavours,
    this_machine,
    version_problem,
)
from albert_deploy.runtime.trt.plans import check_plan, find_plan, plan_names, plan_problems
from albert_deploy.runtime.trt.record import PlanRecord, read_record, record_file
from albert_deploy.runtime.trt.session import open_trt


def test_a_sound_plan_passes(built: Path) -> None:
    record = check_plan(built, NAME, machine=machine())
    assert (record.file, record.bytes) == (PLAN, (built / PLAN).stat().st_size)
    assert (record.flavour, record.capability) == ("tensorrt_rtx", (8, 9))
    assert [spec.name for spec in record.outputs] == ["logits"]
    assert record.profiles[0].maximum == (4, 32)
    assert record.memory_bytes > 0
    assert find_plan(built, read_manifest(built), "fp32", machine()) == (NAME, [])
    assert find_plan(built, read_manifest(built), "fp16", machine()) == (None, [])


@pytest.mark.parametrize("fault", FAULTS)
def test_damaged_and_foreign_plans_are_refused(built: Path, fault: str) -> None:
    plant, kind, message = FAULTS[fault]
    plant(built)
    with pytest.raises(AlbertDeployError, match=message) as caught:
        check_plan(built, NAME, machine=machine())
    assert type(caught.value) is kind
    # Nothing is said of the machine: what such a record says is worth nothing.
    record, problems = plan_problems(built, NAME, machine=Machine())
    assert record is None
    assert list(map(str, problems)) == [str(caught.value)]


@pytest.mark.parametrize("fault", MACHINES)
def test_machines_that_cannot_run_a_plan(built: Path, fault: str) -> None:
    here, message = MACHINES[fault]
    with pytest.raises(MachineError, match=message):
        check_plan(built, NAME, machine=here)
    record, problems = plan_problems(built, NAME, machine=here)
    assert record is not None
    assert len(problems) == 1
    name, reasons = find_plan(built, read_manifest(built), "fp32", here)
    assert (name, len(reasons)) == (None, 1)


def test_every_reason_is_told(built: Path) -> None:
    here = machine(card((8, 6)), cuda=(12, 0), flavours={}, free=1)
    _, problems = plan_problems(built, NAME, machine=here)
    assert len(problems) == 4


def test_no_plan_is_loaded_that_does_not_pass(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("a plan was touched")

    monkeypatch.setattr("albert_deploy.runtime.trt.session.load", never)
    monkeypatch.setattr(
        "albert_deploy.runtime.trt.session.this_machine", lambda index: machine(card((8, 6)))
    )
    with pytest.raises(MachineError, match="was built for compute capability"):
        open_trt(built, NAME)
    flip(built / PLAN, 5000)
    with pytest.raises(ContractError, match="is corrupted"):
        open_trt(built, NAME)
    # And one that does pass would have been.
    monkeypatch.setattr("albert_deploy.runtime.trt.session.this_machine", lambda index: machine())
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
        check_plan(built, "other", machine=machine())
    assert check_plan(built, "other", machine=machine(), trust=True).file == "engines/other.plan"
    (built / "manifest.json").unlink()
    assert check_plan(built, "other", machine=machine(), trust=True).name == "other"
    with pytest.raises(InputError, match="is not a deployment directory"):
        check_plan(built, "other", machine=machine())
    with pytest.raises(MachineError, match="was built for"):
        check_plan(built, "other", machine=machine(card((7, 5))), trust=True)
    flip(built / "engines/other.plan", 5000)
    with pytest.raises(ContractError, match="is corrupted"):
        check_plan(built, "other", machine=machine(), trust=True)


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
    here = this_machine()
    assert (here.gpu, here.free_bytes, here.found.why) == (None, None, "none")
    assert here.cuda["tensorrt_rtx"] in (12, 13)
    monkeypatch.setattr(gpu, "probe", lambda: Probe(devices=(card(),)))
    monkeypatch.setattr(gpu, "free_bytes", lambda index: 7)
    assert (
        this_machine().free_bytes,
        this_machine(memory=False).free_bytes,
        this_machine(3).gpu,
    ) == (7, None, None)
