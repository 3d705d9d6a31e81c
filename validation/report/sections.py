"""What a report says, as one list of sections that every form of it is written from."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from albert_deploy.validation.gate.verdicts import PASS, all_checks
from albert_deploy.validation.report import details, wording
from albert_deploy.validation.report.pictures import Picture, missing_plots
from albert_deploy.validation.report.tables import Column, Section, Table, filled, record_table
from albert_deploy.validation.report.wording import MISSING, compact, number

# What metrics are called where there is little room.
_SHORT = {"accuracy": "acc", "exact_match": "EM", "f1": "F1"}
# Values of an output that a row shows.
_VALUES = 8


def sections(
    report: Mapping[str, Any], pictures: Mapping[str, Picture] | None = None
) -> list[Section]:
    """Return the sections that a report has something for, in their order.

    Args:
        report: As in ``validation.json``.
        pictures: Result of ``draw_pictures``; None for a report without any.
    """
    made = (
        variants(report),
        _plots(pictures),
        _checks(report),
        _flips(report),
        _worst(report),
        details.metamorphic(report),
        details.stages(report),
        details.blame(report),
        details.parity(report),
        details.trace(report),
        details.engines(report),
        details.coverage(report),
        details.calibration(report),
        details.environment(report),
    )
    found = [replace(section, tables=filled(section.tables)) for section in made]
    return [section for section in found if section.notes or section.pictures or section.tables]


def facts(report: Mapping[str, Any]) -> dict[str, str]:
    """Return what was judged on what: a few names with their values."""
    source, data = report["source"], report["dataset"]
    if data["labelled"]:
        on = f"{data['name']}, {data['rows']} rows"
    else:
        on = f"{data['rows']} texts without labels (no --dataset): no score was measured"
    on += f", {data['skipped']} skipped" if data.get("skipped") else ""
    on += f", revision {data['revision']}" if data.get("revision") else ""
    found = {
        "Source": source["path"],
        "Weights": source["sha256"][:16],
        "Data": on,
        "Edge grid": f"{report['grid_cases']} cases",
    }
    return found | ({"Time": report["time"]} if report.get("time") else {})


def command(report: Mapping[str, Any]) -> str:
    """Return the command that makes the report again."""
    given = report.get("command")
    if given:
        return given if isinstance(given, str) else shlex.join(map(str, given))
    words = ["albert-deploy", "validate", "DIR", "--source", report["source"]["path"]]
    data = report["dataset"]
    if data["name"]:
        place = f"={data['file']}" if data.get("file") else ""
        words += ["--dataset", f"{data['name']}{place}"]
    return shlex.join(words)


def variants(report: Mapping[str, Any], *, brief: bool = False) -> Section:
    """Return the section with the source and its variants in one table.

    Args:
        report: As in ``validation.json``.
        brief: For a terminal: short names of metrics, and intervals of the differences alone.
    """
    judged = report["variants"]
    metrics = list(dict.fromkeys(metric for v in judged.values() for metric in v["metrics"]))
    first: dict[str, Any] = next((v["metrics"] for v in judged.values()), {})
    columns = ["variant", "engine", "verdict"]
    for metric in metrics:
        name = _SHORT.get(metric, metric) if brief else metric
        columns += [f"#{name}", f"#{name} difference"]
    columns += ["#agreement", "#changed", "#SQNR, dB", "#max error", "#MB", "#median ms"]
    source = ["source", "torch", ""]
    source += [text for m in metrics for text in (number(first.get(m, {}).get("source")), "")]
    rows = [source + [""] * (len(columns) - len(source))]
    for name, variant in judged.items():
        row = [name, compact(variant.get("engine")), compact(variant["verdict"])]
        for metric in metrics:
            score = variant["metrics"].get(metric, {})
            around = None if brief else score.get("variant_interval")
            row.append(_between(score.get("variant"), around, ".2f"))
            row.append(_between(score.get("difference"), score.get("interval"), "+.2f"))
        outputs = wording.outputs_of(variant)
        row += [
            number(variant["agreement"], ".2%"),
            compact(variant["changed_predictions"]),
            wording.worst_sqnr(outputs),
            wording.worst_error(outputs),
            wording.megabytes(variant["bytes"]),
            number(wording.latency_ms(variant)),
        ]
        rows.append(row)
    return Section(
        key="variants",
        title="Variants",
        lead="Difference: points against the source. Brackets: confidence interval. Agreement: "
        "share of rows with the source's prediction. SQNR and max error (of the output's scale): "
        "the worst output, on rows and grid together. Engine: what ran the file here.",
        tables=filled([Table(caption="The source and its variants", columns=columns, rows=rows)]),
    )


def _plots(pictures: Mapping[str, Picture] | None) -> Section:
    notes = [missing_plots()] if pictures is not None and missing_plots() else []
    return Section(key="plots", title="Plots", notes=notes, pictures=pictures)


def _checks(report: Mapping[str, Any]) -> Section:
    columns: list[Column] = [
        "variant",
        "verdict",
        ("check", "name"),
        "message",
        "#value",
        "#limit",
        "kind",
    ]
    checks = all_checks(report)
    bad = [check for check in checks if check["verdict"] != PASS]
    good = [check for check in checks if check["verdict"] == PASS]
    return Section(
        key="checks",
        title="Checks",
        tables=[
            record_table("Those that do not pass", columns, bad),
            record_table(f"{len(good)} that pass", columns, good, folded=True),
        ],
    )


def _flips(report: Mapping[str, Any]) -> Section:
    columns = ["id", "kind", "text", "label", "source", "variant"]
    tables = []
    for name, variant in report["variants"].items():
        if flips := variant.get("flips"):
            counts = ", ".join(f"{flips[kind]} {kind}" for kind in ("better", "worse", "other"))
            tables.append(record_table(f"{name}: {counts}", columns, flips["rows"]))
    return Section(
        key="flips",
        title="Flips",
        lead="Rows whose prediction is not the source's: better where only the variant is right.",
        tables=tables,
        in_summary=False,
    )


def _worst(report: Mapping[str, Any]) -> Section:
    columns: list[Column] = ["id", ("#error", "error", ".2e"), "text", "source", "variant"]
    tables = []
    for name, variant in report["variants"].items():
        rows = [
            row | {which: _values(row[which]) for which in ("source", "variant")}
            for row in variant.get("worst_rows") or ()
        ]
        tables.append(record_table(f"{name}: largest errors", columns, rows))
    return Section(
        key="worst",
        title="Worst rows",
        lead="The rows whose outputs are farthest from the source's.",
        tables=tables,
        in_summary=False,
    )


def _values(outputs: Mapping[str, Any] | None) -> str:
    """Return the first values of each output."""
    parts = []
    for name, value in (outputs or {}).items():
        values = value if isinstance(value, list) else [value]
        more = f" … ({len(values)})" if len(values) > _VALUES else ""
        shown = (number(v, ".4g") if isinstance(v, float) else compact(v) for v in values[:_VALUES])
        parts.append(f"{name}: {', '.join(shown)}{more}")
    return "; ".join(parts) or MISSING


def _between(value: float | None, bounds: Sequence[float] | None, form: str) -> str:
    """Return a number with its interval, if it has one."""
    return f"{number(value, form)}\n{wording.interval(bounds, form)}".strip()
