"""Plots draw what the report holds, and as the same bytes whenever they are drawn."""

from __future__ import annotations

import math
import sys
from typing import Any
from xml.etree import ElementTree

import pytest

from albert_deploy.validation.report.html import render_html
from albert_deploy.validation.report.markdown import summary
from albert_deploy.validation.report.pictures import PICTURES, draw_pictures
from albert_deploy.validation.report.plots import (
    draw_errors,
    draw_intervals,
    draw_latency,
    draw_ranges,
    draw_sizes,
    draw_trace,
)
from albert_deploy.validation.report.report import as_json

SVG = "{http://www.w3.org/2000/svg}"


def _lines(axes: Any, label: str) -> list[Any]:
    return [line for line in axes.get_lines() if line.get_label() == label]


def _ticks(axis: Any) -> list[str]:
    return [tick.get_text() for tick in axis.get_ticklabels()]


@pytest.mark.medium
def test_a_full_report_has_every_picture(full_report: dict[str, Any]) -> None:
    pictures = draw_pictures(as_json(full_report))
    assert list(pictures) == list(PICTURES)
    assert draw_pictures(as_json(full_report)) == pictures
    for picture in pictures.values():
        svg = ElementTree.fromstring(picture.svg)
        assert svg.get("role") == "img"
        assert svg.findtext(f"{SVG}title") == picture.title
        assert svg.findtext(f"{SVG}desc")
    # The colours of series in the page, and so for dark and print too.
    assert "var(--s0)" in render_html(as_json(full_report), pictures)


def test_the_least_report_has_sizes_alone(least_report: dict[str, Any]) -> None:
    assert list(draw_pictures(least_report)) == ["sizes"]
    for variant in least_report["variants"].values():
        variant["parity"] = {}
    assert draw_pictures(least_report) == {}


def test_without_matplotlib_the_report_says_how_to_get_them(
    full_report: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    report = as_json(full_report)
    pictures = draw_pictures(report)
    assert pictures == {}
    for text in (summary(report, pictures), render_html(report, pictures)):
        assert "albert-deploy[export]" in text
    # A job's summary shows no pictures anyway.
    assert "matplotlib" not in summary(report)


@pytest.mark.medium
def test_names_from_elsewhere_stay_texts(
    full_report: dict[str, Any], hostile: tuple[str, ...]
) -> None:
    variants = full_report["variants"]
    names = ["$x$", *(text[:60] for text in hostile)]
    score = variants["int8"]["metrics"]["accuracy"]
    full_report["variants"] = {
        name: variants["int8"] | {"metrics": {f"of {name}": score}} for name in names
    }
    pictures = draw_pictures(as_json(full_report))
    assert list(pictures) == list(PICTURES)
    for picture in pictures.values():
        ElementTree.fromstring(picture.svg)
    texts = list(ElementTree.fromstring(pictures["sizes"].svg).itertext())
    assert "$x$" in texts
    assert hostile[0] in texts


def test_intervals_lie_where_the_axis_says(full_report: dict[str, Any]) -> None:
    drawn = draw_intervals(full_report)
    assert drawn is not None
    (axes,) = drawn.figure.axes
    assert _ticks(axes.yaxis)[2:4] == ["int8, accuracy", "int8, f1"]
    (low, _), (high, _) = axes.collections[2].get_segments()[0]
    score = full_report["variants"]["int8"]["metrics"]["accuracy"]
    assert [low, high] == pytest.approx(score["interval"])
    assert [line.get_xdata()[0] for line in _lines(axes, "margin")] == [-1.0] * 8
    assert drawn.title.endswith("(95%)")
    assert "int8 accuracy" not in drawn.description
    assert "int8, accuracy: -1.72 points [-2.22, -1.12], margin 1.00" in drawn.description


def test_the_margin_of_a_perplexity_lies_above(full_report: dict[str, Any]) -> None:
    variant = full_report["variants"]["int8"]
    variant["metrics"] = {"pseudo_perplexity": variant["metrics"]["accuracy"]}
    drawn = draw_intervals(full_report | {"variants": {"int8": variant}})
    assert drawn is not None
    (margin,) = _lines(drawn.figure.axes[0], "margin")
    assert list(margin.get_xdata()) == [1.0, 1.0]


def test_no_line_leads_to_another_quantity(full_report: dict[str, Any]) -> None:
    drawn = draw_trace(full_report)
    assert drawn is not None
    (axes,) = drawn.figure.axes
    assert _ticks(axes.xaxis) == ["in", *map(str, range(12)), "logits"]
    (line,) = _lines(axes, "int8")
    values = list(line.get_ydata())
    # Twelve places of all tokens; the last iteration, of the first token, is a mark alone.
    assert values[:12] == [59.0, *(52.0 - 1.5 * i for i in range(11))]
    assert math.isnan(values[12])
    hollow = [line for line in axes.get_lines() if line.get_markerfacecolor() == "#ffffff"]
    assert [list(line.get_ydata())[12] for line in hollow] == [38.0, 35.0, 32.0, 29.0]
    outputs = [line for line in axes.get_lines() if list(line.get_xdata()) == [13]]
    assert [list(line.get_ydata()) for line in outputs] == [[36.0], [35.0], [34.0], [33.0]]
    assert _lines(axes, "first token")
    assert "int8 from 59.0 to 35.0" in drawn.description


def test_a_trace_without_finite_values_is_left_out(full_report: dict[str, Any]) -> None:
    for variant in full_report["variants"].values():
        for entry in variant["trace"] or ():
            entry |= {"sqnr_db": None, "finite": False}
    assert draw_trace(full_report) is None


def test_errors_are_drawn_as_shares_of_all_rows(full_report: dict[str, Any]) -> None:
    drawn = draw_errors(full_report)
    assert drawn is not None
    upper, lower = drawn.figure.axes
    histogram = full_report["variants"]["fp32"]["errors_histogram"]
    shares = [100 * count / 872 for count in histogram["counts"]]
    values, edges, _ = upper.patches[0].get_data()
    # The first bin is empty.
    assert list(values) == pytest.approx(shares[1:])
    assert list(edges) == histogram["edges"][1:]
    assert lower.get_lines()[0].get_ydata()[-1] == pytest.approx(sum(shares))
    assert "fp32: most often 3e-05 to 6e-05" in drawn.description


def test_sizes_carry_scores(full_report: dict[str, Any]) -> None:
    drawn = draw_sizes(full_report)
    assert drawn is not None
    (axes,) = drawn.figure.axes
    sizes = [variant["bytes"] / 1e6 for variant in full_report["variants"].values()]
    assert [bar.get_height() for bar in axes.patches] == sizes
    assert "acc 80.05\nF1 81.35" in [text.get_text() for text in axes.texts]
    assert drawn.title == "Size and score (source acc 81.77, F1 83.07)"


def test_latency_needs_a_score_and_a_time(full_report: dict[str, Any]) -> None:
    del full_report["variants"]["fp16"]["latency"]
    full_report["variants"]["fp32"]["metrics"] = {}
    drawn = draw_latency(full_report)
    assert drawn is not None
    (axes,) = drawn.figure.axes
    assert {line.get_label(): line.get_xydata().tolist() for line in axes.get_lines()} == {
        "int8": [[pytest.approx(4.2), pytest.approx(80.05)]],
        "int8-qdq": [[pytest.approx(2.8), pytest.approx(80.97)]],
    }
    assert axes.get_ylabel() == "accuracy"


def test_ranges_have_a_panel_for_each_operator(full_report: dict[str, Any]) -> None:
    labels = [
        *(f"encoder iteration {i}, ffn_output, input" for i in range(4)),
        *(f"encoder iteration {i} inner layer 1, ffn_output, input" for i in range(4)),
        "encoder iteration 3, query, input",
        "embedding_hidden_mapping_in, input",
    ]
    ranges = [
        {"label": label, "peak": 12.25 + i, "range": 9.75 + i, "clipped": 0.00012}
        for i, label in enumerate(labels)
    ]
    for name in ("int8", "fp16"):
        full_report["variants"][name]["calibration"]["ranges"] = ranges
    kept = {name: full_report["variants"][name] for name in ("int8", "fp16")}
    drawn = draw_ranges(full_report | {"variants": kept})
    assert drawn is not None
    assert [axes.get_title() for axes in drawn.figure.axes if axes.get_title()] == [
        "ffn_output, input",
        "ffn_output, input, inner layer 1",
        "query, input",
        "embedding_hidden_mapping_in, input",
    ]
    lines = {line.get_label(): line for line in drawn.figure.axes[0].get_lines()}
    assert sorted(lines) == ["fp16, peak", "fp16, range", "int8, peak", "int8, range"]
    assert list(lines["int8, peak"].get_ydata()) == [12.25, 13.25, 14.25, 15.25]
    assert list(lines["fp16, range"].get_xdata()) == [0, 1, 2, 3]
