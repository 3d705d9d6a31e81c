"""A GPU benchmark's results as Markdown tables and a picture."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from albert_deploy.runtime.manifest import write_text
from albert_deploy.validation.bench.gpu_lengths import ARRIVAL, BUCKETS, FIXED
from albert_deploy.validation.bench.machine import describe
from albert_deploy.validation.tables import markdown_table

_Json = Mapping[str, Any]
_Show = Callable[[_Json], str]
MISSING = "-"
_READ = (
    "Times are from arrays on the host to logits on the host, copies included; all contenders of "
    "a model were loaded at once and took turns. p90 and p99 stand only where enough runs lie "
    "beyond them. Memory is what the process holds on the GPU for the contender, libraries' "
    "workspaces included. The share of the peak is the operations of the whole model's matrix "
    "products over the median, over the rate measured in the same run for the type of the linear "
    "layers. The difference is |logits - float32 logits| / |float32 logits| on random weights: it "
    "tells that the same model was computed, not what a trained one loses."
)


def write_report(path: Path, report: _Json) -> tuple[Path, Path]:
    """Write the tables and the picture beside the JSON file.

    Args:
        path: The JSON file.
        report: Result of ``gpu_bench``.

    Returns:
        The Markdown file and the picture.
    """
    table, picture = path.with_suffix(".md"), path.with_suffix(".svg")
    write_text(table, text(report, picture=picture.name))
    draw(picture, report)
    return table, picture


def text(report: _Json, *, picture: str | None = None) -> str:
    """Return the report as Markdown."""
    gpu = report["machine"]["gpu"]
    lines = [f"# {gpu['name']}", "", f"`{report['command']}`", ""]
    lines += [describe(dict(report["machine"])) + ".", "", f"GPU: {_gpu_line(gpu)}.", ""]
    if (after := report.get("after", {})).get("sm_clock_mhz") is not None:
        hot = _number(after["temperature_c"], 1, ".0f")
        lines += [f"After the last run: {after['sm_clock_mhz']:.0f} MHz, {hot} °C.", ""]
    if not report["complete"]:
        lines += [f"Not complete: {report['stopped'] or 'the run was ended'}.", ""]
    lines += [_READ, ""]
    if picture is not None and any(part["shapes"] for part in report["geometries"].values()):
        lines += [f"![samples per second, latency and share of the peak]({picture})", ""]
    if report["peaks"]:
        rows = [[t, f"{p['gops'] / 1e3:.1f}", p["by"]] for t, p in report["peaks"].items()]
        lines += ["## Measured peaks", "", _markdown(["type", "TFLOP/s", "by"], rows), ""]
    for name, part in report["geometries"].items():
        lines += _geometry_lines(name, part)
    lines += [f"- {note}" for note in report["notes"]]
    return "\n".join(lines).rstrip() + "\n"


def _gpu_line(gpu: _Json) -> str:
    told = [f"compute capability {'.'.join(map(str, gpu['capability']))}"]
    told += [f"{gpu['memory_bytes'] / 2**30:.0f} GiB", f"driver {gpu['driver'] or 'unknown'}"]
    told += [f"CUDA {gpu['cuda']} in PyTorch"]
    for key, words in (
        ("sm_clock_mhz", "MHz at the start"),
        ("sm_clock_most_mhz", "MHz at most"),
        ("power_limit_w", "W at most"),
    ):
        if gpu.get(key) is not None:
            told.append(f"{gpu[key]:.0f} {words}")
    return ", ".join(told)


def _geometry_lines(name: str, part: _Json) -> list[str]:
    entrants = part["entrants"]
    lines = [f"## {name}", ""]
    rows = [[e["label"], *_entrant_cells(e)] for e in entrants.values()]
    lines += [_markdown(["", "load or build, s", "difference", "left out"], rows), ""]
    done = [(key, shape) for key, shape in part["shapes"].items() if shape["done"]]
    shapes = dict(sorted(done, key=lambda pair: (pair[1]["batch"], pair[1]["tokens"])))
    for batch in sorted({shape["batch"] for shape in shapes.values()}):
        chosen = {k: s for k, s in shapes.items() if s["batch"] == batch}
        lines += [f"Batch {batch}: median ms (p90 / p99)", ""]
        lines += [_shape_table(entrants, chosen, _latency), ""]
    for title, show in (
        ("Median ms on the GPU alone, without the copies", _device),
        ("Samples per second", lambda c: f"{c['samples_per_s']:,.0f}"),
        ("GPU memory, MB", lambda c: _number(c["memory_bytes"], 1e6, ",.0f")),
        ("Share of the measured peak", lambda c: _number(c["peak_share"], 1, ".0%")),
    ):
        if shapes:
            lines += [title, "", _shape_table(entrants, shapes, show), ""]
    for key, found in part["lengths"].items():
        lines += _length_lines(key, found, entrants)
    failures = [
        f"- {entrants[entrant]['label']}, {key}: {cell['error']}"
        for key, shape in shapes.items()
        for entrant, cell in shape["cells"].items()
        if cell["error"] is not None
    ]
    return [*lines, *(["Failed:", "", *failures, ""] if failures else [])]


def _entrant_cells(entrant: _Json) -> list[str]:
    took, error = entrant.get("open_ms"), entrant.get("relative_error")
    return [
        MISSING if took is None else f"{took / 1e3:.1f}",
        MISSING if error is None else f"{error:.1e}",
        entrant.get("error") or "",
    ]


def _latency(cell: _Json) -> str:
    far = [_number(cell[f"p{p}_ms"], 1, ".3g") for p in (90, 99)]
    shown = f"{cell['p50_ms']:.3g}" if cell["p50_ms"] < 100 else f"{cell['p50_ms']:.0f}"
    return shown if far == [MISSING, MISSING] else f"{shown} ({far[0]} / {far[1]})"


def _device(cell: _Json) -> str:
    return _number(cell["device_p50_ms"], 1, ".3g")


def _shape_table(entrants: _Json, shapes: _Json, show: _Show) -> str:
    rows = []
    for name, entrant in entrants.items():
        cells = [shape["cells"].get(name) for shape in shapes.values()]
        if not any(cells):
            continue
        shown = [MISSING if c is None else "failed" if c["error"] else show(c) for c in cells]
        rows.append([entrant["label"], *shown])
    return _markdown(["", *(key.replace("x", " x ") for key in shapes)], rows)


def _length_lines(name: str, found: _Json, entrants: _Json) -> list[str]:
    work = {policy: found["padding"][policy]["work"] for policy in (ARRIVAL, BUCKETS, FIXED)}
    edges = ", ".join(map(str, found["edges"]))
    rows = []
    for key, cell in found["cells"].items():
        if cell["error"] is not None:
            rows.append([entrants[key]["label"], "failed: " + cell["error"], "", ""])
            continue
        speeds = [cell[policy]["samples_per_s"] for policy in (ARRIVAL, BUCKETS)]
        rows.append(
            [entrants[key]["label"], *(f"{s:,.0f}" for s in speeds), f"{speeds[1] / speeds[0]:.2f}"]
        )
    return [
        f"Lengths of {name}: {found['rows']} rows of {found['real_tokens'] / found['rows']:.0f} "
        f"tokens on average, {found['batch']} to a batch; samples per second as they come, padded "
        f"to the longest of the batch ({work[ARRIVAL]:.2f} of the real tokens), and in buckets up "
        f"to {edges} ({work[BUCKETS]:.2f}); all padded to {found['edges'][-1]} would be "
        f"{work[FIXED]:.2f}.",
        "",
        _markdown(["", "as they come", "in buckets", "times as fast"], rows),
        "",
    ]


def draw(path: Path, report: _Json) -> None:
    """Draw samples per second over the batch, latency over length, and shares of the peak.

    One row for each model; the same report gives the same file.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    parts = {n: p for n, p in report["geometries"].items() if _done(p)}
    figure = Figure(figsize=(15, 4.5 * max(1, len(parts))), layout="constrained")
    axes = figure.subplots(max(1, len(parts)), 3, squeeze=False)
    for row, (name, part) in zip(axes, parts.items(), strict=False):
        _draw_part(row, name, part)
    figure.suptitle(report["machine"]["gpu"]["name"], fontsize=10)
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "gpu-bench"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    write_text(path, "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n")


def _done(part: _Json) -> list[_Json]:
    return [shape for shape in part["shapes"].values() if shape["done"]]


def _draw_part(row: Sequence[Any], name: str, part: _Json) -> None:
    from matplotlib import colormaps
    from matplotlib.ticker import NullLocator, PercentFormatter

    shapes = _done(part)
    lengths = sorted({s["tokens"] for s in shapes})
    usual = lengths[len(lengths) // 2]
    batches = sorted({s["batch"] for s in shapes})
    least, most = batches[0], batches[-1]
    pictures: tuple[tuple[str, str, Callable[[_Json], bool], str], ...] = (
        ("batch", "samples_per_s", lambda s: s["tokens"] == usual, f"{usual} tokens"),
        ("tokens", "p50_ms", lambda s: s["batch"] == least, f"batch {least}"),
        ("tokens", "peak_share", lambda s: s["batch"] == most, f"batch {most}"),
    )
    words = {"samples_per_s": "samples per second", "p50_ms": "median ms", "peak_share": "of peak"}
    for ax, (across, value, fits, title) in zip(row, pictures, strict=True):
        for index, (key, entrant) in enumerate(part["entrants"].items()):
            points = sorted(
                (s[across], s["cells"][key][value])
                for s in shapes
                if fits(s) and s["cells"].get(key, {}).get(value) is not None
            )
            if points:
                colour = colormaps["tab10"](index % 10)
                ax.plot(
                    *zip(*points, strict=True), color=colour, marker="o", label=entrant["label"]
                )
        sizes = sorted({s[across] for s in shapes if fits(s)})
        ax.set(xscale="log", xlabel=across, ylabel=words[value], title=f"{name}, {title}")
        ax.set_xticks(sizes, [str(size) for size in sizes])
        ax.xaxis.set_minor_locator(NullLocator())
        if value == "peak_share":
            ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            ax.set_ylim(bottom=0)
        else:
            ax.set_yscale("log")
        ax.grid(visible=True, which="both", alpha=0.2)
    if row[0].get_legend_handles_labels()[0]:
        row[0].legend(fontsize=7)


def _number(value: float | None, unit: float, how: str) -> str:
    return MISSING if value is None else format(value / unit, how)


def _markdown(headers: list[str], rows: list[list[str]]) -> str:
    align = ["left", *["right"] * (len(headers) - 1)]
    return markdown_table(rows, headers, align)
