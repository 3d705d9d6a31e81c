"""What is read of a machine, and the peaks that are measured on it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from albert_deploy.runtime.errors import MachineError
from albert_deploy.validation.bench import machine, peaks


def test_machine_is_described() -> None:
    known = machine.machine()
    assert known["cpu"]
    assert known["cores"] >= 1
    assert known["versions"]["onnxruntime"]
    shown = machine.describe(known | {"load_average": 1.5})
    assert shown.endswith("load average 1.5 at the start")
    assert "load average" not in machine.describe(known | {"load_average": None})
    gpu = {"name": "X100", "capability": [9, 0], "memory_bytes": 80 << 30, "driver": None}
    clocks = {"cuda": "13.0", "sm_clock_most_mhz": 1980.0, "power_limit_w": None}
    assert machine.describe(known | {"gpu": gpu | clocks}).startswith(
        "X100, compute capability 9.0, 80 GiB, driver unknown, CUDA 13.0 in PyTorch, "
        "1980 MHz at most; "
    )


def test_readings_of_the_gpu_are_read_and_left_out_where_there_are_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told = machine.read_smi("580.159.04, 345, 1980, 2619, [N/A], 71.30, 31\n")
    assert told["driver"] == "580.159.04"
    assert (told["sm_clock_mhz"], told["power_limit_w"], told["power_draw_w"]) == (345, None, 71.3)
    assert machine.read_smi("") == {}
    tool, asked = tmp_path / "nvidia-smi", tmp_path / "asked"
    tool.write_text(f'#!/bin/sh\necho "$@" > {asked}\necho "1.2, 3, 4, 5, 6, 7, N/A"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="12-34")
    )
    found = machine.readings()
    assert found["driver"] == "1.2"
    assert found["temperature_c"] is None
    assert asked.read_text().endswith("-i GPU-12-34\n")
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert set(machine.readings().values()) == {None}
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    assert set(machine.readings().values()) == {None}


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("NVIDIA H100 80GB HBM3", "nvidia-h100-80gb-hbm3"),
        ("NVIDIA RTX A6000 / x", "nvidia-rtx-a6000-x"),
        ("!", "gpu"),
    ],
)
def test_names_of_gpus_make_names_of_files(name: str, file: str) -> None:
    assert machine.slug(name) == file


def test_a_machine_without_a_gpu_is_told_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(MachineError, match="built without CUDA; the benchmark needs an NVIDIA GPU"):
        machine.require_gpu()
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(MachineError, match="sees no CUDA device"):
        machine.require_gpu()


def test_peaks_are_measured_in_every_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peaks, "SIZES", ((32, 32, 32),))
    found = peaks.peaks(1, seconds=0)
    assert {"int8", "f32"} <= set(found)
    for peak in found.values():
        assert peak["gops"] > 0
        assert peak["by"].split(",")[0] in {"ort", "openvino"}


def test_the_best_of_several_measurements_counts() -> None:
    low, high = {"int8": {"gops": 1.0, "by": "a"}}, {"int8": {"gops": 2.0, "by": "b"}}
    assert peaks.best_of([high, low]) == peaks.best_of([low, high]) == high
    assert peaks.best_of([]) == {}


def test_gpu_peaks_are_measured_for_each_type_that_there_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def absent(*_: object) -> Any:
        raise NotImplementedError("no such product\nhere")

    monkeypatch.setitem(peaks.GPU_MAKERS, "fp8", absent)
    sizes = ((16, 32, 16), (32, 64, 32))
    found, notes = peaks.gpu_peaks("cpu", seconds=0.001, sizes=sizes)
    assert list(found) == ["fp32", "tf32", "fp16", "bf16", "int8"]
    assert all(peak["gops"] > 0 and peak["by"].startswith("PyTorch, ") for peak in found.values())
    assert notes == ["no peak of fp8: NotImplementedError: no such product"]


@pytest.mark.parametrize("data_type", list(peaks.GPU_MAKERS))
def test_the_measured_product_is_a_matrix_product(data_type: str) -> None:
    generator = torch.Generator("cpu").manual_seed(0)
    out: Any = peaks.GPU_MAKERS[data_type](generator, (32, 64, 16))()
    assert out.shape == (32, 16)
    # Sums of 64 products of two normal values, of 40 as large for int8.
    scale = 1600 if data_type == "int8" else 1
    assert out.float().std().item() == pytest.approx(8 * scale, rel=0.2)


def test_float32_products_are_put_back_as_they_were() -> None:
    before = torch.get_float32_matmul_precision()
    with peaks.tf32(True):
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == before
