"""Every form of a report is written, and none is left of an earlier one."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.manifest import REPORTS
from albert_deploy.validation.report.report import (
    FILES,
    append_step_summary,
    as_json,
    write_reports,
)


def test_the_summary_is_appended_to_that_of_a_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_report: dict[str, Any]
) -> None:
    job = tmp_path / "job" / "summary"
    job.parent.mkdir()
    job.write_text("before\n", encoding="utf-8")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(job))
    assert append_step_summary(full_report) == job
    text = job.read_text(encoding="utf-8")
    assert text.startswith("before\n# text-classification: fail\n")
    # A job cannot show the pictures that lie beside the summary.
    assert ".svg" not in text
    report = as_json(full_report)
    job.write_text("x" * (1024 * 1024 - 2000), encoding="utf-8")
    assert append_step_summary(report) == job
    assert 1024 * 1024 - 2000 < job.stat().st_size <= 1024 * 1024
    job.write_text("x" * 1024 * 1024, encoding="utf-8")
    append_step_summary(report)
    assert job.stat().st_size == 1024 * 1024
    monkeypatch.delenv("GITHUB_STEP_SUMMARY")
    assert append_step_summary(report) is None


def test_a_job_summary_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_report: dict[str, Any]
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "no" / "such" / "folder"))
    with pytest.raises(InputError, match="GITHUB_STEP_SUMMARY"):
        append_step_summary(full_report)


def test_what_json_cannot_hold_is_written_as_null(
    tmp_path: Path, least_report: dict[str, Any]
) -> None:
    import numpy as np

    int8 = least_report["variants"]["int8"]
    int8 |= {"agreement": float("nan"), "changed_predictions": np.int64(3)}
    output = {"finite": False, "sqnr_db": -math.inf, "relative": np.float64("nan")}
    int8["parity"] = {"half a \ud83d": output}
    least_report["source"]["path"] = tmp_path
    write_reports(tmp_path, least_report)
    read = json.loads((tmp_path / REPORTS / "validation.json").read_text(encoding="utf-8"))
    int8 = read["variants"]["int8"]
    assert int8["agreement"] is None
    assert int8["changed_predictions"] == 3
    assert int8["parity"] == {"half a ?": {"finite": False, "sqnr_db": None, "relative": None}}
    assert read["source"]["path"] == str(tmp_path)


def test_reports_are_written_where_nothing_could_be_run(
    tmp_path: Path, full_report: dict[str, Any]
) -> None:
    broken = full_report["variants"]["fp8-qdq"]
    report = full_report | {"variants": {"fp32": broken, "int8": broken}}
    names = [path.name for path in write_reports(tmp_path, report)]
    assert names == ["validation.json", "summary.md", "report.html", "junit.xml"]
    assert "no answer within 60 s" in (tmp_path / REPORTS / "report.html").read_text("utf-8")


@pytest.mark.medium
def test_pictures_are_written_where_there_is_something_to_draw(
    tmp_path: Path, full_report: dict[str, Any], least_report: dict[str, Any]
) -> None:
    full = as_json(full_report)
    written = [str(path.relative_to(tmp_path)) for path in write_reports(tmp_path, full)]
    assert tuple(written) == FILES
    assert all((tmp_path / name).stat().st_size for name in FILES)
    assert json.loads((tmp_path / REPORTS / "validation.json").read_text()) == full
    # The same report gives the same bytes.
    before = {name: (tmp_path / name).read_bytes() for name in FILES}
    write_reports(tmp_path, full)
    assert {name: (tmp_path / name).read_bytes() for name in FILES} == before
    # The pictures of an earlier validation do not stay beside a report that has none.
    plain = [path.name for path in write_reports(tmp_path, least_report)]
    assert plain == ["validation.json", "summary.md", "report.html", "junit.xml", "sizes.svg"]
    assert sorted(path.name for path in (tmp_path / REPORTS).iterdir()) == sorted(plain)


@pytest.mark.medium
def test_a_later_step_adds_to_the_reports(tmp_path: Path, full_report: dict[str, Any]) -> None:
    write_reports(tmp_path, full_report)
    written = write_reports(tmp_path, full_report | {"performance": "int8 is slower than fp32"})
    for path in written[:4]:
        assert "int8 is slower than fp32" in path.read_text(encoding="utf-8")


def test_what_a_search_left_is_in_the_summary(tmp_path: Path, least_report: dict[str, Any]) -> None:
    (tmp_path / REPORTS).mkdir()
    (tmp_path / REPORTS / "search-int8.md").write_text("## Search of int8\n", encoding="utf-8")
    write_reports(tmp_path, least_report)
    assert "## Search of int8" in (tmp_path / REPORTS / "summary.md").read_text(encoding="utf-8")
