"""The summary says what the report holds, and nothing that it does not."""

from __future__ import annotations

from typing import Any

import pytest

from albert_deploy.validation.report.markdown import COMMENT_BYTES, summary, table
from albert_deploy.validation.report.pictures import draw_pictures
from albert_deploy.validation.report.report import as_json
from albert_deploy.validation.report.wording import MISSING

WEIGHT = {"weight": "ffn.weight", "uses": 12, "converted": 12, "dtype": "int8", "reason": None}
KEPT = {"weight": "classifier.weight", "uses": 1, "converted": 0, "dtype": "float"}


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("|")[1:-1]]


def _rows(text: str, title: str) -> list[list[str]]:
    """Return the cells of the first table after a heading or the title of a folded table."""
    lines = text[text.index(title) :].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    table = lines[start : start + lines[start:].index("")]
    return [_cells(line) for line in table if not line.startswith("|-")]


def test_the_table_names_engine_score_and_verdict_of_each_variant(
    full_report: dict[str, Any],
) -> None:
    head, _, source, _, int8, *_ = map(_cells, table(as_json(full_report)).splitlines())
    assert head[:3] == ["variant", "engine", "verdict"]
    assert source[:6] == ["source", "torch", "", "81.77", "", "83.07"]
    assert int8[:3] == ["int8", "ort", "fail"]
    cells = dict(zip(head, int8, strict=True))
    assert (cells["acc"], cells["acc difference"]) == ("80.05", "-1.72 [-2.22, -1.12]")
    assert cells["F1 difference"] == "-1.72 [-2.22, -1.12]"
    assert (cells["agreement"], cells["MB"], cells["median ms"]) == ("99.54%", "10.45", "4.20")
    long, *_ = _rows(summary(as_json(full_report)), "## Variants")
    assert long[3:5] == ["accuracy", "accuracy difference"]
    assert "| 80.05 [79.17, 84.17] |" in summary(as_json(full_report))


def test_the_least_report_has_no_empty_sections(least_report: dict[str, Any]) -> None:
    text = summary(least_report)
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "# text-classification: fail",
        "## Variants",
        "## Checks",
    ]
    assert ".svg" not in text
    assert "not finite" in text
    assert "Data: 64 texts without labels" in text


def test_the_trace_is_a_table_with_a_column_for_each_variant(full_report: dict[str, Any]) -> None:
    full_report["variants"]["int8"]["trace"][0] |= {"sqnr_db": None}
    full_report["variants"]["int8"]["trace"][-1] |= {"sqnr_db": None, "finite": False}
    text = summary(as_json(full_report))
    head, *rows = _rows(text, "## Error trace")
    assert head == ["after", "fp32", "int8", "int8-qdq", "fp16"]
    assert rows[0] == ["encoder input", "60.0", "exact", "58.0", "57.0"]
    assert rows[2] == ["encoder iteration 1", "53.5", "50.5", "47.5", "44.5"]
    assert rows[12] == ["encoder iteration 11, first token", "38.0", "35.0", "32.0", "29.0"]
    assert rows[13][:3] == ["output logits", "36.0", "not finite"]
    assert "first 32 rows" in text


def test_coverage_lists_every_weight_in_a_folded_table(least_report: dict[str, Any]) -> None:
    kept = KEPT | {"reason": "an output layer"}
    least_report["variants"]["int8"]["weights"] = [WEIGHT, kept]
    text = summary(least_report)
    text = text[text.index("## Coverage") :]
    folded = text[text.index("<details>") : text.index("</details>")].splitlines()
    assert folded[1] == "<summary>int8: 2 weights, 12 of 13 uses converted</summary>"
    # GitHub reads Markdown inside of HTML only after an empty line.
    assert folded[2] == folded[-1] == ""
    assert _rows(text, "<summary>int8") == [
        ["weight", "uses", "converted", "data type", "reason"],
        ["ffn.weight", "12", "12", "int8", MISSING],
        ["classifier.weight", "1", "0", "float", "an output layer"],
    ]


def test_coverage_shows_the_details_that_some_weight_has(full_report: dict[str, Any]) -> None:
    head, row, *_ = _rows(summary(as_json(full_report)), "<summary>int8: 4 weights, 48 of 48")
    assert head[4:] == ["granularity", "scales", "rounded activations", "activations left real"]
    assert row[4:] == ["per column", "768", "11", "encoder iteration 11, ffn; pooler"]


def test_calibration_tells_its_origin_and_every_range(full_report: dict[str, Any]) -> None:
    text = summary(as_json(full_report))
    assert (
        "int8: 256 rows of sst2 train.tsv (sha256 abababababab), ranges by mse, "
        "statistics in calibration/statistics.npz." in text
    )
    row = _rows(text, "<summary>int8: 12 ranges</summary>")[3]
    assert row == ["encoder iteration 2, ffn_output, input", "14.25", "11.75", "0.012%"]


def test_a_calibration_that_chose_no_ranges_is_told_in_one_line(
    least_report: dict[str, Any],
) -> None:
    record = {"file": None, "rule": None, "ranges": [], "dataset": {"name": "text"}, "rows": 256}
    least_report["variants"]["int8"]["calibration"] = record
    text = summary(least_report)
    assert text.endswith("- int8: 256 rows of text.\n")
    assert list(draw_pictures(least_report)) == ["sizes"]


def test_a_summary_says_why_and_what_to_do(full_report: dict[str, Any]) -> None:
    text = summary(as_json(full_report))
    assert text.startswith("# text-classification: fail\n")
    assert f"**{full_report['reason']}**" in text
    assert "> The rows are too few to tell: give more labelled rows, about 4,200 in all" in text
    told = [row[:2] + row[3:4] for row in _rows(text, "Those that do not pass:")[1:]]
    assert told == [
        ["fp8-qdq", "error", "the engine gave no answer within 60 s on batch 7, length 512"],
        ["int8", "fail", "accuracy changed by -1.72 points, the margin is 1"],
        ["int8-qdq", "undecided", "accuracy changed by -0.80 points, the margin is 1"],
    ]
    assert "<summary>11 that pass</summary>" in text


def test_pictures_that_lie_beside_a_summary_are_linked(full_report: dict[str, Any]) -> None:
    report = as_json(full_report)
    text = summary(report, draw_pictures(report))
    for name in ("intervals", "sizes", "trace", "errors", "latency", "ranges"):
        assert f"]({name}.svg)\n" in text
    assert ".svg" not in summary(report)


def test_texts_do_not_leave_their_cell_in_the_summary(least_report: dict[str, Any]) -> None:
    row = WEIGHT | {"weight": "a|b</details>@somebody\n# title", "reason": "x](http://y)"}
    least_report["variants"]["int8"]["weights"] = [row]
    text = summary(least_report)
    line = next(line for line in text.splitlines() if line.startswith("| a\\"))
    assert line.startswith("| a\\|b&lt;/details&gt;&#64;somebody # title |")
    assert "](http" not in text


@pytest.mark.parametrize("limit", [COMMENT_BYTES, 20_000, 3_000])
def test_a_large_summary_is_cut_in_folded_tables_first(
    least_report: dict[str, Any], limit: int
) -> None:
    rows = [WEIGHT | {"weight": f"wéight {i}"} for i in range(5000)]
    least_report["variants"]["int8"]["weights"] = rows
    least_report["variants"]["fp32"]["weights"] = rows[:50]
    text = summary(least_report, limit=limit)
    assert len(text.encode()) <= limit
    assert "Cut here" in text
    assert "| int8 " in text
    assert text.count("<details>") == text.count("</details>")
    # No row is cut in half: GitHub would not show the table.
    assert all(line.endswith("|") for line in text.splitlines() if line.startswith("|"))
    if limit >= 20_000:
        assert "| wéight 49" in text


def test_a_summary_without_anything_to_fold_is_cut_between_lines(
    least_report: dict[str, Any],
) -> None:
    check = {"kind": "parity", "name": "logits", "verdict": "fail"}
    checks = [check | {"message": f"output {i} " + "x" * 2000} for i in range(60)]
    least_report["variants"]["int8"]["checks"] = checks
    text = summary(least_report)
    assert len(text.encode()) <= COMMENT_BYTES
    assert text.endswith("validation.json`.*\n")
