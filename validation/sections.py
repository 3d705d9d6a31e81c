"""What the HTML report says, as sections of tables whose cells are texts."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from albert_deploy.validation import wording
from albert_deploy.validation.details import details
from albert_deploy.validation.gate.verdicts import all_checks
from albert_deploy.validation.tables import Cell, Long, Section, Table, filled, plain, verdict
from albert_deploy.validation.wording import MISSING, compact, number

# Values of an output that a row shows.
_VALUES = 8


def sections(report: Mapping[str, Any]) -> list[Section]:
    """Return the sections below the plots that a report has something for.

    Args:
        report: As in ``validation.json``, of any version.
    """
    made = (
        _checks(report),
        _flips(report),
        _worst(report),
        _metamorphic(report),
        _stages(report),
        _blame(report),
        *details(report),
    )
    return [section for section in made if section.tables or section.lines]


def variants_table(report: Mapping[str, Any]) -> Table:
    """Return the table of the variants, the source first."""
    variants = report["variants"]
    metrics = dict.fromkeys(m for v in variants.values() for m in v.get("metrics") or {})
    columns = ["variant", "engine", "verdict"]
    for metric in metrics:
        columns += [f"#{metric}", "#difference"]
    columns += ["#agreement", "#changed", "#SQNR, dB", "#max error", "#MB", "#median ms"]
    first: dict[str, Any] = next(iter(variants.values()), {})
    rows: list[list[Cell]] = [["source", "torch", ""]]
    for metric in metrics:
        rows[0] += [number((first.get("metrics") or {}).get(metric, {}).get("source")), ""]
    rows[0] += [""] * (len(columns) - len(rows[0]))
    for name, variant in variants.items():
        row: list[Cell] = [name, plain(variant.get("engine")), verdict(variant.get("verdict"))]
        for metric in metrics:
            score = (variant.get("metrics") or {}).get(metric, {})
            row.append(_with(number(score.get("variant")), score.get("variant_interval")))
            row.append(
                _with(number(score.get("difference"), "+.2f"), score.get("interval"), "+.2f")
            )
        outputs = wording.outputs_of(variant)
        row += [
            number(variant.get("agreement"), ".2%"),
            plain(variant.get("changed_predictions")),
            wording.worst_sqnr(outputs),
            wording.worst_error(outputs),
            wording.megabytes(variant.get("bytes")),
            number(wording.latency_ms(variant)),
        ]
        rows.append(row)
    (table,) = filled(Table(caption="The source and its variants", columns=columns, rows=rows))
    return table


def command(report: Mapping[str, Any]) -> str:
    """Return the command that makes the report again."""
    if report.get("command"):
        given = report["command"]
        return given if isinstance(given, str) else shlex.join(map(str, given))
    words = ["albert-deploy", "validate", "DIR"]
    if report.get("source", {}).get("path"):
        words += ["--source", str(report["source"]["path"])]
    data = report.get("dataset", {})
    if data.get("name"):
        place = f"={data['file']}" if data.get("file") else ""
        words += ["--dataset", f"{data['name']}{place}"]
    return shlex.join(words)


def _checks(report: Mapping[str, Any]) -> Section:
    rows = [
        [
            check["variant"],
            verdict(check["verdict"]),
            Long(text=str(check.get("name") or "")),
            Long(text=str(check.get("message") or ""), wide=True),
            plain(check.get("value")),
            plain(check.get("limit")),
            plain(check.get("kind")),
        ]
        for check in all_checks(report)
    ]
    columns = ("variant", "verdict", "check", "message", "#value", "#limit", "kind")
    caption = "All checks, those that do not pass first"
    return Section(
        key="checks",
        title="Checks",
        tables=filled(Table(caption=caption, columns=columns, rows=rows)),
    )


def _flips(report: Mapping[str, Any]) -> Section:
    tables = []
    for name, variant in report["variants"].items():
        flips = variant.get("flips") or {"rows": variant.get("changed") or []}
        rows: list[list[Cell]] = [
            [
                Long(text=str(row.get("id"))),
                plain(row.get("kind")),
                Long(text=str(row.get("text") or ""), wide=True),
                Long(text=compact(row.get("label"))),
                Long(text=compact(row.get("source"))),
                Long(text=compact(row.get("variant"))),
            ]
            for row in flips.get("rows") or ()
        ]
        counts = ", ".join(
            f"{flips[kind]} {kind}" for kind in ("better", "worse", "other") if kind in flips
        )
        tables.append(
            Table(
                caption=f"{name}: {counts or f'{len(rows)} changed'}",
                columns=("row", "kind", "text", "label", "source", "variant"),
                rows=rows,
            )
        )
    note = "Rows whose prediction is not the source's: better where only the variant is right."
    return Section(key="flips", title="Flips", note=note, tables=filled(*tables))


def _worst(report: Mapping[str, Any]) -> Section:
    tables = [
        Table(
            caption=f"{name}: largest errors",
            columns=("row", "#error", "text", "source", "variant"),
            rows=[
                [
                    Long(text=str(row.get("id"))),
                    number(row.get("error"), ".2e"),
                    Long(text=str(row.get("text") or ""), wide=True),
                    _values(row.get("source")),
                    _values(row.get("variant")),
                ]
                for row in variant.get("worst_rows") or ()
            ],
        )
        for name, variant in report["variants"].items()
    ]
    note = "The rows whose outputs are farthest from the source's."
    return Section(key="worst", title="Worst rows", note=note, tables=filled(*tables))


def _metamorphic(report: Mapping[str, Any]) -> Section:
    rows: list[list[Cell]] = [
        [
            name,
            plain(row.get("check")),
            plain(row.get("output")),
            number(row.get("error"), ".2e"),
            number(row.get("tolerance"), ".2e"),
            verdict(row.get("verdict")),
        ]
        for name, variant in report["variants"].items()
        for row in variant.get("metamorphic") or ()
    ]
    return Section(
        key="metamorphic",
        title="Metamorphic checks",
        note="What must not change an answer, such as padding, must not.",
        tables=filled(
            Table(
                caption="Change of the outputs under a change that means nothing",
                columns=("variant", "check", "output", "#error", "#tolerance", "verdict"),
                rows=rows,
            )
        ),
    )


def _stages(report: Mapping[str, Any]) -> Section:
    rows = [
        [
            name,
            plain(row.get("stage")),
            plain(row.get("output")),
            wording.sqnr(row),
            number(row.get("max_abs"), ".2e"),
        ]
        for name, variant in report["variants"].items()
        for row in variant.get("stages") or ()
    ]
    return Section(
        key="stages",
        title="Error by stage",
        note="What each step from the checkpoint to the engine adds.",
        tables=filled(
            Table(
                caption="Error that each stage adds",
                columns=("variant", "stage", "output", "#SQNR, dB", "#max error"),
                rows=rows,
            )
        ),
    )


def _blame(report: Mapping[str, Any]) -> Section:
    lines = []
    for name, variant in report["variants"].items():
        blame = variant.get("blame")
        if blame:
            products = compact(blame.get("products") or []) or "none found"
            lines.append(
                f"{name}: {products} ({plain(blame.get('kept'))} of {plain(blame.get('of'))} "
                f"kept in float, found in {plain(blame.get('trials'))} trials)"
            )
    note = "The smallest set of operators that, kept in float, makes a failing variant pass."
    return Section(key="blame", title="Blame", note=note, lines=lines)


def _values(outputs: Mapping[str, Any] | None) -> Long:
    parts = []
    for name, value in (outputs or {}).items():
        shown = list(value) if isinstance(value, (list, tuple)) else [value]
        more = f" … ({len(shown)})" if len(shown) > _VALUES else ""
        parts.append(f"{name}: " + ", ".join(_short(v) for v in shown[:_VALUES]) + more)
    return Long(text="; ".join(parts) or MISSING)


def _short(value: Any) -> str:
    return number(value, ".4g") if isinstance(value, float) else compact(value)


def _with(value: str, bounds: Any, form: str = ".2f") -> str:
    return f"{value}\n{wording.interval(bounds, form)}".strip()
