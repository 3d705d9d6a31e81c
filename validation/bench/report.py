"""The bench's results as tables, JSON and a picture."""

from __future__ import annotations

import io
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from albert_deploy.runtime.engines.table import choose_engine
from albert_deploy.runtime.manifest import (
    REPORTS,
    file_record,
    read_manifest,
    write_json,
    write_manifest,
    writing,
)
from albert_deploy.validation.bench.interleave import TORCH
from albert_deploy.validation.bench.machine import describe
from albert_deploy.validation.tables import markdown_table

_STATISTICS = {"median": "median", "min": "minimum"}


def record(directory: Path, report: dict[str, Any]) -> tuple[Path, Path]:
    """Write ``reports/bench.json`` and ``bench.svg`` and enter them in the manifest.

    Each variant's entry gets its latency in the engine that runs it, which a later validation
    shows and holds against the policy.

    Raises:
        InputError: The directory cannot be written.
        MachineError: The disk is full.
    """
    folder = directory / REPORTS
    paths = folder / "bench.json", folder / "bench.svg"
    write_json(paths[0], report)
    plot(paths[1], report)
    # Read now: the bench took minutes, in which another step may have written it.
    manifest = read_manifest(directory)
    for path in paths:
        manifest["files"][str(path.relative_to(directory))] = file_record(path)
    for name, latency in latencies(manifest, report).items():
        manifest["variants"][name]["latency"] = latency
    manifest["steps"]["bench"] = {
        "threads": report["threads"],
        "rounds": [run["rounds"] for run in report["runs"]],
    }
    write_manifest(directory, manifest)
    return paths


def latencies(
    manifest: dict[str, Any], report: Mapping[str, Any]
) -> dict[str, dict[str, float | int]]:
    """Return the latency of each variant that was timed in the engine that it runs in.

    The first number of threads and the last column stand for it: the real rows of a data set
    where there is one, else the longest rows.

    Returns:
        By variant ``median_ms``, ``p95_ms``, ``batch``, ``tokens`` (mean), ``threads`` and
        ``runs``.
    """
    run, column = report["runs"][0], list(report["columns"])[-1]
    tokens = statistics.fmean(report["columns"][column]["tokens"])
    found = {}
    for name, contender in report["contenders"].items():
        variant = contender["variant"]
        if variant not in manifest["variants"] or name not in run["contenders"]:
            continue
        file = manifest["files"][manifest["variants"][variant]["file"]]
        if contender["sha256"] != file["sha256"]:
            continue  # It was made again while the bench ran.
        if contender["engine"] != choose_engine(manifest, variant):
            continue
        times = run["contenders"][name]["latency"][column]["times_ms"]
        found[variant] = {
            "median_ms": statistics.median(times),
            "p95_ms": float(np.percentile(times, 95)),
            "batch": report["batch"],
            "tokens": round(tokens),
            "threads": run["threads"],
            "runs": len(times),
        }
    return found


def text(report: dict[str, Any]) -> str:
    """Return the machine, the tables of each run, and what to know about them."""
    lines = [
        f"{report['source']['path']} ({report['task']}), batch 1",
        describe(report["machine"]),
    ]
    for name, column in report["columns"].items():
        if len(column["tokens"]) > 1:
            shortest, longest = column["tokens"][0], column["tokens"][-1]
            lines.append(
                f"{name}: mean of {len(column['tokens'])} texts of {shortest} to {longest} tokens"
            )
    for run in report["runs"]:
        lines += ["", *_run_lines(report, run)]
    lines += [
        *report["notes"],
        "ORT: ONNX Runtime, quantize_dynamic its own INT8. fp32 is the exported graph without a "
        "quantizer, which is a peer of the other variants. bf16: OpenVINO runs in it what a file "
        "leaves in float32.",
        "load: median ms from file to session, without imports; of a variant with its SHA-256 "
        "check. torch.compile: the one compilation and its first runs.",
    ]
    if TORCH in report["contenders"]:
        lines.append("torch: MB of its unique float32 parameters.")
    return "\n".join(lines)


def _run_lines(report: dict[str, Any], run: dict[str, Any]) -> list[str]:
    base = report["contenders"][report["baseline"]]["label"]
    title = f"{_threads(report, run)}, {run['rounds']} interleaved rounds"
    lines = []
    for which, word in _STATISTICS.items():
        lines += [f"{title}: {word} ms per row, and times as fast as {base} / as the best peer", ""]
        lines += [table(report, run, which), ""]
    if run["best_peer"]:
        best = (
            f"{report['columns'][column]['label']}: {report['contenders'][name]['label']}"
            for column, name in run["best_peer"].items()
        )
        lines += [f"best peer at {'; '.join(best)}", ""]
    if run["peaks"]:
        measured = ", ".join(
            f"{data_type} {peak['gops']:.0f} ({peak['by']})"
            for data_type, peak in run["peaks"].items()
        )
        lines += [
            f"{title}: GOPS of the matrix products, and % of the peak of their data type",
            f"peaks measured in this run, GOPS: {measured}",
            "",
            share_table(report, run),
            "",
        ]
    return lines


def table(report: dict[str, Any], run: dict[str, Any], which: str = "median") -> str:
    """Return one row per contender in GitHub's Markdown.

    Args:
        report: Result of ``latency.bench``.
        run: An entry of its ``runs``.
        which: ``median`` or ``min``.
    """
    headers = ["", "MB", "load ms", *(c["label"] for c in report["columns"].values())]
    rows = []
    for name, row in run["contenders"].items():
        contender = report["contenders"][name]
        cells = []
        for cell in row["latency"].values():
            ratios = [cell[f"ratio_{which}"], cell[f"peer_ratio_{which}"]]
            shown = " / ".join(f"{ratio:.2f}x" for ratio in ratios if ratio is not None)
            cells.append(f"{_digits(cell[f'{which}_ms'])} ({shown})")
        size = f"{contender['bytes'] / 1e6:.2f}"
        rows.append([contender["label"], size, _digits(row["load_ms"]), *cells])
    return _markdown(headers, rows)


def share_table(report: dict[str, Any], run: dict[str, Any]) -> str:
    """Return one row per contender: what share of the machine's peak it reaches."""
    headers = ["", "peak", *(c["label"] for c in report["columns"].values())]
    rows = []
    for name, row in run["contenders"].items():
        contender = report["contenders"][name]
        cells = [
            "" if c["peak_share"] is None else f"{c['gops']:.0f} ({c['peak_share']:.0%})"
            for c in row["latency"].values()
        ]
        rows.append([contender["label"], contender["data_type"], *cells])
    return _markdown(headers, rows)


def plot(path: Path, report: dict[str, Any]) -> None:
    """Draw latency over length, and how many times as fast as the baseline each one is.

    One row of pictures for each number of threads. Ours are drawn in full, peers dashed.
    """
    from matplotlib.figure import Figure

    runs = report["runs"]
    figure = Figure(figsize=(13, 5.2 * len(runs)), layout="constrained")
    axes = figure.subplots(len(runs), 2, squeeze=False)
    for (left, right), run in zip(axes, runs, strict=True):
        _plot_run(left, right, report, run)
    figure.suptitle(report["machine"]["cpu"], fontsize=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg")
    with writing(path) as file:
        file.write(buffer.getvalue())


def _plot_run(left: Any, right: Any, report: dict[str, Any], run: dict[str, Any]) -> None:
    from matplotlib import colormaps
    from matplotlib.ticker import NullLocator, ScalarFormatter

    lengths = report["lengths"]
    columns = report["columns"]
    width = 0.85 / len(run["contenders"])
    colours = colormaps["tab20"]
    for index, (name, row) in enumerate(run["contenders"].items()):
        contender = report["contenders"][name]
        colour = colours(index % colours.N)
        left.plot(
            lengths,
            [row["latency"][str(n)]["median_ms"] for n in lengths],
            color=colour,
            linestyle="-" if contender["ours"] else "--",
            marker="o",
            markersize=4,
            label=f"{contender['label']}, {contender['bytes'] / 1e6:.1f} MB",
        )
        places = [
            i + (index - (len(run["contenders"]) - 1) / 2) * width for i in range(len(columns))
        ]
        heights = [cell["ratio_median"] for cell in row["latency"].values()]
        hatch = None if contender["ours"] else "//"
        right.bar(places, heights, width, color=colour, hatch=hatch, edgecolor="white")
    left.set(xscale="log", yscale="log", xlabel="tokens", ylabel="median ms, batch 1")
    left.set_title(f"{_threads(report, run)}, {run['rounds']} interleaved rounds", fontsize=9)
    left.set_xticks(lengths)
    for axis in (left.xaxis, left.yaxis):
        axis.set_major_formatter(ScalarFormatter())
    left.xaxis.set_minor_locator(NullLocator())
    left.grid(visible=True, which="both", alpha=0.2)
    left.legend(fontsize=7)
    right.axhline(1, color="black", linewidth=0.8)
    right.set_xticks(range(len(columns)), [column["label"] for column in columns.values()])
    base = report["contenders"][report["baseline"]]["label"]
    right.set(ylabel=f"times as fast as {base}")
    right.grid(visible=True, axis="y", alpha=0.3)


def _threads(report: dict[str, Any], run: dict[str, Any]) -> str:
    count = run["threads"] or report["machine"]["cores"]
    return f"{count} thread{'s' if count > 1 else ''}"


def _markdown(headers: list[str], rows: list[list[str]]) -> str:
    align = ["left", *["right"] * (len(headers) - 1)]
    return markdown_table(rows, headers, align)


def _digits(ms: float) -> str:
    return f"{ms:.0f}" if ms >= 100 else f"{ms:.1f}" if ms >= 10 else f"{ms:.2f}"
