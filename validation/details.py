"""The HTML report's sections for looking things up: most of them folded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from albert_deploy.validation import wording
from albert_deploy.validation.engine_tables import engines_section
from albert_deploy.validation.summary import after, columns_of, range_rows
from albert_deploy.validation.tables import Cell, Long, Section, Table, filled, plain
from albert_deploy.validation.wording import MISSING, compact, number


def details(report: Mapping[str, Any]) -> list[Section]:
    """Return parity, error trace, engines, coverage, calibration and environment."""
    return [
        _parity(report),
        _trace(report),
        engines_section(report),
        _coverage(report),
        _calibration(report),
        _environment(report),
    ]


def _parity(report: Mapping[str, Any]) -> Section:
    forms = {
        "max_abs": ".2e",
        "mean_abs": ".2e",
        "relative": ".2e",
        "cosine": ".6f",
        "kl": ".2e",
        "rank_agreement": ".4f",
        "agreement": ".2%",
    }
    rows = [
        [name, output, where, wording.sqnr(found)]
        + [number(found.get(key), form) for key, form in forms.items()]
        for name, variant in report["variants"].items()
        for key, where in (("parity", "rows"), ("grid", "edge grid"))
        for output, found in (variant.get(key) or {}).items()
    ]
    names = ("max error", "mean error", "of scale", "cosine", "KL", "rank agreement", "agreement")
    columns = ("variant", "output", "on", "#SQNR, dB", *(f"#{name}" for name in names))
    caption = "Each output against the source's"
    return Section(
        key="parity",
        title="Parity",
        tables=filled(Table(caption=caption, columns=columns, rows=rows, folded=True)),
    )


def _trace(report: Mapping[str, Any]) -> Section:
    traces = {name: v["trace"] for name, v in report["variants"].items() if v.get("trace")}
    places = dict.fromkeys(after(entry) for trace in traces.values() for entry in trace)
    found = {name: {after(e): wording.sqnr(e) for e in trace} for name, trace in traces.items()}
    rows = [[place, *(found[name].get(place, MISSING) for name in traces)] for place in places]
    columns = ("after", *(f"#{name}" for name in traces))
    count = report.get("trace_rows")
    return Section(
        key="trace",
        title="Error trace",
        note=f"The hidden state against the fp32 file's, on the first {count} rows.",
        tables=filled(Table(caption="SQNR in dB", columns=columns, rows=rows, folded=True)),
    )


def _coverage(report: Mapping[str, Any]) -> Section:
    tables = []
    for name, variant in report["variants"].items():
        weights = variant.get("weights") or ()
        keys = columns_of(weights)
        uses, converted = (sum(row.get(k) or 0 for row in weights) for k in ("uses", "converted"))
        tables.append(
            Table(
                caption=f"{name}: {len(weights)} weights, {converted} of {uses} uses converted",
                columns=list(keys.values()),
                rows=[[_weight_cell(key, row.get(key)) for key in keys] for row in weights],
                folded=True,
            )
        )
    note = "Every weight, and why one that was left in float was."
    return Section(key="coverage", title="Coverage", note=note, tables=filled(*tables))


def _weight_cell(key: str, value: Any) -> Cell:
    if key in ("weight", "real_inputs", "reason"):
        return Long(text=compact(value or ""), wide=bool(value))
    return plain(value)


def _calibration(report: Mapping[str, Any]) -> Section:
    tables, lines = [], []
    for name, variant in report["variants"].items():
        record = variant.get("calibration")
        if not record:
            continue
        where = wording.origin(record.get("dataset") or {}).replace("`", "")
        lines.append(f"{name}: {plain(record.get('rows'))} rows of {where}.")
        rows = [list(row.values()) for row in range_rows(record)]
        columns = ("activation", "#peak", "#range", "#clipped")
        caption = f"{name}: {len(rows)} ranges"
        tables.append(Table(caption=caption, columns=columns, rows=rows, folded=True))
    return Section(key="calibration", title="Calibration", tables=filled(*tables), lines=lines)


def _environment(report: Mapping[str, Any]) -> Section:
    environment = report.get("environment") or {}
    pairs = {"python": environment.get("python")} | (environment.get("machine") or {})
    files = [["source", *_file(report.get("source") or {}, "path")]]
    files.append(["data", *_file(report.get("dataset") or {}, "file")])
    files += [[name, *_file(variant, "file")] for name, variant in report["variants"].items()]
    return Section(
        key="environment",
        title="Environment and hashes",
        tables=filled(
            Table(caption="Files", columns=("what", "file", "SHA-256", "#bytes"), rows=files),
            _pairs("Machine", {k: v for k, v in pairs.items() if v is not None}),
            _pairs("Packages", environment.get("packages")),
            _pairs("Policy of the gate", report.get("policy")),
            _pairs("Baseline", report.get("baseline")),
        ),
    )


def _file(record: Mapping[str, Any], key: str) -> list[Cell]:
    size = record.get("bytes")
    return [
        Long(text=plain(record.get(key))),
        Long(text=plain(record.get("sha256")), wide=True),
        f"{size:,}" if isinstance(size, int) else MISSING,
    ]


def _pairs(caption: str, values: Mapping[str, Any] | None) -> Table:
    rows = [
        [Long(text=str(key)), Long(text=compact(value))] for key, value in (values or {}).items()
    ]
    return Table(caption=caption, columns=("name", "value"), rows=rows, folded=True)
