"""Who runs: names, what is left out and why, peers' files."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from albert_deploy.export.step import ExportConfig, export
from albert_deploy.quantize.step import QuantizeConfig, quantize
from albert_deploy.runtime.errors import InputError, MachineError
from albert_deploy.runtime.manifest import read_manifest
from albert_deploy.scripts.bench import bench_directory
from albert_deploy.scripts.cli.main import cli
from albert_deploy.validation.bench import workload
from albert_deploy.validation.bench.contenders import contenders, names
from albert_deploy.validation.bench.interleave import BenchConfig, label
from albert_deploy.validation.bench.peaks import best_of, peaks
from albert_deploy.validation.bench.peers import compile_reference, nncf_file
from albert_deploy.validation.bench.workload import (
    dataset_column,
    operations,
    random_row,
    spread,
    texts,
    tokens,
)

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


def test_labels_are_peoples() -> None:
    assert label("torch-compile") == "torch.compile"
    assert label("int8-qdq@openvino-bf16") == "int8-qdq, OpenVINO bf16"
    assert label("nncf-int8@openvino") == "NNCF INT8, OpenVINO"


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


def test_operations_are_those_of_the_formula(directory: Path) -> None:
    """Tiny ALBERT: embedding 16, hidden 32, inner 64, 3 iterations, 2 labels."""
    manifest = read_manifest(directory)
    rows = [random_row(manifest, n, seed=0) for n in (5, 20)]
    expected = []
    for n in (5, 20):
        layer = 4 * n * 32 * 32 + 2 * n * 32 * 64 + 2 * n * n * 32
        expected.append(2 * (n * 16 * 32 + 3 * layer + 32 * 32 + 32 * 2))
    assert operations(directory / "onnx/model.onnx", rows) == expected


def test_peaks_are_measured_in_every_engine() -> None:
    found = peaks(1, seconds=0)
    assert {"int8", "f32"} <= set(found)
    for peak in found.values():
        assert peak["gops"] > 0
        assert peak["by"].split(",")[0] in {"ort", "openvino"}


def test_the_better_of_two_measurements_counts() -> None:
    low, high = {"int8": {"gops": 1.0, "by": "a"}}, {"int8": {"gops": 2.0, "by": "b"}}
    assert best_of([high, low]) == best_of([low, high]) == high
    assert best_of([]) == {}


def test_texts_are_spread_over_the_lengths(directory: Path) -> None:
    manifest = read_manifest(directory)
    every = sorted(tokens(row) for row in texts(directory, manifest, None))
    column = dataset_column(directory, manifest, ("sst2", None), 5)
    taken = [tokens(row) for row in column.rows]
    assert column.label == "sst2"
    assert len(taken) == 5
    assert taken == sorted(taken)
    assert taken[2] == every[len(every) // 2]
    assert every[0] <= taken[0] <= taken[-1] <= every[-1]


def test_spread_takes_the_middles() -> None:
    items: Any = list(range(10))
    assert spread(items, 2) == [2, 7]
    assert spread(items, 99) == items


def test_data_of_another_task_is_refused(directory: Path, tmp_path: Path) -> None:
    manifest = read_manifest(directory)
    with pytest.raises(InputError, match="squad is data for question-answering"):
        dataset_column(directory, manifest, ("squad", tmp_path), 2)


@pytest.fixture
def fixed_times(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Milliseconds of each contender, whatever the machine is doing."""
    ms = {"fp32@ort": 30.0, "fp32@openvino": 20.0, "int8@ort": 10.0, "int8@openvino": 40.0}

    def fake(sessions: Any, columns: Any, **_: Any) -> Any:
        return {name: {c: [ms[name]] for c in columns} for name in sessions}

    monkeypatch.setattr("albert_deploy.validation.bench.bench.time_interleaved", fake)
    monkeypatch.setattr("albert_deploy.validation.bench.bench.peaks", lambda *_, **__: {})
    return ms


def test_tune_records_the_quickest_engine(directory: Path, fixed_times: dict[str, float]) -> None:
    shown: list[str] = []
    bench_directory(directory, BenchConfig(**QUICK), tune=True, show=shown.append)
    chosen = read_manifest(directory)["tuned"]
    assert {v: row["engine"] for v, row in chosen.items()} == {"fp32": "openvino", "int8": "ort"}
    assert "tuned: fp32 runs in openvino (ort takes 1.50x at 8)" in shown[1]


@pytest.mark.medium
@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--require-speedup", "2"], 0),
        (["--require-speedup", "2.1"], 7),
        (["--require-size", "0.01"], 7),
        (["--require-size", "12"], 3),
        (["--require-speedup", "1", "--tune"], 0),
    ],
)
def test_what_does_not_pay_has_its_own_exit_code(
    directory: Path, fixed_times: dict[str, float], options: list[str], code: int
) -> None:
    only = ["--contenders", "fp32@ort,fp32@openvino,int8"]
    arguments = ["bench", str(directory), "--lengths", "8", "--repeats", "1", *only, *options]
    from albert_deploy.scripts.cli.main import main

    if code == 0:
        result = CliRunner().invoke(cli, arguments)
        assert result.exit_code == 0, result.output
        return
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == code


def test_a_workload_of_a_task_with_choices_has_two() -> None:
    manifest = {
        "contract": {"inputs": [{"axes": ["batch", "choices", "sequence"]}]},
        "source": {"config": {"vocab_size": 7}},
    }
    assert workload.random_row(manifest, 4, seed=0)["input_ids"].shape == (1, 2, 4)
