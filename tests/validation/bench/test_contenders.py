"""Who runs: names, what is left out and why, peers' files."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from albert_deploy.export.step import ExportConfig, export
from albert_deploy.quantize.step import QuantizeConfig, quantize
from albert_deploy.runtime.errors import InputError, MachineError
from albert_deploy.runtime.manifest import read_manifest
from albert_deploy.scripts.bench import bench_directory
from albert_deploy.validation.bench.config import BenchConfig
from albert_deploy.validation.bench.contenders import contenders, names
from albert_deploy.validation.bench.interleave import Timed
from albert_deploy.validation.bench.peers import compile_reference, nncf_file
from albert_deploy.validation.bench.workload import random_row

QUICK: dict[str, Any] = {"lengths": (8,), "repeats": 1, "loads": 1, "peak_seconds": 0}


@pytest.fixture(scope="module")
def directory(
    make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("contenders") / "deployment"
    export(str(make_checkpoint()), ExportConfig(), out=out)
    quantize(out, QuantizeConfig(variants=("fp32", "int8")))
    return out


def found(
    directory: Path, work: Path, *patterns: str, **settings: Any
) -> tuple[list[str], list[str]]:
    remarks: list[str] = []
    config = BenchConfig(contenders=patterns or None, **settings)
    manifest = read_manifest(directory)
    rows = contenders(directory, manifest, config, work=work, remark=remarks.append)
    return [row.name for row in rows], remarks


def test_names_in_their_order() -> None:
    assert names(["fp32", "fp16", "int8-qdq"]) == [
        "torch",
        "torch-compile",
        "fp32@ort",
        "fp32@openvino",
        "fp32@openvino-bf16",
        "fp16@ort",
        "fp16@openvino",
        "int8-qdq@openvino",
        "int8-qdq@openvino-bf16",
        "int8-qdq@ort",
        "quantize-dynamic@ort",
        "nncf-int8@openvino",
        "nncf-int8@openvino-bf16",
    ]


def test_patterns_choose_by_name_or_by_model() -> None:
    held = ["fp32", "int8", "int8-qdq"]
    assert names(held, ["int8", "torch"]) == ["torch", "int8@ort", "int8@openvino"]
    assert names(held, ["int8*@ort"]) == ["int8@ort", "int8-qdq@ort"]
    assert names(held, ["nncf-int8@openvino"]) == ["nncf-int8@openvino"]
    with pytest.raises(InputError, match=r"called tvm; there are: torch, .*nncf-int8@openvino"):
        names(held, ["fp32", "tvm"])


def test_an_engine_that_is_not_installed_is_left_out(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    run, remarks = found(directory, tmp_path, "fp32", "nncf-int8@openvino")
    assert run == ["fp32@ort"]
    assert len(remarks) == 3
    for name in ("fp32, OpenVINO", "NNCF INT8, OpenVINO"):
        line = f"{name}: left out, not installed; run: pip install 'albert-deploy[openvino]'"
        assert line in remarks
    with pytest.raises(InputError, match="no contender can run here"):
        found(directory, tmp_path, "*@openvino")


def test_a_processor_without_bf16_leaves_it_out(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("albert_deploy.runtime.engines.ov.precisions", lambda: ("f32",))
    run, remarks = found(directory, tmp_path, "fp32")
    assert run == ["fp32@ort", "fp32@openvino"]
    assert remarks == ["fp32, OpenVINO bf16: left out, this processor has no bf16"]


def test_nncf_that_is_not_installed_is_left_out(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    run, remarks = found(directory, tmp_path, "fp32@ort", "nncf-int8@openvino")
    assert run == ["fp32@ort"]
    assert "pip install 'albert-deploy[openvino,peers]'" in remarks[0]


def test_without_a_compiler_torch_compile_is_left_out(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("No working C++ compiler found\nand more")

    monkeypatch.setattr("torch.nn.Module.compile", fail)
    run, remarks = found(directory, tmp_path, "torch*")
    assert run == ["torch"]
    assert remarks == ["torch.compile: left out, RuntimeError: No working C++ compiler found"]


def test_torch_is_left_out_as_asked(directory: Path, tmp_path: Path) -> None:
    run, remarks = found(directory, tmp_path, "torch*", "int8@ort", torch=False)
    assert run == ["int8@ort"]
    assert remarks == ["torch eager: left out as asked", "torch.compile: left out as asked"]


@pytest.mark.medium
def test_nncf_quantizes_on_real_texts_and_stays_quiet(
    directory: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("nncf")
    config = BenchConfig(contenders=("nncf-int8@openvino", "fp32@ort"))
    manifest = read_manifest(directory)
    rows = contenders(directory, manifest, config, work=tmp_path)
    assert capfd.readouterr().out == ""
    assert [row.name for row in rows] == ["fp32@ort", "nncf-int8@openvino"]
    assert rows[1].bytes == sum(p.stat().st_size for p in tmp_path.glob("nncf.*"))
    feeds = random_row(manifest, 8, seed=0)
    outputs = []
    for row in rows:
        with row.open() as session:
            outputs.append(session.run(feeds)["logits"])
    assert 0 < np.abs(outputs[0] - outputs[1]).max() < 0.5 * np.abs(outputs[0]).max()


def test_what_nncf_cannot_do_is_a_reason(tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    with pytest.raises(MachineError, match="RuntimeError"):
        nncf_file(tmp_path / "absent.onnx", tmp_path / "x.xml", [{}])


@pytest.mark.slow
def test_torch_compile_gives_what_eager_gives(directory: Path) -> None:
    from albert_deploy.validation.evaluate.reference import open_reference

    manifest = read_manifest(directory)
    feeds = random_row(manifest, 8, seed=0)
    with open_reference(manifest) as eager, open_reference(manifest) as compiled:
        expected = eager.run(feeds)["logits"]
        assert compile_reference(compiled, [feeds]) > 0
        np.testing.assert_allclose(compiled.run(feeds)["logits"], expected, atol=1e-5)


@pytest.fixture
def fixed_times(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Milliseconds of each contender, whatever the machine is doing."""
    ms = {"fp32@ort": 30.0, "fp32@openvino": 20.0, "int8@ort": 10.0, "int8@openvino": 40.0}

    def fake(sessions: Any, rows: Any, **_: Any) -> dict[str, Timed]:
        return {name: Timed(times_ms=[ms[name]]) for name in sessions}

    monkeypatch.setattr("albert_deploy.validation.bench.bench.time_interleaved", fake)
    monkeypatch.setattr("albert_deploy.validation.bench.bench.peaks", lambda *_, **__: {})
    return ms


@pytest.mark.medium
def test_tune_records_the_quickest_engine(directory: Path, fixed_times: dict[str, float]) -> None:
    shown: list[str] = []
    bench_directory(directory, BenchConfig(**QUICK), tune=True, show=shown.append)
    chosen = read_manifest(directory)["tuned"]
    assert {v: row["engine"] for v, row in chosen.items()} == {"fp32": "openvino", "int8": "ort"}
    assert "tuned: fp32 runs in openvino (ort takes 1.50x at 8)" in shown[1]
