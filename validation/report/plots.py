"""The plots of the HTML report: changes of scores, error trace, errors of rows, latency."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from albert_deploy.validation.report.wording import LOWER_IS_BETTER, interval, latency_ms, number

WIDTH, HEIGHT = 420.0, 270.0
LEFT, RIGHT, TOP, BOTTOM = 54.0, 12.0, 12.0, 46.0
# Different in shape too, for those who cannot tell the colours apart.
SHAPES = ("circle", "square", "triangle", "diamond")


@dataclass(kw_only=True)
class Plot:
    """One plot; ``series`` counts the variants, which have the same colour in every plot.

    Attributes:
        key: Part of the ids of its elements.
        title: What it shows.
        description: The same in words, for those who do not see it.
        x_label: Of the horizontal axis.
        y_label: Of the vertical axis; empty draws none.
        legend: Variant -> its series; empty where marks name themselves.
        height: Of the view box.
        x_ticks: Place and text.
        y_ticks: Place and text.
        lines: Dicts of ``series`` and ``points``.
        marks: Dicts of ``series``, ``shape``, ``x``, ``y`` and ``hollow``.
        rules: Dicts of ``x``, ``y1``, ``y2`` and ``kind``: ``zero``, ``margin`` or ``end``.
        texts: Dicts of ``x``, ``y`` and ``text``.
    """

    key: str
    title: str
    description: str
    x_label: str
    y_label: str = ""
    legend: dict[str, int] = field(default_factory=dict)
    height: float = HEIGHT
    x_ticks: list[tuple[float, str]] = field(default_factory=list)
    y_ticks: list[tuple[float, str]] = field(default_factory=list)
    lines: list[dict[str, Any]] = field(default_factory=list)
    marks: list[dict[str, Any]] = field(default_factory=list)
    rules: list[dict[str, Any]] = field(default_factory=list)
    texts: list[dict[str, Any]] = field(default_factory=list)

    width: float = WIDTH
    left: float = LEFT
    right: float = WIDTH - RIGHT
    top: float = TOP

    @property
    def bottom(self) -> float:
        """Where the horizontal axis lies."""
        return self.height - BOTTOM


Scale = Callable[[float], float]


def linear(
    plot: Plot, low: float, high: float, *, across: bool = False
) -> tuple[Scale, list[tuple[float, str]]]:
    """Return a scale that covers the values with round ends, and its ticks."""
    span = (high - low) or max(abs(high), 1.0) * 0.1
    raw = span / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * n for n in (1, 2, 2.5, 5, 10) if power * n >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last = max(last, first + 1)
    start, end = (plot.left + 8, plot.right - 16) if across else (plot.bottom, plot.top + 4)

    def scale(value: float) -> float:
        return round(start + (value / step - first) / (last - first) * (end - start), 2)

    digits = max(0, -math.floor(math.log10(step) + 1e-9)) + (step / power == 2.5)
    return scale, [(scale(i * step), f"{i * step:.{digits}f}") for i in range(first, last + 1)]


def decades(low: float, high: float) -> tuple[Scale, list[tuple[float, str]]]:
    """Return a scale of exponents of ten, and its ticks."""
    first, last = math.floor(low + 1e-9), math.ceil(high - 1e-9)
    last = max(last, first + 1)

    def scale(value: float) -> float:
        return round(LEFT + (value - first) / (last - first) * (WIDTH - RIGHT - 14 - LEFT), 2)

    every = math.ceil((last - first) / 6)
    return scale, [(scale(i), f"1e{i}") for i in range(first, last + 1, every)]


def line(series: int, points: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Return a line through the points, in the colour of its series."""
    return {"series": series, "points": " ".join(f"{x:.1f},{y:.1f}" for x, y in points)}


def mark(series: int, x: float, y: float, *, hollow: bool = False) -> dict[str, Any]:
    """Return a mark in the colour and shape of its series."""
    shape = SHAPES[series % len(SHAPES)]
    return {"series": series, "shape": shape, "x": round(x, 1), "y": round(y, 1), "hollow": hollow}


_BAND = 40.0
# Errors below this are drawn at it: a logarithmic axis has no zero.
_LEAST = 1e-9


def plots(report: Mapping[str, Any]) -> list[Plot]:
    """Return the plots that a report has something for.

    Args:
        report: As in ``validation.json``, of any version.
    """
    made = (draw_intervals(report), draw_trace(report), draw_errors(report), draw_latency(report))
    return [plot for plot in made if plot is not None]


def error_histogram(errors: Sequence[float]) -> dict[str, list[float] | list[int]] | None:
    """Count errors in bins of a quarter of a decade.

    Args:
        errors: Largest absolute difference of each row; those not finite are left out.

    Returns:
        ``edges`` (one more than bins; the first bin, from 0, has what is below 1e-9) and
        ``counts``; None where there is nothing to count.
    """
    finite = [error for error in errors if math.isfinite(error)]
    if not finite:
        return None
    low = math.floor(4 * math.log10(max(min(finite), _LEAST)))
    high = math.floor(4 * math.log10(max(*finite, _LEAST))) + 1
    edges = [0.0, *(10 ** (i / 4) for i in range(low, high + 1))]
    counts = [0] * (len(edges) - 1)
    for error in finite:
        # The last edge that is not above it.
        counts[sum(edge <= error for edge in edges[1:-1])] += 1
    return {"edges": edges, "counts": counts}


def draw_errors(report: Mapping[str, Any]) -> Plot | None:
    """Draw each variant's histogram of the rows' largest errors as an outline."""
    found = {}
    for name, variant in report["variants"].items():
        histogram = variant.get("errors_histogram") or {}
        edges, counts = histogram.get("edges") or [], histogram.get("counts") or []
        if len(edges) == len(counts) + 1 and sum(counts):
            filled = [i for i, count in enumerate(counts) if count]
            first, last = filled[0], filled[-1] + 1
            kept = [max(float(edge), _LEAST) for edge in edges[first : last + 1]]
            found[name] = (kept, counts[first:last])
    if not found:
        return None
    exponents = [math.log10(edge) for edges, _ in found.values() for edge in edges]
    x, x_ticks = decades(min(exponents), max(exponents))
    shares = {name: [100 * n / sum(counts) for n in counts] for name, (_, counts) in found.items()}
    plot = Plot(
        key="errors",
        title="Errors of rows",
        description="Share of rows by the largest difference of their outputs from the source's: "
        + "; ".join(
            f"{name}: most often {edges[i]:.0e} to {edges[i + 1]:.0e}"
            for name, (edges, counts) in found.items()
            for i in [max(range(len(counts)), key=counts.__getitem__)]
        ),
        x_label="largest |difference| of a row's outputs",
        y_label="% of rows",
        legend=_series(report, found),
        x_ticks=x_ticks,
    )
    y, plot.y_ticks = linear(plot, 0.0, max(max(values) for values in shares.values()))
    for name, (edges, _) in found.items():
        points = [(x(math.log10(edges[0])), y(0))]
        for i, share in enumerate(shares[name]):
            points += [(x(math.log10(edge)), y(share)) for edge in edges[i : i + 2]]
        points.append((x(math.log10(edges[-1])), y(0)))
        plot.lines.append(line(plot.legend[name], points))
    return plot


def draw_trace(report: Mapping[str, Any]) -> Plot | None:
    """Draw the SQNR of the hidden state after each iteration."""
    traces = {}
    for name, variant in report["variants"].items():
        entries = [e for e in variant.get("trace") or () if str(e["after"]).startswith("encoder")]
        points = [(i, e) for i, e in enumerate(entries) if e.get("sqnr_db") is not None]
        if points:
            traces[name] = (entries, points)
    if not traces:
        return None
    longest = max((entries for entries, _ in traces.values()), key=len)
    values = [e["sqnr_db"] for _, points in traces.values() for _, e in points]
    plot = Plot(
        key="trace",
        title="SQNR by iteration",
        description="Signal to noise of the hidden state against fp32, in dB: "
        + "; ".join(
            f"{name} from {points[0][1]['sqnr_db']:.1f} to {points[-1][1]['sqnr_db']:.1f}"
            for name, (_, points) in traces.items()
        ),
        x_label="after iteration"
        + " (hollow: first token only)" * any(e.get("tokens") == "first" for e in longest),
        y_label="dB",
        legend=_series(report, traces),
    )
    step = (plot.right - plot.left - 20) / max(len(longest) - 1, 1)
    every = math.ceil(len(longest) / 13)
    for i, entry in enumerate(longest):
        if i % every == 0:
            label = str(entry["after"]).removeprefix("encoder ").removeprefix("iteration ")
            plot.x_ticks.append((plot.left + 10 + i * step, "in" if label == "input" else label))
    y, plot.y_ticks = linear(plot, min(values), max(values))
    for name, (_, points) in traces.items():
        series = plot.legend[name]
        placed = [(plot.left + 10 + i * step, y(e["sqnr_db"])) for i, e in points]
        # The first token alone is another quantity: no line leads to it.
        whole = [p for p, (_, e) in zip(placed, points, strict=True) if e.get("tokens") != "first"]
        plot.lines.append(line(series, whole))
        plot.marks += [
            mark(series, *place, hollow=entry.get("tokens") == "first")
            for place, (_, entry) in zip(placed, points, strict=True)
        ]
    return plot


def draw_latency(report: Mapping[str, Any]) -> Plot | None:
    """Draw the first score of each variant that was timed against its median latency."""
    found = {}
    for name, variant in report["variants"].items():
        ms = latency_ms(variant)
        scored: dict[str, Any] = variant.get("metrics") or {"": {}}
        metric, score = next(iter(scored.items()))
        if ms is not None and score.get("variant") is not None:
            found[name] = (ms, float(score["variant"]), metric)
    if not found:
        return None
    metric = next(iter(found.values()))[2]
    plot = Plot(
        key="latency",
        title="Score against latency",
        description="; ".join(f"{n}: {ms:.2f} ms, {s:.2f}" for n, (ms, s, _) in found.items()),
        x_label="median latency, ms",
        y_label=metric,
        legend=_series(report, found),
    )
    x, plot.x_ticks = linear(plot, 0.0, max(ms for ms, _, _ in found.values()), across=True)
    scores = [score for _, score, _ in found.values()]
    y, plot.y_ticks = linear(plot, min(scores), max(scores))
    plot.marks = [mark(plot.legend[n], x(ms), y(score)) for n, (ms, score, _) in found.items()]
    return plot


def draw_intervals(report: Mapping[str, Any]) -> Plot | None:
    """Draw each difference of a score with its interval, and the margin that it must clear."""
    found = [
        (name, metric, score)
        for name, variant in report["variants"].items()
        for metric, score in (variant.get("metrics") or {}).items()
        if score.get("difference") is not None and None not in (score.get("interval") or [None])
    ]
    if not found:
        return None
    values = [0.0]
    for _, metric, score in found:
        values += [score["difference"], *score["interval"]]
        values += _margin(metric, score)
    confidences = {score.get("confidence") for _, _, score in found} - {None}
    shown = f" ({', '.join(f'{c:.0%}' for c in sorted(confidences))})" if confidences else ""
    plot = Plot(
        key="intervals",
        title=f"Change of each score with its interval{shown}",
        description="; ".join(
            f"{name} {metric}: {number(score['difference'], '+.2f')} points "
            f"{interval(score['interval'], '+.2f')}, margin {number(score.get('margin'))}"
            for name, metric, score in found
        ),
        x_label="points against the source; dashed: what may be lost",
        height=TOP + _BAND * len(found) + BOTTOM,
        left=RIGHT,
        legend={},
    )
    x, plot.x_ticks = linear(plot, min(values), max(values), across=True)
    plot.rules.append({"x": x(0), "y1": plot.top, "y2": plot.bottom, "kind": "zero"})
    series = _series(report, [name for name, _, _ in found])
    for i, (name, metric, score) in enumerate(found):
        top = plot.top + i * _BAND
        y = top + 0.68 * _BAND
        low, high = (x(value) for value in score["interval"])
        plot.texts.append({"x": plot.left, "y": top + 13, "text": f"{name}, {metric}"})
        plot.lines.append(line(series[name], [(low, y), (high, y)]))
        plot.rules += [{"x": e, "y1": y - 5, "y2": y + 5, "kind": "end"} for e in (low, high)]
        for margin in _margin(metric, score):
            plot.rules.append({"x": x(margin), "y1": top + 17, "y2": top + _BAND, "kind": "margin"})
        plot.marks.append(mark(series[name], x(score["difference"]), y))
    return plot


def _margin(metric: str, score: Mapping[str, Any]) -> list[float]:
    """Return where the margin of a score lies, if it has one."""
    if score.get("margin") is None:
        return []
    return [score["margin"] if metric in LOWER_IS_BETTER else -score["margin"]]


def _series(report: Mapping[str, Any], names: Mapping[str, Any] | Sequence[str]) -> dict[str, int]:
    return {name: i for i, name in enumerate(report["variants"]) if name in names}
