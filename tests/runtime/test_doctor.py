"""The doctor's table: what runs here, what is meant for elsewhere, what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from plan_faults import FAULTS, MACHINES, NAME, PLAN, VERSION, card, machine

from albert_deploy.runtime import doctor as doctors
from albert_deploy.runtime.doctor import NOT_HERE, REFUSED, RUNS, Diagnosis, doctor
from albert_deploy.runtime.errors import InputError, MachineError
from albert_deploy.runtime.trt import gpu
from albert_deploy.runtime.trt.gpu import Probe
from albert_deploy.runtime.trt.machine import Machine


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that tells the doctor what machine it is on."""
    monkeypatch.setattr(gpu, "probe", lambda: Probe(why="none is here"))

    def be(value: Machine) -> None:
        monkeypatch.setattr(doctors, "this_machine", lambda index: replace(value, index=index))

    be(Machine(found=Probe(why="none is here"), flavours={"tensorrt_rtx": VERSION}))
    return be


def rows(found: Diagnosis) -> dict[tuple[str, str], tuple[str, int]]:
    return {(r.artifact, r.engine): (r.status, r.exit_code) for r in found.rows}


def test_a_machine_without_a_gpu(built: Path, here: Any) -> None:
    found = doctor(built)
    assert rows(found) == {
        ("onnx/model.onnx", "ort"): (RUNS, 0),
        ("onnx/model.onnx", "openvino"): (RUNS, 0),
        ("onnx/model.onnx", "ort-cuda"): (NOT_HERE, 9),
        (PLAN, "trt"): (NOT_HERE, 9),
    }
    # The plan is for another machine, which is no fault of this one.
    assert found.exit_code == 0
    assert found.to_json()["rows"][-1]["why"] == f"the engine {NAME} needs a GPU: none is here"
    json.dumps(found.to_json(), allow_nan=False)


def test_the_machine_that_a_plan_was_built_for(built: Path, here: Any) -> None:
    here(machine())
    found = doctor(built)
    assert rows(found)[PLAN, "trt"] == (RUNS, 0)
    assert found.exit_code == 0
    assert found.rows[-1].meant


@pytest.mark.parametrize(
    ("fault", "code"),
    [("wrong target", 0), ("no gpu", 0), ("foreign version", 9), ("no flavour", 9),
     ("old driver", 9), ("little memory", 9)],
)  # fmt: skip
def test_sound_plans_that_do_not_run_here(built: Path, here: Any, fault: str, code: int) -> None:
    here(MACHINES[fault][0])
    found = doctor(built)
    assert rows(found)[PLAN, "trt"] == (NOT_HERE, 9)
    assert found.exit_code == code
    if code:
        with pytest.raises(MachineError, match=f"and does not run: {PLAN}; the table says why"):
            found.raise_for_damage()
    else:
        found.raise_for_damage()


@pytest.mark.parametrize("fault", FAULTS)
def test_plans_that_are_refused(built: Path, here: Any, fault: str) -> None:
    here(machine())
    plant, kind, _ = FAULTS[fault]
    plant(built)
    found = doctor(built)
    assert rows(found)[PLAN, "trt"] == (REFUSED, kind.exit_code)
    assert found.exit_code == kind.exit_code
    with pytest.raises(kind, match=f"^refused: {PLAN}; the table says why"):
        found.raise_for_damage()


def test_each_fault_has_its_own_message(built: Path, here: Any) -> None:
    """The four of them that a user meets, told apart in the table's text."""
    told = set()
    here(machine())
    for fault in ("truncated", "body"):
        kept = (built / PLAN).read_bytes()
        FAULTS[fault][0](built)
        told.add(doctor(built).rows[-1].why)
        (built / PLAN).write_bytes(kept)
    for fault in ("foreign version", "wrong target"):
        here(MACHINES[fault][0])
        told.add(doctor(built).rows[-1].why)
    assert len(told) == 4
    assert all(";" in why for why in told), "a remedy follows each"


def test_a_plan_that_somebody_put_there(built: Path, here: Any) -> None:
    (built / "engines/gift.plan").write_bytes(b"\x00" * 100)
    here(machine())
    found = doctor(built)
    assert rows(found)["engines/gift.plan", "trt"] == (REFUSED, 3)
    assert "a plan without its record cannot be checked" in found.rows[-1].why
    assert found.exit_code == 3
    FAULTS["body"][0](built)
    assert doctor(built).exit_code == 4


def test_onnx_files_are_hashed(built: Path, here: Any) -> None:
    path = built / "onnx/model.onnx"
    path.write_bytes(path.read_bytes() + b"\x00")
    found = doctor(built)
    assert {row.status for row in found.rows if row.engine != "trt"} == {REFUSED}
    assert found.exit_code == 4


def test_a_variant_that_nothing_here_runs(
    built: Path, here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("openvino", "onnxruntime"):
        monkeypatch.setitem(sys.modules, package, None)
    found = doctor(built)
    assert found.exit_code == 9
    with pytest.raises(MachineError, match=r"does not run: onnx/model\.onnx; the table"):
        found.raise_for_damage()
    assert "ort is not installed; run: pip install 'albert-deploy[cpu]'" in found.table()
    here(machine())
    assert doctor(built).exit_code == 0


def test_text_for_people(built: Path, here: Any) -> None:
    here(machine(card((8, 6))))
    text = doctor(built).table()
    lines = text.splitlines()
    assert "GPU 0: a card, capability 8.6, 24.0 GiB" in lines
    assert "free GPU memory: 20.0 GiB" in lines
    assert "driver 580.65.06, runs CUDA 13.0" in lines
    head = lines.index("") + 1
    assert lines[head].split() == ["artifact", "variant", "engine", "here"]
    assert lines[head + 2].split() == ["onnx/model.onnx", "fp32", "ort", "runs"]
    assert lines[head + 5].split() == [PLAN, "fp32", "trt", "not", "here"]
    assert f"{PLAN} in trt: the engine {NAME} was built for compute capability 8.9" in text


def test_no_plan_and_no_model_is_loaded(built: Path, here: Any) -> None:
    code = (
        "import sys; from pathlib import Path; from albert_deploy.runtime.doctor import doctor; "
        f"doctor(Path({str(built)!r})); heavy = 'onnxruntime openvino torch transformers '"
        "'tensorrt tensorrt_rtx'; found = set(heavy.split()) & set(sys.modules); "
        "assert not found, found"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_no_deployment_directory(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a deployment directory"):
        doctor(tmp_path)
