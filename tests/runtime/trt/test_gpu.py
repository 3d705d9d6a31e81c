"""GPUs are told, and where there are none the reason and the remedy; nothing crashes."""

from __future__ import annotations

import builtins
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fake_cuda import FakeCuda, cudaError_t

from albert_deploy.runtime.errors import MachineError
from albert_deploy.runtime.trt import gpu
from albert_deploy.runtime.trt.gpu import probe, require_gpu


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeCuda:
    """A machine with a driver, and the bindings replaced."""
    fake = FakeCuda()
    bindings = ModuleType("cuda.bindings")
    bindings.runtime = fake  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
    monkeypatch.setattr(gpu.ctypes, "CDLL", lambda name: object())
    monkeypatch.setattr(gpu, "_KERNEL_MODULE", tmp_path / "version")
    return fake


def test_this_machine_is_told_without_a_crash() -> None:
    """Whatever it has; in a process of its own, as a crash could not be caught."""
    code = (
        "from albert_deploy.runtime.trt.gpu import *; f = probe(); print(bool(f.devices or f.why))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"True\n", b"")


def test_gpus_driver_and_cuda_version(cuda: FakeCuda, tmp_path: Path) -> None:
    (tmp_path / "version").write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\n"
        "GCC version:  gcc version 12.3.0\n"
    )
    cuda.devices = (("NVIDIA L4", (8, 9), 24), ("NVIDIA H100", (9, 0), 80))
    found = probe()
    assert found.to_json() == {
        "devices": [
            {"index": 0, "name": "NVIDIA L4", "capability": [8, 9], "total_bytes": 24},
            {"index": 1, "name": "NVIDIA H100", "capability": [9, 0], "total_bytes": 80},
        ],
        "why": None,
        "driver": "580.65.06",
        "cuda": "13.0",
    }
    assert require_gpu(1).name == "NVIDIA H100"
    with pytest.raises(MachineError, match="got GPU 2, there are 2, numbered from 0"):
        require_gpu(2)


def test_no_context_is_made_to_look(cuda: FakeCuda) -> None:
    probe()
    assert "cudaMemGetInfo" not in cuda.calls
    assert "cudaSetDevice" not in cuda.calls


@pytest.mark.parametrize(
    ("error", "driver", "why"),
    [
        (cudaError_t.cudaErrorNoDevice, 13000, "the driver shows no GPU; look at nvidia-smi"),
        (
            cudaError_t.cudaErrorInsufficientDriver,
            12040,
            r"the driver runs CUDA 12\.4, cuda-bindings wants CUDA 13; update the driver to 580 or "
            r"later, or run: pip install 'cuda-bindings<13'",
        ),
        (
            cudaError_t.cudaErrorIllegalAddress,
            13000,
            r"CUDA does not start: cudaErrorIllegalAddress \(error 700\)",
        ),
    ],
)
def test_why_there_is_no_gpu(cuda: FakeCuda, error: cudaError_t, driver: int, why: str) -> None:
    cuda.fails["cudaGetDeviceCount"] = error
    cuda.driver = driver
    found = probe()
    assert found.devices == ()
    assert found.driver is None
    with pytest.raises(MachineError, match=f"this needs a GPU: {why}"):
        require_gpu()


def test_a_driver_without_gpus(cuda: FakeCuda) -> None:
    cuda.devices = ()
    assert "CUDA_VISIBLE_DEVICES" in probe().why


def test_a_driver_that_the_bindings_cannot_use(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> Any:
        raise RuntimeError('Function "cudaDriverGetVersion" not found')

    monkeypatch.setattr(cuda, "cudaDriverGetVersion", refuse)
    assert probe().why.startswith('CUDA does not start: Function "cudaDriverGetVersion" not')


def test_bindings_that_are_not_installed(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("cuda"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    assert probe().why == "cuda-bindings is not installed; run: pip install 'cuda-bindings>=12.6'"
    assert gpu.free_bytes() is None


def test_the_driver_is_looked_for_before_the_bindings(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str) -> Any:
        raise OSError(name)

    monkeypatch.setattr(gpu.ctypes, "CDLL", refuse)
    assert probe().why.startswith("no NVIDIA driver is here")
    assert cuda.calls == []


def test_free_memory(cuda: FakeCuda) -> None:
    assert gpu.free_bytes() == cuda.free
    cuda.fails["cudaMemGetInfo"] = cudaError_t.cudaErrorIllegalAddress
    assert gpu.free_bytes() is None


def test_the_fake_has_only_what_the_bindings_have() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime")
    members = {name for name in vars(FakeCuda) if name.startswith("cuda")}
    assert members
    assert {name for name in members if not hasattr(runtime, name)} == set()
    for kind in ("cudaError_t", "cudaMemcpyKind", "cudaStreamCaptureMode"):
        for name, value in getattr(FakeCuda, kind).__members__.items():
            assert int(getattr(getattr(runtime, kind), name)) == value
    assert runtime.cudaStreamNonBlocking == FakeCuda.cudaStreamNonBlocking
