"""The reports of a validation: JSON for machines, tables and pictures for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from albert_deploy.runtime.manifest import write_json, write_text
from albert_deploy.validation.evaluate import Evidence
from albert_deploy.validation.pictures import PICTURES, scores, write_pictures

REPORTS = "reports"
_JSON, _SUMMARY = "validation.json", "summary.md"
# What a validation may write, as paths in the deployment directory.
FILES = tuple(f"{REPORTS}/{name}" for name in (_JSON, _SUMMARY, *PICTURES))
_COLUMNS = (
    "variant",
    "engine",
    "MB",
    "score",
    "agreement",
    "changed",
    "SQNR dB",
    "max error",
    "verdict",
)
# Key of a coverage row -> its column; of the second group only those that some row fills.
_WEIGHTS = {"weight": "weight", "uses": "uses", "converted": "converted", "dtype": "data type"}
_DETAILS = {
    "granularity": "granularity",
    "scales": "scales",
    "integer_inputs": "rounded activations",
    "real_inputs": "activations left real",
    "reason": "reason",
}
_RANGES = {"label": "activation", "peak": "peak", "range": "range", "clipped": "clipped"}


def write_reports(directory: Path, report: dict[str, Any], evidence: Evidence) -> list[Path]:
    """Write ``validation.json``, ``summary.md`` and the pictures; return the paths written."""
    folder = directory / REPORTS
    write_json(folder / _JSON, report)
    # What the search for products to keep real has left, its table and picture.
    searches = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("search*.md"))]
    write_text(folder / _SUMMARY, "\n\n".join([summary(report), *searches]))
    pictures = write_pictures(folder, report, evidence.errors)
    return [folder / _JSON, folder / _SUMMARY, *pictures]


def summary(report: dict[str, Any]) -> str:
    """Return the verdict as Markdown that also reads well in a terminal."""
    data = report["dataset"]
    if data["labelled"]:
        on = f"{data['name']}, {data['rows']} rows"
    else:
        on = f"{data['rows']} texts without labels (no --dataset: no score was measured)"
    source = report["source"]
    lines = [
        f"# {report['task']}: {report['verdict']}",
        "",
        f"Source: `{source['path']}`, weights `{source['sha256'][:12]}`. Data: {on}; "
        f"edge grid of {report['grid_cases']} cases.",
        "",
        table(report),
        "",
    ]
    for name, variant in report["variants"].items():
        lines += [f"- {name}: {breach['message']}" for breach in variant["breaches"]]
    lines += [
        "",
        "Score: of the data set, for the source and each variant. Agreement: share of rows with",
        "the source's prediction. SQNR and max error (relative to the output's scale): the worst",
        "output, on rows and grid together. Engine: what ran the file here.",
        "",
        *_trace(report),
        *_coverage(report),
        *_calibration(report),
    ]
    return "\n".join(lines)


def table(report: dict[str, Any]) -> str:
    """Return the variants as a table in GitHub's Markdown."""
    variants = report["variants"]
    first = next(iter(variants.values()))
    rows = [["source", "torch", "", scores(first["metrics"], "source"), "", "", "", "", ""]]
    for name, variant in variants.items():
        outputs = [*variant["parity"].values(), *variant["grid"].values()]
        rows.append(
            [
                name,
                variant["engine"],
                f"{variant['bytes'] / 1e6:.2f}",
                scores(variant["metrics"], "variant"),
                "" if variant["agreement"] is None else f"{variant['agreement']:.2%}",
                "" if variant["changed_predictions"] is None else variant["changed_predictions"],
                _worst_sqnr(outputs),
                _worst_error(outputs),
                variant["verdict"],
            ]
        )
    return _markdown(rows, _COLUMNS)


def trace_table(report: dict[str, Any]) -> str:
    """Return the error trace in GitHub's Markdown: SQNR in dB, a column for each variant."""
    traces = {name: v["trace"] for name, v in report["variants"].items() if v.get("trace")}
    rows = [
        [_after(same[0]), *(_ratio(entry) for entry in same)]
        for same in zip(*traces.values(), strict=True)
    ]
    return _markdown(rows, ("SQNR in dB after", *traces))


def _trace(report: dict[str, Any]) -> list[str]:
    if not any(variant.get("trace") for variant in report["variants"].values()):
        return []
    return [
        "## Error trace",
        "",
        f"The hidden state against that of the fp32 file, on the first {report['trace_rows']} rows "
        "(not padded).",
        "",
        trace_table(report),
        "",
        "![error trace](trace.svg)",
        "",
    ]


def _coverage(report: dict[str, Any]) -> list[str]:
    lines = []
    for name, variant in report["variants"].items():
        rows = variant.get("weights")
        if rows:
            uses, converted = (sum(row[key] for row in rows) for key in ("uses", "converted"))
            title = f"{name}: {len(rows)} weights, {converted} of {uses} uses converted"
            details = {k: v for k, v in _DETAILS.items() if any(row.get(k) for row in rows)}
            lines += _folded(title, _columns(rows, _WEIGHTS | details))
    return ["## Coverage", "", *lines] if lines else []


def _calibration(report: dict[str, Any]) -> list[str]:
    lines, ranged = [], False
    for name, variant in report["variants"].items():
        record = variant.get("calibration")
        if not record:
            continue
        rule = f", ranges by {record['rule']}" if record.get("rule") else ""
        kept = f", statistics in `{record['file']}`" if record.get("file") else ""
        lines += [f"{name}: {record['rows']} rows of {_origin(record['dataset'])}{rule}{kept}.", ""]
        ranges = [
            row
            | {key: f"{row[key]:.4g}" for key in ("peak", "range")}
            | {"clipped": f"{row['clipped']:.3%}"}
            for row in record.get("ranges") or ()
        ]
        if ranges:
            ranged = True
            lines += _folded(f"{name}: {len(ranges)} ranges", _columns(ranges, _RANGES))
    if ranged:
        lines += [
            "Peak: largest magnitude seen. Range: largest that is not clipped. Clipped: share of",
            "the values seen that lie outside.",
            "",
            "![calibrated ranges](ranges.svg)",
            "",
        ]
    return ["## Calibration", "", *lines] if lines else []


def _origin(dataset: Mapping[str, Any]) -> str:
    """Return where calibration rows came from: as much as the manifest says."""
    words = [str(dataset.get("name") or "unnamed data")]
    if dataset.get("file"):
        words.append(f"`{dataset['file']}`")
    if dataset.get("sha256"):
        words.append(f"(sha256 `{dataset['sha256'][:12]}`)")
    return " ".join(words)


def _folded(title: str, text: str) -> list[str]:
    """Return a block that GitHub shows closed, with only its title."""
    return ["<details>", f"<summary>{title}</summary>", "", text, "", "</details>", ""]


def _columns(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    return _markdown([[_cell(row.get(k)) for k in columns] for row in rows], [*columns.values()])


def _cell(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "; ".join(map(str, value))
    return "" if value is None else str(value)


def _markdown(rows: Sequence[Sequence[Any]], headers: Sequence[str]) -> str:
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def _after(entry: Mapping[str, Any]) -> str:
    # A head that reads no other token has no other one computed in the last iteration.
    return str(entry["after"]) + (", first token" if entry["tokens"] == "first" else "")


def _ratio(entry: Mapping[str, Any]) -> str:
    if not entry["finite"]:
        return "not finite"
    return "exact" if entry["sqnr_db"] is None else f"{entry['sqnr_db']:.1f}"


def _worst_sqnr(outputs: list[dict[str, Any]]) -> str:
    if not all(o["finite"] for o in outputs):
        return "not finite"
    values = [o["sqnr_db"] for o in outputs if o["sqnr_db"] is not None]
    return f"{min(values):.1f}" if values else "exact"


def _worst_error(outputs: list[dict[str, Any]]) -> str:
    if not all(o["finite"] for o in outputs):
        return "not finite"
    return f"{max(o['relative'] for o in outputs):.1e}"
