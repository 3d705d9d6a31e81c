"""The bench's results as a picture."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from albert_deploy.runtime.manifest import write_text
from albert_deploy.validation.bench.report import batched, run_title

_Json = Mapping[str, Any]


def plot(path: Path, report: _Json) -> None:
    """Draw latency over length; beside it what the contenders gain.

    At batch 1 that is how many times as fast as the baseline each one is; else texts per second
    over the batch, and the share of the machine's peak. One row of pictures for each number of
    threads. Ours are drawn in full, peers dashed; the same report gives the same file.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    runs = report["runs"]
    wide = batched(report)
    figure = Figure(figsize=(15 if wide else 13, 5.2 * len(runs)), layout="constrained")
    axes = figure.subplots(len(runs), 3 if wide else 2, squeeze=False)
    batches = sorted(report["settings"]["batches"])
    usual = report["lengths"][len(report["lengths"]) // 2]
    for row, run in zip(axes, runs, strict=True):
        _lines(row[0], report, run, "tokens", "median_ms", lambda b, _: b == batches[0])
        row[0].set_title(f"{run_title(report, run)}, batch {batches[0]}", fontsize=9)
        if wide:
            _lines(row[1], report, run, "batch", "samples_per_s", lambda _, n: n == usual)
            row[1].set_title(f"{usual} tokens", fontsize=9)
            _lines(row[2], report, run, "tokens", "peak_share", lambda b, _: b == batches[-1])
            row[2].set_title(f"batch {batches[-1]}", fontsize=9)
        else:
            _bars(row[1], report, run)
        if row[0].get_legend_handles_labels()[0]:
            row[0].legend(fontsize=7)
    machine = report["machine"]
    figure.suptitle(machine.get("gpu", {}).get("name") or machine["cpu"], fontsize=10)
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "bench"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    write_text(path, "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n")


def _contenders(report: _Json, run: _Json) -> Iterator[tuple[Any, _Json, _Json]]:
    """Yield a colour, the contender and its latencies."""
    from matplotlib import colormaps

    colours = colormaps["tab20"]
    for index, (name, row) in enumerate(run["contenders"].items()):
        yield colours(index % colours.N), report["contenders"][name], row["latency"]


def _lines(
    ax: Any, report: _Json, run: _Json, across: str, key: str, fits: Callable[[int, int], bool]
) -> None:
    from matplotlib.ticker import NullLocator, PercentFormatter, ScalarFormatter

    # A column of one input is a shape, one of several is a data set.
    shapes = {
        name: {"batch": column["batch"], "tokens": column["tokens"][0]}
        for name, column in report["columns"].items()
        if len(column["tokens"]) == 1 and fits(column["batch"], column["tokens"][0])
    }
    for colour, contender, latency in _contenders(report, run):
        points = sorted(
            (shape[across], latency[name][key])
            for name, shape in shapes.items()
            if latency.get(name, {}).get(key) is not None
        )
        if not points:
            continue
        size = "" if contender["bytes"] is None else f", {contender['bytes'] / 1e6:.1f} MB"
        ax.plot(
            *zip(*points, strict=True),
            color=colour,
            linestyle="-" if contender["ours"] else "--",
            marker="o",
            markersize=4,
            label=f"{contender['label']}{size}",
        )
    words = {"median_ms": "median ms", "samples_per_s": "texts per second", "peak_share": "of peak"}
    ax.set(xscale="log", xlabel=across, ylabel=words[key])
    sizes = sorted({shape[across] for shape in shapes.values()})
    ax.set_xticks(sizes, [str(size) for size in sizes])
    ax.xaxis.set_minor_locator(NullLocator())
    if key == "peak_share":
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        ax.set_ylim(bottom=0)
    else:
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(ScalarFormatter())
    ax.grid(visible=True, which="both", alpha=0.2)


def _bars(ax: Any, report: _Json, run: _Json) -> None:
    count = len(run["contenders"])
    columns = report["columns"]
    for index, (colour, contender, latency) in enumerate(_contenders(report, run)):
        places = [
            (i + (index - (count - 1) / 2) * 0.85 / count, latency[column]["ratio_median"])
            for i, column in enumerate(columns)
            if latency.get(column, {}).get("ratio_median") is not None
        ]
        if places:
            hatch = None if contender["ours"] else "//"
            bars = zip(*places, strict=True)
            ax.bar(*bars, 0.85 / count, color=colour, hatch=hatch, edgecolor="white")
    ax.axhline(1, color="black", linewidth=0.8)
    ax.set_xticks(range(len(columns)), [column["label"] for column in columns.values()])
    if report["baseline"] is not None:
        base = report["contenders"][report["baseline"]]["label"]
        ax.set(ylabel=f"times as fast as {base}")
    ax.grid(visible=True, axis="y", alpha=0.3)
