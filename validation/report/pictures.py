"""The pictures of a validation's report: errors and sizes, the error trace, calibrated ranges."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from albert_deploy.runtime.manifest import writing
from albert_deploy.validation.report.wording import scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Errors = Mapping[str, Sequence[float]]

_ITERATION = re.compile(r"^encoder iteration (\d+)(?: (inner layer \d+))?, (.*)$")
# Pictures of one row of small multiples.
_COLUMNS = 4


def write_pictures(folder: Path, report: Mapping[str, Any], errors: Errors) -> list[Path]:
    """Write each picture that the report has something for; remove what an earlier one left.

    Args:
        folder: Where to.
        report: As in ``validation.json``.
        errors: Variant -> largest absolute difference of each row, [rows].

    Returns:
        The files written.
    """
    paths = []
    for name, draw in PICTURES.items():
        path = folder / name
        figure = draw(report, errors)
        if figure is None:
            path.unlink(missing_ok=True)
            continue
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg")
        with writing(path) as file:
            file.write(buffer.getvalue())
        paths.append(path)
    return paths


def draw_errors(report: Mapping[str, Any], errors: Errors) -> Figure | None:
    """Draw how many rows of each variant stay below an error, and the sizes."""
    from matplotlib.figure import Figure

    if not any(errors.values()):
        return None
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[2, 1])
    for name, values in errors.items():
        # A variant that gave no answer has none to draw.
        known = sorted(e for e in values if math.isfinite(e))
        share = [(i + 1) / len(values) for i in range(len(known))]
        left.step([max(e, 1e-9) for e in known], share, where="post", label=name)
    left.set(
        xscale="log",
        ylim=(0, 1.02),
        xlabel="largest |difference| of a row's outputs",
        ylabel="share of rows",
        title=f"{report['task']}: rows below an error",
    )
    left.grid(visible=True, alpha=0.3)
    left.legend()
    variants = report["variants"]
    bars = right.bar(list(variants), [(v["bytes"] or 0) / 1e6 for v in variants.values()])
    labels = [scores(v["metrics"], "variant").replace(", ", "\n") for v in variants.values()]
    right.bar_label(bars, labels=labels, fontsize=8)
    right.margins(y=0.25)
    right.tick_params(axis="x", rotation=30 if len(variants) > 4 else 0)
    title = scores(next(iter(variants.values()))["metrics"], "source")
    right.set(ylabel="MB", title=f"size and score{f' (source {title})' if title else ''}")
    right.title.set_fontsize(9)
    return figure


def draw_trace(report: Mapping[str, Any], errors: Errors) -> Figure | None:
    """Draw the hidden state's SQNR over the iterations, and the outputs', for each variant."""
    from matplotlib.figure import Figure

    traces = {name: v["trace"] for name, v in report["variants"].items() if v.get("trace")}
    if not traces:
        return None
    labels = [entry["after"] for entry in next(iter(traces.values()))]
    inner = sum(label.startswith("encoder") for label in labels)
    figure = Figure(figsize=(max(6.0, 3.0 + 0.45 * len(labels)), 4.2), layout="constrained")
    axes = figure.subplots()
    narrow = any(e["tokens"] == "first" for entries in traces.values() for e in entries)
    for name, entries in traces.items():
        # The first token alone is another quantity: its line is its own.
        whole = [_drawn(e["sqnr_db"]) if e["tokens"] == "all" else math.nan for e in entries]
        (line,) = axes.plot(range(inner), whole[:inner], marker="o", markersize=4, label=name)
        colour = line.get_color()
        if narrow:
            first = [_drawn(e["first_token_sqnr_db"]) for e in entries[:inner]]
            axes.plot(range(inner), first, "--", color=colour, linewidth=1)
        # Outputs do not follow from each other, so that no line joins them.
        axes.plot(range(inner, len(labels)), whole[inner:], "s", color=colour)
    axes.axvline(inner - 0.5, color="grey", linewidth=0.8, linestyle=":")
    ticks = [re.sub(r"^(encoder iteration|encoder|output) ", "", label) for label in labels]
    axes.set_xticks(range(len(labels)), ticks)
    for tick in axes.get_xticklabels()[inner:]:
        tick.set(rotation=30, ha="right")
    axes.set(
        xlabel="hidden state after each iteration of the encoder; outputs",
        ylabel="SQNR against fp32, dB",
        title=f"{report['task']}: how errors compound ({report['trace_rows']} rows)",
    )
    axes.grid(visible=True, alpha=0.3)
    if narrow:
        axes.plot([], [], "--", color="grey", linewidth=1, label="first token")
    figure.legend(loc="outside right upper", fontsize=8)
    return figure


def draw_ranges(report: Mapping[str, Any], errors: Errors) -> Figure | None:
    """Draw peak and chosen range of each operator's activations over the iterations."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    panels = _panels(report)
    if not panels:
        return None
    count = -(-len(panels) // _COLUMNS)
    figure = Figure(figsize=(3.2 * min(len(panels), _COLUMNS), 2.4 * count), layout="constrained")
    cells = figure.subplots(count, min(len(panels), _COLUMNS), squeeze=False).reshape(-1)
    for cell in cells[len(panels) :]:
        cell.set_axis_off()
    variants = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    every = [point for lines in panels.values() for points in lines.values() for point in points]
    last = max((number for number, _, _ in every if number is not None), default=0)
    for axes, (operator, lines) in zip(cells, panels.items(), strict=False):
        for name, points in lines.items():
            _draw_range(axes, points, name, variants.index(name), len(variants))
        axes.set_title(operator, fontsize=8)
        axes.set(xlim=(-0.5, last + 0.5), ylim=(0, None))
        axes.tick_params(labelsize=7)
        axes.grid(visible=True, alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if not any(number is None for points in lines.values() for number, _, _ in points):
            axes.set_xlabel("iteration", fontsize=7)
        else:
            axes.set_xticks([])
    handles = [line for cell in cells for line in cell.get_lines()]
    by_label = {str(line.get_label()): line for line in handles}
    figure.legend(by_label.values(), by_label, loc="outside lower center", ncols=4, fontsize=8)
    figure.suptitle(f"{report['task']}: calibrated ranges of activations", fontsize=10)
    return figure


def _drawn(ratio: float | None) -> float:
    """Leave out what is equal or not finite; the table says which."""
    return math.nan if ratio is None else ratio


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


def _draw_range(axes: Axes, points: _Points, name: str, index: int, count: int) -> None:
    places = [number or 0 for number, _, _ in points]
    peaks, ranges = [peak for _, peak, _ in points], [chosen for _, _, chosen in points]
    colour = f"C{index}"
    for label, style, fill, values in (
        ("peak", "--", "white", peaks),
        ("range", "-", colour, ranges),
    ):
        axes.plot(
            places,
            values,
            color=colour,
            linestyle=style,
            marker="o",
            markersize=3,
            markerfacecolor=fill,
            # Equal ones lie on each other: the first is seen around the last.
            linewidth=1 + 0.8 * (count - 1 - index),
            label=f"{name}, {label}",
        )


PICTURES: dict[str, Callable[[Mapping[str, Any], Errors], Figure | None]] = {
    "errors.svg": draw_errors,
    "trace.svg": draw_trace,
    "ranges.svg": draw_ranges,
}
