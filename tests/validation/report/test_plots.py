"""Plots place what the report holds where its axes say, and stay inside of their box."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest

from albert_deploy.validation.report.plots import (
    Plot,
    draw_errors,
    draw_intervals,
    draw_latency,
    draw_trace,
    error_histogram,
    linear,
    plots,
)
from albert_deploy.validation.report.report import as_json


def _points(text: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (point.split(",") for point in text.split())]


def _at(ticks: list[tuple[float, str]], value: float) -> float:
    """Return where a value lies, from the first and last tick of its axis."""
    (start, low), (end, high) = ticks[0], ticks[-1]
    return start + (value - float(low)) / (float(high) - float(low)) * (end - start)


def test_the_plots_of_a_full_report(full_report: dict[str, Any]) -> None:
    drawn = plots(as_json(full_report))
    assert [plot.key for plot in drawn] == ["intervals", "trace", "errors", "latency"]
    for plot in drawn:
        for line in plot.lines:
            for x, y in _points(line["points"]):
                assert plot.left <= x <= plot.right
                assert plot.top <= y <= plot.bottom
        for mark in plot.marks:
            assert plot.left <= mark["x"] <= plot.right
            assert plot.top <= mark["y"] <= plot.bottom
        # A variant has the same colour in every plot.
        assert plot.legend.items() <= {"fp32": 0, "int8": 1, "int8-qdq": 2, "fp16": 3}.items()


def test_an_older_report_has_none(old_report: dict[str, Any]) -> None:
    assert plots(old_report) == []


def test_intervals_lie_where_the_axis_says(full_report: dict[str, Any]) -> None:
    plot = draw_intervals(full_report)
    assert plot is not None
    assert [text["text"] for text in plot.texts][2:4] == ["int8, accuracy", "int8, f1"]
    (low, _), (high, _) = _points(plot.lines[2]["points"])
    score = full_report["variants"]["int8"]["metrics"]["accuracy"]
    assert low == pytest.approx(_at(plot.x_ticks, score["interval"][0]), abs=0.2)
    assert high == pytest.approx(_at(plot.x_ticks, score["interval"][1]), abs=0.2)
    assert plot.marks[2]["x"] == pytest.approx(_at(plot.x_ticks, -1.72), abs=0.2)
    margins = [rule["x"] for rule in plot.rules if rule["kind"] == "margin"]
    assert margins == pytest.approx([_at(plot.x_ticks, -1.0)] * 8, abs=0.2)
    assert plot.title.endswith("(95%)")


def test_the_margin_of_a_perplexity_lies_above(full_report: dict[str, Any]) -> None:
    variant = full_report["variants"]["int8"]
    variant["metrics"] = {"pseudo_perplexity": variant["metrics"]["accuracy"]}
    plot = draw_intervals(full_report | {"variants": {"int8": variant}})
    assert plot is not None
    (margin,) = (rule["x"] for rule in plot.rules if rule["kind"] == "margin")
    assert margin == pytest.approx(_at(plot.x_ticks, 1.0), abs=0.2)


def test_no_line_leads_to_another_quantity(full_report: dict[str, Any]) -> None:
    plot = draw_trace(full_report)
    assert plot is not None
    assert [text for _, text in plot.x_ticks] == ["in", *map(str, range(12))]
    # Twelve places of all tokens; the last iteration, of the first token, is a mark alone.
    assert [len(_points(line["points"])) for line in plot.lines] == [12] * 4
    assert [mark["hollow"] for mark in plot.marks].count(True) == 4
    heights = [y for _, y in _points(plot.lines[1]["points"])]
    assert heights == sorted(heights)
    assert "int8 from 59.0 to 35.0" in plot.description


def test_a_trace_without_finite_values_is_left_out(full_report: dict[str, Any]) -> None:
    for variant in full_report["variants"].values():
        for entry in variant["trace"] or ():
            entry |= {"sqnr_db": None, "finite": False}
    assert draw_trace(full_report) is None


def test_the_histogram_is_drawn_as_shares(full_report: dict[str, Any]) -> None:
    plot = draw_errors(full_report)
    assert plot is not None
    histogram = full_report["variants"]["fp32"]["errors_histogram"]
    peak = max(histogram["counts"]) / sum(histogram["counts"]) * 100
    top = min(y for _, y in _points(plot.lines[0]["points"]))
    assert top == pytest.approx(_at(plot.y_ticks, peak), abs=0.2)
    assert plot.x_ticks[0][1] == "1e-6"


def test_latency_needs_a_score_and_a_time(full_report: dict[str, Any]) -> None:
    del full_report["variants"]["fp16"]["latency"]
    full_report["variants"]["fp32"]["metrics"] = {}
    plot = draw_latency(full_report)
    assert plot is not None
    assert list(plot.legend) == ["int8", "int8-qdq"]
    assert plot.marks[0]["x"] == pytest.approx(_at(plot.x_ticks, 4.2), abs=0.2)
    assert plot.y_label == "accuracy"


@hypothesis.given(st.lists(st.floats(min_value=0) | st.just(math.nan), max_size=40))
def test_a_histogram_counts_every_finite_error_once(errors: list[float]) -> None:
    finite = [error for error in errors if math.isfinite(error)]
    histogram = error_histogram(errors)
    if not finite:
        assert histogram is None
        return
    assert histogram is not None
    edges, counts = histogram["edges"], histogram["counts"]
    assert len(edges) == len(counts) + 1
    assert sum(counts) == len(finite)
    assert all(low < high for low, high in pairwise(edges))
    for (low, high), count in zip(pairwise(edges), counts, strict=True):
        last = high == edges[-1]
        assert count == sum(low <= e < high or (last and e >= high) for e in finite)


@hypothesis.given(
    st.floats(min_value=-1e6, max_value=1e6), st.floats(min_value=-1e6, max_value=1e6)
)
def test_an_axis_covers_its_values_with_a_few_round_ticks(a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    hypothesis.assume(high == low or high - low > 1e-6 * max(abs(low), abs(high), 1e-3))
    plot = Plot(key="k", title="", description="", x_label="", y_label="y")
    scale, ticks = linear(plot, low, high)
    assert 2 <= len(ticks) <= 8
    assert len({text for _, text in ticks}) == len(ticks)
    assert plot.top - 0.1 <= scale(high) <= scale(low) <= plot.bottom + 0.1
    assert all(above < below for (below, _), (above, _) in pairwise(ticks))
