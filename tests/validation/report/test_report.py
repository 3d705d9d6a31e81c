"""The summary and the pictures say what the report holds, and nothing that it does not."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.manifest import REPORTS
from albert_deploy.validation.evaluate.evidence import Evidence
from albert_deploy.validation.report.markdown import COMMENT_BYTES, summary, table, trace_table
from albert_deploy.validation.report.report import (
    FILES,
    append_step_summary,
    as_json,
    write_reports,
    write_texts,
)

OUTPUT = {"finite": True, "sqnr_db": 41.5, "relative": 0.01}
WEIGHT = {"weight": "ffn.weight", "uses": 12, "converted": 12, "dtype": "int8", "reason": None}
KEPT = {"weight": "classifier.weight", "uses": 1, "converted": 0, "dtype": "float"}


def _entry(after: str, ratio: float | None = 40.0, **fields: Any) -> dict[str, Any]:
    entry = {"tokens": "all", "sqnr_db": ratio, "first_token_sqnr_db": ratio, "finite": True}
    return {"after": after} | entry | fields


def _trace() -> list[dict[str, Any]]:
    return [
        _entry("encoder input", None),
        *(_entry(f"encoder iteration {i}", 50.0 - 3 * i) for i in range(3)),
        _entry("encoder iteration 3", 45.5, tokens="first"),
        _entry("output logits", None, first_token_sqnr_db=None, finite=False),
    ]


def _ranges() -> list[dict[str, Any]]:
    labels = [
        *(f"encoder iteration {i}, ffn_output, input" for i in range(4)),
        *(f"encoder iteration {i} inner layer 1, ffn_output, input" for i in range(4)),
        "encoder iteration 3, query, input",
        "embedding_hidden_mapping_in, input",
    ]
    return [
        {"label": label, "peak": 12.25 + i, "range": 9.75 + i, "clipped": 0.00012}
        for i, label in enumerate(labels)
    ]


def _calibration(**fields: Any) -> dict[str, Any]:
    record = {
        "file": "calibration/statistics.npz",
        "dataset": {"name": "sst2", "file": "train.tsv", "sha256": "ab" * 32},
        "rows": 256,
        "rule": "mse",
        "ranges": _ranges(),
    }
    return record | fields


def _variant(**fields: Any) -> dict[str, Any]:
    variant = {
        "file": "onnx/model.onnx",
        "engine": "ort",
        "bytes": 1_500_000,
        "verdict": "pass",
        "breaches": [],
        "metrics": {"accuracy": {"source": 90.0, "variant": 89.5}},
        "agreement": 0.995,
        "changed_predictions": 1,
        "parity": {"logits": OUTPUT},
        "grid": {"logits": OUTPUT},
        "weights": None,
        "calibration": None,
        "trace": None,
    }
    return variant | fields


def _report(**variants: dict[str, Any]) -> dict[str, Any]:
    return {
        "verdict": "pass",
        "task": "text-classification",
        "source": {"path": "somewhere", "sha256": "cd" * 32},
        "dataset": {"name": "sst2", "rows": 200, "labelled": True},
        "grid_cases": 45,
        "trace_rows": 32,
        "variants": {"fp32": _variant()} | variants,
    }


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("|")[1:-1]]


def test_the_table_names_the_engine_of_each_variant() -> None:
    report = _report(bf16=_variant(engine="openvino", verdict="fail"))
    head, _, source, first, second = map(_cells, table(report).splitlines())
    assert head[:3] == ["variant", "engine", "MB"]
    assert source[:4] == ["source", "torch", "", "acc 90.00"]
    assert first[:3] == ["fp32", "ort", "1.50"]
    assert second[:2] + second[-1:] == ["bf16", "openvino", "fail"]


def test_a_plain_report_has_no_empty_sections() -> None:
    text = summary(_report())
    assert "## " not in text
    assert ".svg" not in text
    assert "<details>" not in text


def test_the_trace_is_a_table_with_a_column_for_each_variant() -> None:
    report = _report(fp16=_variant(trace=_trace()), int8=_variant(trace=_trace()))
    head, _, *rows = map(_cells, trace_table(report).splitlines())
    assert head == ["SQNR in dB after", "fp16", "int8"]
    assert rows[0] == ["encoder input", "exact", "exact"]
    assert rows[2] == ["encoder iteration 1", "47.0", "47.0"]
    assert rows[4] == ["encoder iteration 3, first token", "45.5", "45.5"]
    assert rows[5] == ["output logits", "not finite", "not finite"]
    text = summary(report)
    assert trace_table(report) in text
    assert "first 32 rows" in text
    assert "(trace.svg)" in text


def test_coverage_lists_every_weight_in_a_folded_table() -> None:
    kept = KEPT | {"reason": "an output layer"}
    text = summary(_report(int8=_variant(weights=[WEIGHT, kept])))
    folded = text[text.index("<details>") : text.index("</details>")].splitlines()
    assert folded[1] == "<summary>int8: 2 weights, 12 of 13 uses converted</summary>"
    # GitHub reads Markdown inside of HTML only after an empty line.
    assert folded[2] == folded[-1] == ""
    assert _cells(folded[3]) == ["weight", "uses", "converted", "data type", "reason"]
    assert _cells(folded[5]) == ["ffn.weight", "12", "12", "int8", ""]
    assert _cells(folded[6]) == ["classifier.weight", "1", "0", "float", "an output layer"]


def test_coverage_shows_the_details_that_some_weight_has() -> None:
    static = {"granularity": "per column", "scales": 768, "integer_inputs": 11}
    rows = [WEIGHT | static | {"real_inputs": ["encoder iteration 11, ffn", "pooler"]}, KEPT]
    lines = summary(_report(int8=_variant(weights=rows))).splitlines()
    head = next(line for line in lines if line.startswith("| weight"))
    assert _cells(head)[4:] == [
        "granularity",
        "scales",
        "rounded activations",
        "activations left real",
    ]
    row = next(line for line in lines if line.startswith("| ffn.weight"))
    assert _cells(row)[4:] == ["per column", "768", "11", "encoder iteration 11, ffn; pooler"]


def test_calibration_tells_its_origin_and_every_range() -> None:
    text = summary(_report(static=_variant(calibration=_calibration())))
    assert (
        "static: 256 rows of sst2 `train.tsv` (sha256 `abababababab`), ranges by mse, "
        "statistics in `calibration/statistics.npz`." in text
    )
    assert "<summary>static: 10 ranges</summary>" in text
    row = next(line for line in text.splitlines() if "iteration 2, ffn_output" in line)
    assert _cells(row) == ["encoder iteration 2, ffn_output, input", "14.25", "11.75", "0.012%"]
    assert "(ranges.svg)" in text


def test_a_calibration_that_chose_no_ranges_is_told_in_one_line() -> None:
    record = _calibration(file=None, rule=None, ranges=[], dataset={"name": "text"})
    text = summary(_report(fp16=_variant(calibration=record)))
    assert "fp16: 256 rows of text." in text
    assert "<details>" not in text
    assert "ranges.svg" not in text


def test_a_summary_says_why_and_what_to_do(full_report: dict[str, Any]) -> None:
    text = summary(as_json(full_report))
    assert text.startswith("# text-classification: fail\n")
    assert f"**{full_report['reason']}**" in text
    assert "> The rows are too few to tell: give more labelled rows, about 4,200 in all" in text
    assert "- fp8-qdq: the engine gave no answer within 60 s on batch 7, length 512 (error)" in text
    assert "- int8-qdq: accuracy changed by -0.80 points, the margin is 1 (undecided)" in text
    head = _cells(next(line for line in text.splitlines() if line.startswith("| variant")))
    row = _cells(next(line for line in text.splitlines() if line.startswith("| int8 ")))
    cells = dict(zip(head, row, strict=True))
    assert cells["difference"] == "acc -1.72 [-2.22, -1.12], F1 -1.72 [-2.22, -1.12]"
    assert cells["median ms"] == "4.20"


def test_a_summary_of_an_older_report(old_report: dict[str, Any]) -> None:
    text = summary(old_report)
    assert "- int8: logits on rows has NaN or infinite values (fail)" in text
    assert "not finite" in text


def test_texts_do_not_leave_their_cell_in_the_summary() -> None:
    rows = [WEIGHT | {"weight": "a|b</details>@somebody\n# title", "reason": "x](http://y)"}]
    text = summary(_report(int8=_variant(weights=rows)))
    row = next(line for line in text.splitlines() if line.startswith("| a"))
    assert row.startswith("| a\\|b&lt;/details&gt;&#64;somebody # title |")
    assert "](http" not in text


@pytest.mark.parametrize("limit", [COMMENT_BYTES, 20_000, 3_000])
def test_a_large_summary_is_cut_in_folded_tables_first(limit: int) -> None:
    rows = [WEIGHT | {"weight": f"wéight {i}"} for i in range(5000)]
    text = summary(
        _report(int8=_variant(weights=rows), fp16=_variant(weights=rows[:50])), limit=limit
    )
    assert len(text.encode()) <= limit
    assert "Cut here" in text
    assert "| int8 " in text
    assert text.count("<details>") == text.count("</details>")
    # No row is cut in half: GitHub would not show the table.
    assert all(line.endswith("|") for line in text.splitlines() if line.startswith("|"))
    if limit >= 20_000:
        assert "| wéight 49" in text


def test_a_summary_without_anything_to_fold_is_cut_between_lines() -> None:
    breaches = [{"kind": "parity", "message": f"output {i} " + "x" * 2000} for i in range(60)]
    text = summary(_report(int8=_variant(breaches=breaches, verdict="fail")))
    assert len(text.encode()) <= COMMENT_BYTES
    assert text.endswith("validation.json`.*\n")


def test_the_summary_is_appended_to_that_of_a_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_report: dict[str, Any]
) -> None:
    job = tmp_path / "job" / "summary"
    job.parent.mkdir()
    job.write_text("before\n", encoding="utf-8")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(job))
    written = write_reports(tmp_path / "out", full_report, None)
    text = job.read_text(encoding="utf-8")
    assert text.startswith("before\n# text-classification: fail\n")
    # A job cannot show the pictures that lie beside the summary.
    assert ".svg" not in text
    assert job not in written
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
        write_reports(tmp_path / "out", full_report, None)
    # The reports themselves are there.
    assert (tmp_path / "out" / REPORTS / "junit.xml").is_file()


def test_what_json_cannot_hold_is_written_as_null(tmp_path: Path) -> None:
    import numpy as np

    report = _report(int8=_variant(agreement=float("nan"), changed_predictions=np.int64(3)))
    report["source"]["path"] = tmp_path
    output = {"finite": False, "sqnr_db": -math.inf, "relative": np.float64("nan")}
    report["variants"]["int8"]["parity"] = {"half a \ud83d": output}
    write_reports(tmp_path, report, None)
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
    names = [path.name for path in write_reports(tmp_path, report, None)]
    assert names == ["validation.json", "summary.md", "report.html", "junit.xml"]
    assert "no answer within 60 s" in (tmp_path / REPORTS / "report.html").read_text("utf-8")


@pytest.fixture
def evidence() -> Evidence:
    return Evidence(rows=2, errors={"fp32": [0.0, 1e-6], "int8": [0.1, float("inf")]})


def test_pictures_are_written_where_there_is_something_to_draw(
    tmp_path: Path, evidence: Evidence
) -> None:
    full = _report(int8=_variant(trace=_trace(), calibration=_calibration()))
    written = [str(p.relative_to(tmp_path)) for p in write_reports(tmp_path, full, evidence)]
    assert tuple(written) == FILES
    assert all((tmp_path / name).stat().st_size for name in FILES)
    assert json.loads((tmp_path / REPORTS / "validation.json").read_text()) == full
    # The pictures of an earlier validation do not stay beside a report that has none.
    plain = [p.name for p in write_reports(tmp_path, _report(int8=_variant()), evidence)]
    assert plain == ["validation.json", "summary.md", "report.html", "junit.xml", "errors.svg"]
    assert sorted(p.name for p in (tmp_path / REPORTS).iterdir()) == sorted(plain)


def test_pictures_draw_what_the_report_holds() -> None:
    from albert_deploy.validation.report.pictures import draw_ranges, draw_trace

    calibration = _calibration()
    report = _report(
        int8=_variant(trace=_trace(), calibration=calibration),
        fp8=_variant(trace=_trace(), calibration=calibration),
    )
    figure = draw_trace(report, {})
    assert figure is not None
    (axes,) = figure.axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == [
        "input",
        *"0123",
        "logits",
    ]
    drawn = {line.get_label(): line.get_ydata() for line in axes.get_lines()}
    assert list(drawn["int8"])[1:4] == [50, 47, 44]
    assert drawn["int8"][4] != drawn["int8"][4]  # NaN: the last iteration is of other tokens
    assert "first token" in drawn
    figure = draw_ranges(report, {})
    assert figure is not None
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == [
        "ffn_output, input",
        "ffn_output, input, inner layer 1",
        "query, input",
        "embedding_hidden_mapping_in, input",
    ]
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    assert sorted(lines) == ["fp8, peak", "fp8, range", "int8, peak", "int8, range"]
    assert list(lines["int8, peak"].get_ydata()) == [12.25, 13.25, 14.25, 15.25]
    assert list(lines["fp8, range"].get_xdata()) == [0, 1, 2, 3]


def test_a_later_step_adds_to_the_reports(
    tmp_path: Path, full_report: dict[str, Any], evidence: Evidence
) -> None:
    write_reports(tmp_path, full_report, evidence)
    written = write_texts(tmp_path, full_report | {"performance": "int8 is slower than fp32"})
    assert [path.name for path in written] == [
        "validation.json",
        "summary.md",
        "report.html",
        "junit.xml",
    ]
    for path in written:
        assert "int8 is slower than fp32" in path.read_text(encoding="utf-8")
    # Its pictures are still true.
    assert (tmp_path / REPORTS / "errors.svg").is_file()
