"""The bench's results as tables, JSON and a picture."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from tabulate import tabulate

from albert_deploy.runtime.manifest import (
    file_record,
    read_manifest,
    write_json,
    write_manifest,
    writing,
)
from albert_deploy.validation.contenders import TORCH
from albert_deploy.validation.machine import describe
from albert_deploy.validation.report import REPORTS

_STATISTICS = {"median": "median", "min": "minimum"}


def record(directory: Path, report: dict[str, Any]) -> tuple[Path, Path]:
    """Write ``reports/bench.json`` and ``bench.svg`` and enter them in the manifest.

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
    manifest["steps"]["bench"] = {"rounds": report["rounds"], "threads": report["threads"]}
    write_manifest(directory, manifest)
    return paths


def text(report: dict[str, Any]) -> str:
    """Return the machine, a table of medians, one of minima, and what to know about them."""
    base = report["contenders"][report["baseline"]]["label"]
    threads = f"{report['threads']} thread{'s' if report['threads'] > 1 else ''}"
    title = (
        f"{report['source']['path']} ({report['task']}), batch 1, {threads}, "
        f"{report['rounds']} interleaved rounds"
    )
    lines = [title, describe(report["machine"]), ""]
    for which, word in _STATISTICS.items():
        lines += [f"{word} ms per run (and times as fast as {base}):", ""]
        lines += [table(report, which), ""]
    lines += report["notes"]
    lines.append(
        "fp32, fp16 and int8 are this directory's variants, in ONNX Runtime. "
        "ORT quantize_dynamic: onnxruntime's own INT8, made from the fp32 variant."
    )
    if TORCH in report["contenders"]:
        lines.append("torch eager: MB of its unique float32 parameters.")
    lines.append(
        "load: median ms from file to session, without imports; with the SHA-256 check, which "
        "the peer has not."
    )
    return "\n".join(lines)


def table(report: dict[str, Any], which: str = "median") -> str:
    """Return one row per contender in GitHub's Markdown.

    Args:
        report: Result of ``latency.bench``.
        which: ``median`` or ``min``.
    """
    headers = ["", "MB", "load ms", *(f"{n} tokens" for n in report["lengths"])]
    rows = []
    for contender in report["contenders"].values():
        cells = [contender["latency"][str(n)] for n in report["lengths"]]
        rows.append(
            [
                contender["label"],
                f"{contender['bytes'] / 1e6:.2f}",
                _digits(contender["load_ms"]),
                *(f"{_digits(c[f'{which}_ms'])} ({c[f'ratio_{which}']:.2f}x)" for c in cells),
            ]
        )
    align = ["left", *["right"] * (len(headers) - 1)]
    return tabulate(rows, headers, tablefmt="github", colalign=align, disable_numparse=True)


def plot(path: Path, report: dict[str, Any]) -> None:
    """Draw latency over length, and how many times as fast as the baseline each one is."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator, ScalarFormatter

    lengths = report["lengths"]
    contenders = report["contenders"]
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    width = 0.8 / len(contenders)
    for index, contender in enumerate(contenders.values()):
        cells = [contender["latency"][str(n)] for n in lengths]
        medians = [c["median_ms"] for c in cells]
        label = f"{contender['label']}, {contender['bytes'] / 1e6:.1f} MB"
        left.plot(lengths, medians, marker="o", markersize=4, label=label)
        places = [i + (index - (len(contenders) - 1) / 2) * width for i in range(len(lengths))]
        right.bar(places, [c["ratio_median"] for c in cells], width)
    left.set(xscale="log", yscale="log", xlabel="tokens", ylabel="median ms, batch 1")
    left.set_xticks(lengths)
    for axis in (left.xaxis, left.yaxis):
        axis.set_major_formatter(ScalarFormatter())
    left.xaxis.set_minor_locator(NullLocator())
    left.grid(visible=True, which="both", alpha=0.2)
    left.legend(fontsize=8)
    right.axhline(1, color="black", linewidth=0.8)
    right.set_xticks(range(len(lengths)), [str(n) for n in lengths])
    base = contenders[report["baseline"]]["label"]
    right.set(xlabel="tokens", ylabel=f"times as fast as {base}")
    right.grid(visible=True, axis="y", alpha=0.3)
    computer = report["machine"]
    figure.suptitle(
        f"{computer['cpu']}, {report['threads']} of {computer['cores']} cores, "
        f"{report['rounds']} interleaved rounds",
        fontsize=10,
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg")
    with writing(path) as file:
        file.write(buffer.getvalue())


def _digits(ms: float) -> str:
    return f"{ms:.0f}" if ms >= 100 else f"{ms:.1f}" if ms >= 10 else f"{ms:.2f}"
