"""The plots of a report: each a figure, its title, and the same in words."""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Mapping
from importlib import resources
from typing import TYPE_CHECKING, Any, NamedTuple

from albert_deploy.validation.report import wording
from albert_deploy.validation.report.wording import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ITERATION = re.compile(r"^encoder iteration (\d+)(?: (inner layer \d+))?, (.*)$")
_INCHES = 4.8  # Width of a picture.
_PANELS = 3  # Of one row of small multiples.
# Different in shape too, for those who cannot tell the colours apart.
_MARKERS = "os^D"
# Errors below this are drawn at it: a logarithmic axis has no zero.
_LEAST_ERROR = 1e-9


class Drawing(NamedTuple):
    """A figure, and the same in words for those who do not see it."""

    figure: Figure
    title: str
    description: str


@functools.cache
def palette() -> dict[str, str]:
    """Return the page's colours for light, name -> ``#rrggbb``."""
    style = resources.files("albert_deploy.validation.report") / "templates" / "report.css"
    light = style.read_text(encoding="utf-8").partition("}")[0]
    return dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", light))


def draw_intervals(report: Mapping[str, Any]) -> Drawing | None:
    """Draw each difference of a score with its interval, and the margin that it must clear."""
    found = [
        (i, f"{name}, {metric}", metric, score)
        for i, (name, variant) in enumerate(report["variants"].items())
        for metric, score in variant["metrics"].items()
        if score.get("difference") is not None and None not in (score.get("interval") or [None])
    ]
    if not found:
        return None
    confidences = {score.get("confidence") for *_, score in found} - {None}
    shown = f" ({', '.join(f'{c:.0%}' for c in sorted(confidences))})" if confidences else ""
    title = f"Change of each score with its interval{shown}"
    figure, axes = _figure(title, height=0.9 + 0.28 * len(found))
    axes.axvline(0, color=palette()["ink"], linewidth=1)
    for row, (i, _, metric, score) in enumerate(found):
        change, (low, high) = score["difference"], score["interval"]
        # What is measured may lie outside of an interval that was made another way.
        ends = [[max(change - low, 0.0)], [max(high - change, 0.0)]]
        axes.errorbar(change, row, xerr=ends, color=f"C{i}", marker=_marker(i), capsize=3)
        if score.get("margin") is not None:
            sign = 1 if metric in wording.LOWER_IS_BETTER else -1
            place = [sign * score["margin"]] * 2
            axes.plot(place, [row - 0.4, row + 0.4], "--", color=palette()["fail"], label="margin")
    axes.set_yticks(range(len(found)), [label for _, label, *_ in found])
    axes.set(ylim=(len(found) - 0.5, -0.5))
    axes.set_xlabel("points against the source; dashed: what may be lost")
    words = "; ".join(
        f"{label}: {number(score['difference'], '+.2f')} points "
        f"{wording.interval(score['interval'], '+.2f')}, margin {number(score.get('margin'))}"
        for _, label, _, score in found
    )
    return Drawing(figure, title, words)


def draw_trace(report: Mapping[str, Any]) -> Drawing | None:
    """Draw the hidden state's SQNR over the iterations, and the outputs', for each variant."""
    traces = {
        i: (name, variant["trace"])
        for i, (name, variant) in enumerate(report["variants"].items())
        if any(entry["sqnr_db"] is not None for entry in variant.get("trace") or ())
    }
    if not traces:
        return None
    places = list(dict.fromkeys(e["after"] for _, trace in traces.values() for e in trace))
    places.sort(key=lambda place: not place.startswith("encoder"))
    inner = sum(place.startswith("encoder") for place in places)
    narrow = any(e["tokens"] == "first" for _, trace in traces.values() for e in trace)
    title = f"SQNR by iteration, {report['trace_rows']} rows"
    figure, axes = _figure(title, height=3.4)
    words = []
    for i, (name, trace) in traces.items():
        at = {places.index(entry["after"]): entry for entry in trace}
        hidden = {x: entry for x, entry in at.items() if x < inner}
        look: dict[str, Any] = {"color": f"C{i}", "marker": _marker(i), "markersize": 4}
        # The first token alone is another quantity: its line is its own.
        whole = [_ratio(e) if e["tokens"] == "all" else math.nan for e in hidden.values()]
        first = [_ratio(e) if e["tokens"] == "first" else math.nan for e in hidden.values()]
        axes.plot([*hidden], whole, label=name, **look)
        if narrow:
            alone = [_ratio(e, "first_token_sqnr_db") for e in hidden.values()]
            axes.plot([*hidden], alone, "--", color=f"C{i}", linewidth=1)
            axes.plot([*hidden], first, linestyle="", markerfacecolor=palette()["page"], **look)
        # Outputs do not follow from each other, so that no line joins them.
        outputs = {x: _ratio(entry) for x, entry in at.items() if x >= inner}
        axes.plot([*outputs], [*outputs.values()], linestyle="", **look)
        known = [e["sqnr_db"] for e in hidden.values() if e["sqnr_db"] is not None]
        words += [f"{name} from {known[0]:.1f} to {known[-1]:.1f}"] if known else []
    if narrow:
        axes.plot([], [], "--", color=palette()["muted"], linewidth=1, label="first token")
    axes.axvline(inner - 0.5, color=palette()["muted"], linewidth=0.8, linestyle=":")
    every = math.ceil(inner / 13)
    shown = [x for x in range(len(places)) if x % every == 0 or x >= inner]
    labels = [re.sub(r"^(encoder iteration|encoder|output) ", "", places[x]) for x in shown]
    axes.set_xticks(shown, ["in" if label == "input" else label for label in labels])
    for tick, x in zip(axes.get_xticklabels(), shown, strict=True):
        if x >= inner:
            tick.set(rotation=-60, ha="left")
    axes.set_xlabel("hidden state after each iteration; outputs" + "; hollow: first token" * narrow)
    axes.set_ylabel("SQNR against fp32, dB")
    _legend(axes)
    lead = "Signal to noise of the hidden state against fp32, in dB: "
    return Drawing(figure, title, lead + "; ".join(words))


def draw_errors(report: Mapping[str, Any]) -> Drawing | None:
    """Draw the share of rows in each bin of errors, and below each error."""
    from matplotlib.ticker import NullLocator

    found = {
        i: (name, variant["errors_histogram"])
        for i, (name, variant) in enumerate(report["variants"].items())
        if variant.get("errors_histogram")
    }
    if not found:
        return None
    title = "Errors of rows"
    figure, upper = _figure(title, height=4.2, rows=2)
    lower = figure.axes[1]
    words = []
    for i, (name, histogram) in found.items():
        edges = [max(edge, _LEAST_ERROR) for edge in histogram["edges"]]
        counts = histogram["counts"]
        skip = 0 if counts[0] else 1
        # Of all rows, so that those with NaN are missed.
        shares = [100 * count / report["dataset"]["rows"] for count in counts]
        upper.stairs(shares[skip:], edges[skip:], color=f"C{i}", linewidth=1.5, label=name)
        below = [0.0, *itertools.accumulate(shares)]
        lower.step(edges[skip:], below[skip:], where="post", color=f"C{i}")
        most = counts.index(max(counts))
        words.append(f"{name}: most often {edges[most]:.0e} to {edges[most + 1]:.0e}")
    upper.set(xscale="log", ylabel="% of rows")
    lower.set(xscale="log", ylabel="% of rows below", ylim=(0, 102))
    lower.set_xlabel("largest |difference| of a row's outputs")
    lower.xaxis.set_major_formatter(lambda error, _: f"{error:.0e}")
    lower.xaxis.set_minor_locator(NullLocator())
    _legend(upper)
    lead = "Share of rows by the largest difference of their outputs from the source's: "
    return Drawing(figure, title, lead + "; ".join(words))


def draw_sizes(report: Mapping[str, Any]) -> Drawing | None:
    """Draw the sizes, with the scores, where any variant gave an answer."""
    variants = report["variants"]
    if not any(variant["parity"] for variant in variants.values()):
        return None
    source = wording.scores(next(iter(variants.values()))["metrics"], "source")
    title = "Size and score" + (f" (source {source})" if source else "")
    figure, axes = _figure(title, height=2.8)
    sizes = {name: (v["bytes"] or 0) / 1e6 for name, v in variants.items()}
    scores = [wording.scores(v["metrics"], "variant") for v in variants.values()]
    colours = [f"C{i}" for i in range(len(sizes))]
    bars = axes.bar(list(sizes), list(sizes.values()), color=colours)
    axes.bar_label(bars, labels=[text.replace(", ", "\n") for text in scores], fontsize=8)
    axes.margins(y=0.25)
    axes.tick_params(axis="x", rotation=30 if len(sizes) > 4 else 0)
    axes.set(ylabel="MB")
    told = zip(sizes.items(), scores, strict=True)
    words = "; ".join(f"{name}: {mb:.2f} MB, {score}" for (name, mb), score in told)
    return Drawing(figure, title, words)


def draw_latency(report: Mapping[str, Any]) -> Drawing | None:
    """Draw the first score of each variant that was timed against its median latency."""
    found = []
    for i, (name, variant) in enumerate(report["variants"].items()):
        ms = wording.latency_ms(variant)
        scored: dict[str, Any] = variant["metrics"] or {"": {}}
        metric, score = next(iter(scored.items()))
        if ms is not None and score.get("variant") is not None:
            found.append((i, name, ms, score["variant"], metric))
    if not found:
        return None
    title = "Score against latency"
    figure, axes = _figure(title, height=2.8)
    for i, name, ms, value, _ in found:
        axes.plot([ms], [value], color=f"C{i}", marker=_marker(i), linestyle="", label=name)
    axes.set(xlim=(0, 1.1 * max(ms for _, _, ms, _, _ in found)))
    axes.set_xlabel("median latency, ms")
    axes.set_ylabel(found[0][4])
    _legend(axes)
    words = "; ".join(f"{name}: {ms:.2f} ms, {value:.2f}" for _, name, ms, value, _ in found)
    return Drawing(figure, title, words)


def draw_ranges(report: Mapping[str, Any]) -> Drawing | None:
    """Draw peak and chosen range of each operator's activations over the iterations."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    panels = _panels(report)
    if not panels:
        return None
    title = "Calibrated ranges of activations"
    count, across = -(-len(panels) // _PANELS), min(len(panels), _PANELS)
    figure = Figure(figsize=(_INCHES, 1.2 + 1.5 * count), layout="constrained")
    cells = figure.subplots(count, across, squeeze=False).reshape(-1)
    for cell in cells[len(panels) :]:
        cell.set_axis_off()
    every = [points for lines in panels.values() for points in lines.values()]
    last = max((n for points in every for n, _, _ in points if n is not None), default=0)
    series = {name: i for i, name in enumerate(report["variants"])}
    calibrated = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    for axes, (operator, lines) in zip(cells, panels.items(), strict=False):
        for name, points in lines.items():
            # Equal ones lie on each other: the first is seen around the last.
            width = 1 + 0.8 * (len(calibrated) - 1 - calibrated.index(name))
            _draw_range(axes, points, name, f"C{series[name]}", width)
        axes.set_title(operator, fontsize=7)
        axes.set(xlim=(-0.5, last + 0.5), ylim=(0, None))
        axes.tick_params(labelsize=7)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if any(number is None for points in lines.values() for number, _, _ in points):
            axes.set_xticks([])
        else:
            axes.set_xlabel("iteration", fontsize=7)
    by_label = {str(line.get_label()): line for cell in cells for line in cell.get_lines()}
    figure.legend(by_label.values(), by_label, loc="outside lower center", ncols=2, fontsize=8)
    _head(figure, title)
    words = f"Peak and chosen range of {len(panels)} operators, all listed under Calibration."
    return Drawing(figure, title, words)


_Points = list[tuple[int | None, float, float]]


def _panels(report: Mapping[str, Any]) -> dict[str, dict[str, _Points]]:
    """Return operator -> variant -> iteration (None outside the encoder), peak and range."""
    panels: dict[str, dict[str, _Points]] = {}
    for name, variant in report["variants"].items():
        for row in (variant.get("calibration") or {}).get("ranges") or ():
            match = _ITERATION.match(row["label"])
            parts = [match[3], match[2]] if match else [row["label"]]
            operator = ", ".join(part for part in parts if part)
            point = (int(match[1]) if match else None, row["peak"], row["range"])
            panels.setdefault(operator, {}).setdefault(name, []).append(point)
    return panels


def _draw_range(axes: Axes, points: _Points, name: str, colour: str, width: float) -> None:
    places = [place or 0 for place, _, _ in points]
    look: dict[str, Any] = {"color": colour, "marker": "o", "markersize": 3, "linewidth": width}
    for label, style, fill, values in (
        ("peak", "--", palette()["page"], [peak for _, peak, _ in points]),
        ("range", "-", colour, [chosen for _, _, chosen in points]),
    ):
        told = f"{name}, {label}"
        axes.plot(places, values, label=told, linestyle=style, markerfacecolor=fill, **look)


def _figure(title: str, *, height: float, rows: int = 1) -> tuple[Figure, Axes]:
    """Return a figure of a height in inches, and the uppermost of its axes, which share x."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_INCHES, height), layout="constrained")
    axes = figure.subplots(rows, 1, sharex=True, squeeze=False)[0, 0]
    _head(figure, title)
    return figure, axes


def _head(figure: Figure, title: str) -> None:
    figure.suptitle(title, x=0.02, ha="left", fontsize=10, fontweight="bold")


def _legend(axes: Axes) -> None:
    """Name the lines above the axes, four in a row."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, fontsize=8)


def _marker(series: int) -> str:
    return _MARKERS[series % len(_MARKERS)]


def _ratio(entry: Mapping[str, Any], key: str = "sqnr_db") -> float:
    """Leave out what is equal or not finite; the table says which."""
    return math.nan if entry[key] is None else float(entry[key])
