"""Engines in a report: intact, of the files beside them, proven, and shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from albert_deploy.runtime.errors import ContractError
from albert_deploy.runtime.manifest import file_record, read_manifest, write_json, write_manifest
from albert_deploy.validation.gate.gate import raise_for_verdict
from albert_deploy.validation.gate.verdicts import all_checks
from albert_deploy.validation.report.engines import engine_entries
from albert_deploy.validation.report.html import render_html
from albert_deploy.validation.report.junit import junit
from albert_deploy.validation.report.markdown import summary

pytestmark = pytest.mark.medium

NAME, PLAN, RECORD = "sm89-fp16", "engines/sm89-fp16.plan", "engines/sm89-fp16.json"
ONNX = "onnx/model_fp16.onnx"


def proof(status: str, name: str = "sharing") -> dict[str, str]:
    return {"name": name, "status": status, "found": "3 copies", "wanted": "1 copy", "why": ""}


@pytest.fixture
def directory(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """A function that writes a directory with one engine and returns its entry in a report."""

    def make(*proofs: dict[str, str], damage: str = "", onnx: str = "onnx") -> dict[str, Any]:
        for file in (PLAN, ONNX):
            (tmp_path / file).parent.mkdir(exist_ok=True)
            (tmp_path / file).write_text("bytes", encoding="utf-8")
        origin = {"file": ONNX, "sha256": file_record(tmp_path / ONNX)["sha256"]}
        if onnx != "onnx":
            origin["sha256"] = onnx
        who = {"variant": "fp16", "target": "sm89", "flavour": "tensorrt_rtx", "version": "1.7"}
        record = {"onnx": origin, "proofs": list(proofs), "bytes": 5, "weights_bytes": 4, **who}
        write_json(tmp_path / RECORD, record)
        engine = {"file": PLAN, "record": RECORD, **who, "sha256": "0" * 64}
        files = {name: file_record(tmp_path / name) for name in (PLAN, RECORD, ONNX)}
        if damage:
            (tmp_path / damage).write_text("other", encoding="utf-8")
        return engine_entries(tmp_path, {"engines": {NAME: engine}, "files": files})[NAME]

    return make


def test_a_proven_engine_passes_and_what_is_not_proven_is_no_check(
    directory: Callable[..., dict[str, Any]],
) -> None:
    entry = directory(proof("passed"), proof("not proven", "linear types"))
    assert entry["verdict"] == "pass"
    assert [c["name"] for c in entry["checks"]] == ["recorded bytes", "built from", "sharing"]
    assert [p["status"] for p in entry["proofs"]] == ["passed", "not proven"]
    assert (entry["target"], entry["bytes"], entry["weights_bytes"]) == ("sm89", 5, 4)


@pytest.mark.parametrize(
    ("arguments", "check", "message"),
    [
        ({"damage": PLAN}, "recorded bytes", "is not the file that the manifest recorded"),
        ({"damage": RECORD}, "recorded bytes", "is not the file that the manifest recorded"),
        ({"onnx": "0" * 64}, "built from", "is not the file that it was built from"),
    ],
)
def test_a_damaged_or_stale_engine_fails(
    arguments: dict[str, str],
    check: str,
    message: str,
    directory: Callable[..., dict[str, Any]],
    full_report: dict[str, Any],
) -> None:
    entry = directory(**arguments)
    assert entry["verdict"] == "fail"
    (failed,) = [c for c in entry["checks"] if c["verdict"] == "fail"]
    assert failed["name"] == check
    assert message in failed["message"]
    with pytest.raises(ContractError, match=f"{NAME}: .*{message}"):
        raise_for_verdict(full_report | {"variants": {}, "engines": {NAME: entry}})


def test_a_failed_proof_fails_the_release(directory: Callable[..., dict[str, Any]]) -> None:
    entry = directory(proof("failed"))
    assert entry["verdict"] == "fail"
    with pytest.raises(ContractError, match=f"{NAME}: 3 copies; wanted 1 copy"):
        raise_for_verdict({"verdict": "fail", "variants": {}, "engines": {NAME: entry}})


def test_engines_are_in_every_form_of_the_report(
    directory: Callable[..., dict[str, Any]],
    full_report: dict[str, Any],
    assert_documented: Callable[[dict[str, Any]], None],
) -> None:
    report = full_report | {"engines": {NAME: directory(proof("failed"), proof("not proven"))}}
    assert_documented(report)
    assert {c["variant"] for c in all_checks(report)} > {NAME}
    told = summary(report)
    assert "## Engines" in told
    assert told.count("3 copies") == 3
    assert "| not proven |" in told
    page = render_html(report)
    assert "TensorRT plans" in page
    assert "1 copy" in page
    assert f'<testsuite name="{NAME}"' in junit(report)
    assert "## Engines" not in summary(full_report | {"engines": {}})


def test_a_validation_reports_the_engines_of_its_directory(
    make_checkpoint: Callable[..., Path],
    tmp_path: Path,
    assert_documented: Callable[[dict[str, Any]], None],
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs: pip install 'albert-deploy[rtx]'")
    from albert_deploy.export.engine.step import BuildConfig, build
    from albert_deploy.export.step import ExportConfig, export
    from albert_deploy.runtime.trt.profiles import Profile
    from albert_deploy.validation.evaluate.evaluate import EvaluateConfig
    from albert_deploy.validation.step import ValidateConfig, validate

    out = tmp_path / "out"
    export(str(make_checkpoint(num_hidden_layers=1)), ExportConfig(), out=out)
    shapes = (Profile(minimum=(1, 1), optimum=(1, 8), maximum=(1, 8)),)
    build(out, BuildConfig(targets=("sm89",), profiles=shapes))
    config = ValidateConfig(trace_rows=0, bisect_trials=0, evaluate=EvaluateConfig(grid_texts=2))
    report = validate(out, config)
    assert_documented(report)
    assert list(report["engines"]) == ["sm89-fp32"]
    assert report["verdict"] == report["engines"]["sm89-fp32"]["verdict"] == "pass"
    manifest = read_manifest(out)
    plan = out / manifest["engines"]["sm89-fp32"]["file"]
    plan.write_bytes(plan.read_bytes()[:-1])
    report = validate(out, config)
    assert report["verdict"] == "fail"
    assert "sm89-fp32: " in report["reason"]
    assert json.loads((out / "reports/validation.json").read_text())["verdict"] == "fail"
    write_manifest(out, manifest)
