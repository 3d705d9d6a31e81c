"""What the HTML report says, as sections of tables whose cells are texts."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from albert_deploy.validation.gate.verdicts import all_checks
from albert_deploy.validation.report import wording
from albert_deploy.validation.report.wording import MISSING, compact, number

# Key of a coverage row -> its column; of the second group only those that some row fills.
WEIGHTS = {"weight": "weight", "uses": "uses", "converted": "converted", "dtype": "data type"}
DETAILS = {
    "granularity": "granularity",
    "scales": "scales",
    "integer_inputs": "rounded activations",
    "real_inputs": "activations left real",
    "reason": "reason",
}


@dataclass(frozen=True, kw_only=True)
class Long:
    """A cell with a text of any length, from anywhere: cut, in its own direction.

    A ``wide`` one is prose, whose column is not squeezed.
    """

    text: str
    wide: bool = False


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A cell with a verdict."""

    text: str


Cell = str | Long | Verdict


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table; ``columns`` that start with ``#`` hold numbers and are set flush right."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    folded: bool = False


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading with a note and tables below; one without tables and lines is left out."""

    key: str
    title: str
    note: str = ""
    tables: Sequence[Table] = ()
    lines: Sequence[str] = ()


def plain(value: Any) -> str:
    """Return a cell with any value in one line."""
    return compact(value)


def verdict(value: Any) -> Verdict:
    """Return a cell with a verdict."""
    return Verdict(text=plain(value))


def filled(*tables: Table) -> list[Table]:
    """Return the tables that have rows, without the columns in which no row has anything."""
    return [_without_empty(table) for table in tables if table.rows]


def _without_empty(table: Table) -> Table:
    kept = [
        i
        for i in range(len(table.columns))
        if i == 0 or any(_text(row[i]) not in ("", MISSING) for row in table.rows)
    ]
    rows = [[row[i] for i in kept] for row in table.rows]
    return replace(table, columns=[table.columns[i] for i in kept], rows=rows)


def _text(cell: Cell) -> str:
    return cell if isinstance(cell, str) else cell.text


COLUMNS = ("engine", "verdict", "built by", "MB", "weights, MB", "proofs")


def engine_rows(report: Mapping[str, Any]) -> list[list[str]]:
    """Return a row of ``COLUMNS`` for each engine."""
    engines: Mapping[str, Any] = report.get("engines") or {}
    rows = []
    for name, engine in engines.items():
        proofs = [f"{p['name']}: {p['status']}" for p in engine.get("proofs") or ()]
        rows.append(
            [
                name,
                plain(engine.get("verdict")),
                f"{engine.get('flavour')} {engine.get('version')}",
                wording.megabytes(engine.get("bytes")),
                wording.megabytes(engine.get("weights_bytes")),
                ", ".join(proofs),
            ]
        )
    return rows


def engines_section(report: Mapping[str, Any]) -> Section:
    """Return the HTML report's section on engines and their proofs."""
    engines: Mapping[str, Any] = report.get("engines") or {}
    rows: list[list[Cell]] = [
        [
            name,
            verdict(engine.get("verdict")),
            plain(engine.get("target")),
            f"{plain(engine.get('flavour'))} {plain(engine.get('version'))}",
            wording.megabytes(engine.get("bytes")),
            wording.megabytes(engine.get("weights_bytes")),
            wording.megabytes(engine.get("scratch_bytes")),
            number(engine.get("build_ms"), ",.0f"),
        ]
        for name, engine in engines.items()
    ]
    proofs: list[list[Cell]] = [
        [
            name,
            proof["name"],
            proof["status"],
            Long(text=proof["found"]),
            Long(text=proof["wanted"]),
        ]
        for name, engine in engines.items()
        for proof in engine.get("proofs") or ()
    ]
    columns = ("engine", "verdict", "target", "built by", "#MB", "#weights, MB", "#scratch, MB")
    return Section(
        key="engines",
        title="Engines",
        note="What was proven when they were built; what needs the GPU itself is not proven.",
        tables=filled(
            Table(caption="TensorRT plans", columns=(*columns, "#build, ms"), rows=rows),
            Table(
                caption="Proofs",
                columns=("engine", "proof", "status", "found", "wanted"),
                rows=proofs,
                folded=True,
            ),
        ),
    )


def after(entry: Mapping[str, Any]) -> str:
    """Return the place of a trace's entry."""
    # A head that reads no other token has no other one computed in the last iteration.
    return str(entry.get("after")) + (", first token" if entry.get("tokens") == "first" else "")


def columns_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return key -> column of a table of weights: what every table has, and what some row says."""
    return WEIGHTS | {k: v for k, v in DETAILS.items() if any(row.get(k) for row in rows)}


def range_rows(record: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the calibrated ranges of a variant as texts."""
    forms = {"peak": ".4g", "range": ".4g", "clipped": ".3%"}
    return [
        {"label": str(row.get("label"))}
        | {k: wording.number(row.get(k), f) for k, f in forms.items()}
        for row in record.get("ranges") or ()
    ]


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
