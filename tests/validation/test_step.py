"""The validate step: what it enters, what it traces, and calibration rows that it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from folders import write_sst2

from albert_deploy.quantize.step import QuantizeConfig, quantize
from albert_deploy.runtime.engines.table import ENGINES
from albert_deploy.runtime.errors import InputError, MachineError
from albert_deploy.runtime.manifest import (
    REPORTS,
    is_intact,
    read_manifest,
    sha256_of,
    write_manifest,
)
from albert_deploy.validation import collect
from albert_deploy.validation.data.datasets import data_file
from albert_deploy.validation.evaluate.evaluate import EvaluateConfig
from albert_deploy.validation.parity.stages import open_variant
from albert_deploy.validation.step import ValidateConfig, validate

TEXTS = ("the film was long", "a warm river", "who was it", "what is the film")


@pytest.fixture(scope="module")
def exported(make_export: Callable[..., Path]) -> Path:
    out = make_export(max_position_embeddings=16)
    quantize(out, QuantizeConfig(variants=("int8",)))
    return out


@pytest.fixture
def directory(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "out"))


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    folder = tmp_path / "sst2"
    folder.mkdir()
    for split, texts in (("dev", TEXTS), ("train", TEXTS[::-1])):
        write_sst2(folder / f"{split}.tsv", texts)
    return folder


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """Random weights tell classes apart by nothing, so that a rounding changes many."""
    path = tmp_path / "gate.toml"
    path.write_text("[int8]\nmin_score_share = 0\n")
    return path


def _calibrated_on(directory: Path, file: Path) -> dict[str, Any]:
    manifest = read_manifest(directory)
    row = {"label": "encoder iteration 1, ffn, input", "peak": 3.0, "range": 2.0, "clipped": 0.0}
    record = {
        "file": "calibration/statistics.npz",
        "dataset": {"name": "sst2", "file": file.name, "sha256": sha256_of(file)},
        "rows": 4,
        "rule": "mse",
        "ranges": [row],
    }
    manifest["variants"]["int8"]["calibration"] = record
    write_manifest(directory, manifest)
    return record


def test_a_validation_records_engine_trace_weights_and_calibration(
    directory: Path, reviews: Path, gate: Path, assert_documented: Callable[[dict[str, Any]], None]
) -> None:
    record = _calibrated_on(directory, reviews / "train.tsv")
    report = validate(directory, ValidateConfig(dataset=("sst2", reviews), gate=gate, trace_rows=3))
    assert json.loads((directory / REPORTS / "validation.json").read_text()) == report
    assert_documented(report)
    assert report["trace_rows"] == 3
    fp32, int8 = report["variants"]["fp32"], report["variants"]["int8"]
    assert fp32["engine"] == int8["engine"] == "ort"
    assert fp32["trace"] is fp32["weights"] is fp32["calibration"] is None
    assert [entry["after"] for entry in int8["trace"]] == [
        "encoder input",
        *(f"encoder iteration {i}" for i in range(3)),
        "output logits",
    ]
    manifest = read_manifest(directory)
    assert int8["weights"] == manifest["variants"]["int8"]["coverage"]
    assert set(int8["coverage"]) == {"uses", "converted", "exceptions"}
    assert int8["calibration"] == record
    names = {name for name in manifest["files"] if name.startswith(f"{REPORTS}/")}
    texts = ("validation.json", "summary.md", "report.html", "junit.xml")
    pictures = ("intervals.svg", "sizes.svg", "trace.svg", "errors.svg", "ranges.svg")
    kept = [f"predictions/{model}.jsonl.gz" for model in ("source", "fp32", "int8")]
    assert names == {f"{REPORTS}/{name}" for name in (*texts, *pictures, *kept)}
    written = {str(p.relative_to(directory)) for p in (directory / REPORTS).rglob("*.*")}
    assert written == names
    assert all(is_intact(directory, manifest, name) for name in names)


@pytest.mark.medium
def test_a_validation_without_a_trace_leaves_none_behind(
    directory: Path, reviews: Path, gate: Path
) -> None:
    validate(directory, ValidateConfig(dataset=("sst2", reviews), gate=gate))
    assert (directory / REPORTS / "trace.svg").is_file()
    report = validate(directory, ValidateConfig(dataset=("sst2", reviews), gate=gate, trace_rows=0))
    assert report["trace_rows"] == 0
    assert report["variants"]["int8"]["trace"] is None
    assert not (directory / REPORTS / "trace.svg").exists()
    assert f"{REPORTS}/trace.svg" not in read_manifest(directory)["files"]


@pytest.mark.medium
@pytest.mark.parametrize("given", ["folder", "file"])
def test_rows_that_set_the_ranges_do_not_judge_them(
    given: str, directory: Path, reviews: Path, gate: Path
) -> None:
    _calibrated_on(directory, reviews / "dev.tsv")
    dataset = ("sst2", reviews if given == "folder" else reviews / "dev.tsv")
    with pytest.raises(InputError, match=r"int8 had .*dev\.tsv.*`allow_calibration_rows=True`"):
        validate(directory, ValidateConfig(dataset=dataset, gate=gate))
    allowed = ValidateConfig(dataset=dataset, gate=gate, allow_calibration_rows=True, trace_rows=0)
    assert validate(directory, allowed)["dataset"]["rows"] == len(TEXTS)


def test_missing_data_is_told_as_such(directory: Path, reviews: Path) -> None:
    _calibrated_on(directory, reviews / "train.tsv")
    with pytest.raises(InputError, match=r"none\.tsv does not exist"):
        validate(directory, ValidateConfig(dataset=("sst2", reviews / "none.tsv")))


@pytest.mark.parametrize("rows", [-1, 65])
def test_a_trace_of_rows_that_are_not_kept_is_refused(rows: int) -> None:
    with pytest.raises(InputError, match=f"trace_rows is {rows}"):
        ValidateConfig(trace_rows=rows)
    assert ValidateConfig(trace_rows=65, evaluate=EvaluateConfig(grid_texts=65))


def test_data_file_is_what_is_read(tmp_path: Path) -> None:
    assert data_file("sst2", tmp_path) == tmp_path / "dev.tsv"
    assert data_file("squad", tmp_path, "train") == tmp_path / "train-v1.1.json"
    assert data_file("sst2", tmp_path / "mine.tsv", "train") == tmp_path / "mine.tsv"
    with pytest.raises(InputError, match="no split 'test'"):
        data_file("sst2", tmp_path, "test")


def test_an_engine_of_choice_runs_what_it_can_run(
    directory: Path, assert_documented: Callable[[dict[str, Any]], None]
) -> None:
    few = EvaluateConfig(unlabelled_rows=2, grid_texts=2)
    config = ValidateConfig(engine="openvino", evaluate=few, trace_rows=0, bisect_trials=0)
    report = validate(directory, config)
    assert_documented(report)
    assert {v["engine"] for v in report["variants"].values()} == {"openvino"}
    assert {v["plan"] for v in report["variants"].values()} == {None}
    with pytest.raises(InputError, match="unknown engine 'tpu'; use one of: auto, ort, openvino"):
        ValidateConfig(engine="tpu")
    assert _chosen(directory, "int8", "trt") == "ort"  # No plan is made of it.
    if not ENGINES["trt"].installed:
        with pytest.raises(MachineError, match="trt"):
            _chosen(directory, "fp32", "trt")


def _chosen(directory: Path, variant: str, engine: str) -> str:
    with open_variant(directory, read_manifest(directory), variant, engine) as session:
        return session.engine


def test_the_report_names_the_plan_that_was_run(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = collect.open_variant

    def opened(*arguments: Any) -> Any:
        session = real(*arguments)
        if arguments[2] == "fp32":
            session.engine = "trt"  # type: ignore[misc]
            session.record = SimpleNamespace(  # type: ignore[attr-defined]
                file="engines/sm89-fp32.plan", sha256="12" * 32
            )
        return session

    monkeypatch.setattr(collect, "open_variant", opened)
    few = EvaluateConfig(unlabelled_rows=2, grid_texts=2)
    report = validate(directory, ValidateConfig(evaluate=few, trace_rows=0, bisect_trials=0))
    fp32, int8 = report["variants"]["fp32"], report["variants"]["int8"]
    assert fp32["engine"] == "trt"
    assert fp32["plan"] == {"file": "engines/sm89-fp32.plan", "sha256": "12" * 32}
    assert int8["plan"] is None
