"""The bench's results as tables for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from albert_deploy.validation.bench.machine import describe
from albert_deploy.validation.tables import markdown_table

MISSING = "-"
_STATISTICS = {"median": "median", "min": "minimum"}
_Json = Mapping[str, Any]
_Show = Callable[[_Json], str | None]


def title(report: _Json) -> str:
    """Return what was measured on what, in a line."""
    machine = report["machine"]
    return f"{report['source']['path']} on {machine.get('gpu', {}).get('name') or machine['cpu']}"


def text(report: _Json) -> str:
    """Return the machine, the tables of each run, and what to know about them."""
    batches = ", ".join(map(str, report["settings"]["batches"]))
    lines = [
        f"{report['source']['path']} ({report['task']}), batch {batches}",
        describe(report["machine"]),
    ]
    if (after := report.get("after", {})).get("sm_clock_mhz") is not None:
        hot = _number(after["temperature_c"], ".0f")
        lines.append(f"after the last run: {after['sm_clock_mhz']:.0f} MHz, {hot} °C")
    if not report["complete"]:
        lines.append("Not complete: the run was ended; the same command goes on where it was.")
    lines += [_texts_line(c) for c in report["columns"].values() if len(c["tokens"]) > 1]
    for run in report["runs"]:
        lines += ["", *_run_lines(report, run)]
    lines += [*report["notes"], *_explained(report)]
    return "\n".join(lines)


def _texts_line(column: _Json) -> str:
    if column["batch"] == 1:
        shortest, longest = column["tokens"][0], column["tokens"][-1]
        texts = f"mean of {len(column['tokens'])} texts of {shortest} to {longest} tokens"
        return f"{column['label']}: {texts}"
    mean = column["real_tokens"] / column["texts"]
    line = (
        f"{column['label']}: {column['texts']} texts of {mean:.0f} tokens on average, "
        f"{column['batch']} to a batch; {column['padding']:.2f} of the real tokens are computed"
    )
    if column["edges"]:
        fixed = column["texts"] * column["edges"][-1] / column["real_tokens"]
        line += f", all padded to {column['edges'][-1]} would be {fixed:.2f}; buckets end at "
        line += ", ".join(map(str, column["edges"]))
    return line


def _run_lines(report: _Json, run: _Json) -> list[str]:
    lines = []
    heading = run_title(report, run)
    if report["baseline"] is not None:
        base = report["contenders"][report["baseline"]]["label"]
        for which, word in _STATISTICS.items():
            lines += [f"{heading}: {word} ms, and times as fast as {base} / as the best peer", ""]
            lines += tables(report, run, which)
    if run["best_peer"]:
        best = (
            f"{_column_label(report, column)}: {report['contenders'][name]['label']}"
            for column, name in run["best_peer"].items()
        )
        lines += [f"best peer at {'; '.join(best)}", ""]
    for what, show in _MORE:
        if batched(report) and (found := grid(report, run, show)):
            lines += [f"{heading}: {what}", "", *found]
    if run["peaks"]:
        measured = ", ".join(
            f"{data_type} {peak['gops']:.0f} ({peak['by']})"
            for data_type, peak in run["peaks"].items()
        )
        lines += [
            f"{heading}: GOPS of the matrix products, and % of the peak of their data type",
            f"peaks measured in this run, GOPS: {measured}",
            "",
            *grid(report, run, _share, ("peak", lambda c, _: c["data_type"])),
        ]
    for name, row in run["contenders"].items():
        for column, cell in row["latency"].items():
            if cell["error"] is not None:
                words = report["contenders"][name]["label"], _column_label(report, column)
                lines.append(f"failed: {words[0]}, {words[1]}: {cell['error']}")
    return lines


def run_title(report: _Json, run: _Json) -> str:
    """Return what a run was on, and of how many rounds."""
    if "gpu" in report["machine"]:
        on = "GPU"
    else:
        count = run["threads"] or report["machine"]["cores"]
        on = f"{count} thread{'s' if count > 1 else ''}"
    rounds = [
        len(cell["times_ms"])
        for row in run["contenders"].values()
        for cell in row["latency"].values()
        if cell["error"] is None
    ]
    least, most = min(rounds, default=0), max(rounds, default=0)
    return f"{on}, {least if least == most else f'{least} to {most}'} interleaved rounds"


def batched(report: _Json) -> bool:
    """Tell whether more than batch 1 was measured."""
    return any(column["batch"] > 1 for column in report["columns"].values())


def tables(report: _Json, run: _Json, which: str = "median") -> list[str]:
    """Return for each batch a table of one row per contender in GitHub's Markdown, as lines.

    Args:
        report: Result of ``bench.bench``.
        run: An entry of its ``runs``.
        which: ``median`` or ``min``.
    """

    def show(cell: _Json) -> str:
        ratios = [cell[f"ratio_{which}"], cell[f"peer_ratio_{which}"]]
        shown = " / ".join(f"{ratio:.2f}x" for ratio in ratios if ratio is not None)
        return (
            f"{_digits(cell[f'{which}_ms'])} ({shown})" if shown else _digits(cell[f"{which}_ms"])
        )

    extra: list[_Extra] = [
        ("MB", lambda c, _: MISSING if c["bytes"] is None else f"{c['bytes'] / 1e6:.2f}"),
        ("load ms", lambda _, row: _digits(row["load_ms"])),
    ]
    if any("difference" in row for row in run["contenders"].values()):
        extra.append(("difference", lambda _, row: _number(row.get("difference"), ".1e")))
    return grid(report, run, show, *extra)


_Extra = tuple[str, Callable[[_Json, _Json], str]]


def grid(report: _Json, run: _Json, show: _Show, *extra: _Extra) -> list[str]:
    """Return tables of contenders and columns, one for each batch, as lines; none if all is empty.

    Args:
        report: Result of ``bench.bench``.
        run: An entry of its ``runs``.
        show: What is shown of a cell; None where there is nothing to say.
        extra: Columns before those: header, and what is shown of a contender and of its row.
    """
    lines: list[str] = []
    for batch in sorted({column["batch"] for column in report["columns"].values()}):
        columns = {n: c for n, c in report["columns"].items() if c["batch"] == batch}
        rows, told = [], False
        for name, row in run["contenders"].items():
            cells = []
            for column in columns:
                cell = row["latency"].get(column)
                shown = None if cell is None else "failed" if cell["error"] else show(cell)
                told = told or shown is not None
                cells.append(MISSING if shown is None else shown)
            contender = report["contenders"][name]
            rows.append([contender["label"], *(of(contender, row) for _, of in extra), *cells])
        if not told:
            continue
        first = f"batch {batch}" if batched(report) else ""
        headers = [first, *(head for head, _ in extra), *(c["label"] for c in columns.values())]
        lines += [_markdown(headers, rows), ""]
    return lines


def _share(cell: _Json) -> str | None:
    if cell["peak_share"] is None:
        return None
    return f"{cell['gops']:.0f} ({cell['peak_share']:.0%})"


def _far(cell: _Json) -> str | None:
    shown = [_number(cell[f"p{p}_ms"], ".3g") for p in (90, 99)]
    return None if shown == [MISSING, MISSING] else " / ".join(shown)


def _scaled(key: str, unit: float, how: str) -> _Show:
    return lambda cell: None if cell[key] is None else format(cell[key] / unit, how)


# Told where batches were measured.
_MORE: tuple[tuple[str, _Show], ...] = (
    ("90th / 99th percentile, ms", _far),
    ("median ms on the device alone, without copies", _scaled("device_median_ms", 1, ".3g")),
    ("texts per second", _scaled("samples_per_s", 1, ",.0f")),
    ("memory on the device, MB", _scaled("memory_bytes", 1e6, ",.0f")),
)


def _explained(report: _Json) -> list[str]:
    lines = [
        "ORT: ONNX Runtime, quantize_dynamic its own INT8. fp32 is the exported graph without a "
        "quantizer, which is a peer of the other variants. bf16: OpenVINO runs in it what a file "
        "leaves in float32.",
        "load: median ms from file to session, without imports; of a variant with its SHA-256 "
        "check. torch.compile: the one compilation and its first runs.",
    ]
    if "gpu" in report["machine"]:
        lines = [
            "Times are from arrays on the host to logits on the host, copies included. Memory is "
            "what the process holds on the GPU for the contender, libraries' workspaces included. "
            "difference: |logits - float32 logits| / |float32 logits| on random token ids; it "
            "tells that the same model was computed. load: of TensorRT with its build."
        ]
    if "torch" in report["contenders"]:
        lines.append("torch: MB of its unique float32 parameters.")
    return lines


def _column_label(report: _Json, name: str) -> str:
    column = report["columns"][name]
    label: str = column["label"]
    return f"{label}, batch {column['batch']}" if batched(report) else label


def _markdown(headers: list[str], rows: list[list[str]]) -> str:
    return markdown_table(rows, headers, ["left", *["right"] * (len(headers) - 1)])


def _number(value: float | None, how: str) -> str:
    return MISSING if value is None else format(value, how)


def _digits(ms: float) -> str:
    return f"{ms:.0f}" if ms >= 100 else f"{ms:.1f}" if ms >= 10 else f"{ms:.2f}"
