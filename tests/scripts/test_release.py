"""The whole job on real checkpoints: the shipped samples and trained ones beside the checkout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from albert_deploy.export.samples import SAMPLES
from albert_deploy.runtime.contract import DEFAULT_VARIANTS, VARIANTS
from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.manifest import read_manifest, sha256_of
from albert_deploy.scripts.cli.main import main
from albert_deploy.scripts.release import sample_data


def _report(out: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((out / "reports/validation.json").read_text())
    return report


def _check_contract(out: Path) -> None:
    """Hold the report to what scripts outside the project read."""
    report = _report(out)
    assert report["verdict"] in ("pass", "fail", "undecided")
    assert set(report["source"]) >= {"path", "sha256"}
    assert set(report["dataset"]) >= {"name", "rows"}
    manifest = read_manifest(out)
    for name, variant in report["variants"].items():
        path = out / variant["file"]
        assert variant["file"] == VARIANTS[name].file
        assert variant["sha256"] == sha256_of(path) == manifest["files"][variant["file"]]["sha256"]
        assert variant["bytes"] == path.stat().st_size
        for score in variant["metrics"].values():
            assert set(score) >= {"source", "variant", "interval", "margin", "verdict"}
        assert 0 <= variant["agreement"] <= 1
        for output in variant["parity"].values():
            assert set(output) >= {"max_abs", "mean_abs", "cosine", "sqnr_db"}
        if name != "fp32":
            assert set(variant["coverage"]) == {"uses", "converted", "exceptions"}


@pytest.mark.medium
@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_passes_its_gate(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / name
    main(["release", name, "--out", str(out)])
    _check_contract(out)
    report = _report(out)
    recorded = json.loads((SAMPLES[name].checkpoint / "scores.json").read_text())
    assert report["dataset"]["rows"] == recorded.pop("rows") >= 500
    for metric, score in recorded.items():
        assert report["variants"]["fp32"]["metrics"][metric]["source"] == pytest.approx(
            score, abs=0.01
        )
    printed = capsys.readouterr().out
    assert "verdict: pass" in printed
    assert all(f"| {variant} " in printed for variant in DEFAULT_VARIANTS)
    if name != "sample-sst2":
        return
    # The second run finds the export and the variants there and leaves them.
    before = {v: (out / VARIANTS[v].file).stat().st_mtime_ns for v in DEFAULT_VARIANTS}
    main(["release", name, "--out", str(out)])
    assert before == {v: (out / VARIANTS[v].file).stat().st_mtime_ns for v in DEFAULT_VARIANTS}


@pytest.mark.slow
def test_a_trained_albert_keeps_its_score(shared: Path, tmp_path: Path) -> None:
    name, right = "albert-tiny-sst2", 713
    out = tmp_path / name
    source = shared / "checkpoints" / name
    main(
        [
            "release",
            str(source),
            "--dataset",
            f"sst2={shared / 'data/glue/SST-2'}",
            "--out",
            str(out),
        ]
    )
    _check_contract(out)
    report = _report(out)
    data = report["dataset"]
    assert (data["name"], data["rows"], data["labelled"]) == ("sst2", 872, True)
    assert data["sha256"] == sha256_of(shared / "data/glue/SST-2/dev.tsv")
    for variant in report["variants"].values():
        assert variant["metrics"]["accuracy"]["source"] == pytest.approx(100 * right / 872)
    assert report["variants"]["fp32"]["changed_predictions"] == 0
    int8 = report["variants"]["int8"]["metrics"]["accuracy"]
    assert int8["variant"] >= 0.99 * int8["source"]
    exceptions = report["variants"]["int8"]["coverage"]["exceptions"]
    assert not [weight for weight in exceptions if ".encoder." in weight]


def test_a_sample_brings_its_data_unless_the_task_is_another(tmp_path: Path) -> None:
    own = ("sst2", SAMPLES["sample-sst2"].data)
    assert sample_data("sample-sst2", None) == own
    assert sample_data("sample-sst2", None, task="text-classification") == own
    assert sample_data("sample-sst2", ("sst2", None)) == own
    assert sample_data("sample-sst2", None, task="feature-extraction") is None
    assert sample_data("sample-sst2", ("sst2", tmp_path)) == ("sst2", tmp_path)
    assert sample_data(str(tmp_path), None) is None
    with pytest.raises(InputError, match="--dataset squad=PATH"):
        sample_data("sample-sst2", ("squad", None))


@pytest.mark.medium
def test_a_sample_for_another_task_is_released_without_a_score(tmp_path: Path) -> None:
    main(["release", "sample-sst2", "--task", "feature-extraction", "--out", str(tmp_path / "out")])
    report = _report(tmp_path / "out")
    assert report["verdict"] == "pass"
    data = report["dataset"]
    assert (data["name"], data["rows"], data["labelled"]) == (None, 64, False)
    assert data["file"] is data["sha256"] is data["revision"] is None
    assert list(report["variants"]["int8"]["parity"]) == ["last_hidden_state", "pooler_output"]
