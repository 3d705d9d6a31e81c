"""A report as Markdown: for a terminal, a pull-request comment and a CI job's summary."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from albert_deploy.validation.gate.verdicts import PASS, advice, all_checks, reason
from albert_deploy.validation.report import wording
from albert_deploy.validation.report.sections import COLUMNS as ENGINE_COLUMNS
from albert_deploy.validation.report.sections import after, columns_of, engine_rows, range_rows
from albert_deploy.validation.report.wording import MISSING
from albert_deploy.validation.tables import markdown_table

# GitHub takes a comment of 65,536 characters; counted in bytes, so that any way of counting fits.
COMMENT_BYTES = 65_536
_CUT = "*Cut here: the whole is in `report.html` and `validation.json`.*"
_COLUMNS = ("variant", "engine", "MB", "score", "agreement", "changed", "SQNR dB", "max error")
_RANGES = {"label": "activation", "peak": "peak", "range": "range", "clipped": "clipped"}
# Checks that do not pass and are listed open; the rest is in the other reports.
_LISTED = 40


@dataclass(frozen=True, kw_only=True)
class _Folded:
    """A block that GitHub shows closed, with only its title."""

    title: str
    text: str

    def __str__(self) -> str:
        # GitHub reads Markdown inside of HTML only after an empty line.
        return f"<details>\n<summary>{self.title}</summary>\n\n{self.text}\n\n</details>\n"


def summary(
    report: Mapping[str, Any],
    *,
    pictures: bool = True,
    more: Sequence[str] = (),
    limit: int = COMMENT_BYTES,
) -> str:
    """Return the report as Markdown that also reads well in a terminal.

    Args:
        report: As in ``validation.json``, of any version.
        pictures: Link the pictures beside it; a comment or a job's summary cannot show them.
        more: Further sections, such as that of a search.
        limit: Most bytes; folded tables are cut first, the largest before the others.
    """
    report = wording.present(report)
    data, source = report.get("dataset", {}), report.get("source", {})
    if data.get("labelled"):
        on = f"{data.get('name')}, {data.get('rows')} rows"
    else:
        rows = data.get("rows")
        on = f"{rows} texts without labels (no --dataset: no score was measured)"
    parts: list[str | _Folded] = [
        f"# {escaped(report.get('task'))}: {escaped(report.get('verdict'))}",
        "",
        f"Source: `{source.get('path')}`, weights `{(source.get('sha256') or 'unknown')[:12]}`. "
        f"Data: {on}; edge grid of {report.get('grid_cases')} cases.",
        "",
        table(report),
        "",
        *_checks(report),
        "",
        "Score: of the data set, for the source and each variant. Agreement: share of rows with",
        "the source's prediction. SQNR and max error (relative to the output's scale): the worst",
        "output, on rows and grid together. Engine: what ran the file here.",
        "",
        *_trace(report, pictures=pictures),
        *_engines(report),
        *_coverage(report),
        *_calibration(report, pictures=pictures),
        *(f"{text}\n" for text in more),
    ]
    return _fitted(parts, limit)


def table(report: Mapping[str, Any]) -> str:
    """Return the variants as a table in GitHub's Markdown."""
    variants = wording.present(report["variants"])
    changes = any(wording.differences(v.get("metrics")) for v in variants.values())
    timed = any(wording.latency_ms(v) is not None for v in variants.values())
    first: dict[str, Any] = next(iter(variants.values()), {})
    columns = [*_COLUMNS[:4], *["difference"] * changes, *_COLUMNS[4:], *["median ms"] * timed]
    width = len(columns) + 1
    rows = [["source", "torch", "", wording.scores(first.get("metrics"), "source")]]
    rows[0] += [""] * (width - len(rows[0]))
    for name, variant in variants.items():
        outputs = wording.outputs_of(variant)
        cells = [
            name,
            variant.get("engine") or MISSING,
            wording.megabytes(variant.get("bytes")),
            wording.scores(variant.get("metrics"), "variant"),
            *[wording.differences(variant.get("metrics"))] * changes,
            _known(variant.get("agreement"), ".2%"),
            _known(variant.get("changed_predictions"), ""),
            wording.worst_sqnr(outputs),
            wording.worst_error(outputs),
            *[wording.number(wording.latency_ms(variant))] * timed,
            variant.get("verdict"),
        ]
        rows.append(cells)
    return markdown(rows, [*columns, "verdict"])


def trace_table(report: Mapping[str, Any]) -> str:
    """Return the error trace in GitHub's Markdown: SQNR in dB, a column for each variant."""
    traces = {name: v["trace"] for name, v in report["variants"].items() if v.get("trace")}
    rows = [
        [after(same[0]), *(wording.sqnr(entry) for entry in same)]
        for same in zip(*traces.values(), strict=False)
    ]
    return markdown(rows, ("SQNR in dB after", *traces))


def markdown(rows: Sequence[Sequence[Any]], headers: Sequence[str]) -> str:
    """Return a table in GitHub's Markdown."""
    safe = [[escaped(cell) for cell in row] for row in rows]
    return markdown_table(safe, headers)


def escaped(value: object) -> str:
    """Return a text that stays in its cell, and neither starts HTML nor names somebody."""
    text = " ".join(wording.printable(value).split())
    for sign, safe in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("@", "&#64;")):
        text = text.replace(sign, safe)
    return text.replace("](", "]\\(")


def _checks(report: Mapping[str, Any]) -> list[str]:
    """Return why it does not pass, what to do and every check that does not hold."""
    bad = [check for check in all_checks(report) if check["verdict"] != PASS]
    if not bad and report.get("verdict") == PASS:
        return []
    lines = [f"**{escaped(reason(report))}**", ""]
    lines += [f"> {text}" for text in advice(report)]
    lines += [""]
    for check in bad[:_LISTED]:
        message = escaped(check.get("message") or check.get("name"))
        lines.append(f"- {check['variant']}: {message} ({check['verdict']})")
    if len(bad) > _LISTED:
        lines.append(f"- and {len(bad) - _LISTED} more, see `report.html`")
    return lines


def _trace(report: Mapping[str, Any], *, pictures: bool) -> list[str | _Folded]:
    if not any(variant.get("trace") for variant in report["variants"].values()):
        return []
    return [
        "## Error trace",
        "",
        "The hidden state against that of the fp32 file, on the first "
        f"{report.get('trace_rows')} rows (not padded).",
        "",
        trace_table(report),
        "",
        *["![error trace](trace.svg)", ""] * pictures,
    ]


def _engines(report: Mapping[str, Any]) -> list[str]:
    rows = engine_rows(report)
    return ["## Engines", "", markdown(rows, ENGINE_COLUMNS), ""] if rows else []


def _coverage(report: Mapping[str, Any]) -> list[str | _Folded]:
    found: list[str | _Folded] = []
    for name, variant in report["variants"].items():
        rows = variant.get("weights")
        if rows:
            uses, converted = (sum(row.get(k) or 0 for row in rows) for k in ("uses", "converted"))
            title = f"{name}: {len(rows)} weights, {converted} of {uses} uses converted"
            found.append(_Folded(title=title, text=_columns(rows, columns_of(rows))))
    return ["## Coverage", "", *found] if found else []


def _calibration(report: Mapping[str, Any], *, pictures: bool) -> list[str | _Folded]:
    found: list[str | _Folded] = []
    ranged = False
    for name, variant in report["variants"].items():
        record = variant.get("calibration")
        if not record:
            continue
        rule = f", ranges by {record['rule']}" if record.get("rule") else ""
        kept = f", statistics in `{record['file']}`" if record.get("file") else ""
        where = wording.origin(record.get("dataset") or {})
        found += [f"{name}: {record.get('rows')} rows of {where}{rule}{kept}.", ""]
        ranges = range_rows(record)
        if ranges:
            ranged = True
            title = f"{name}: {len(ranges)} ranges"
            found.append(_Folded(title=title, text=_columns(ranges, _RANGES)))
    if ranged:
        found += [
            "Peak: largest magnitude seen. Range: largest that is not clipped. Clipped: share of",
            "the values seen that lie outside.",
            "",
            *["![calibrated ranges](ranges.svg)", ""] * pictures,
        ]
    return ["## Calibration", "", *found] if found else []


def _columns(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    return markdown([[_cell(row.get(k)) for k in columns] for row in rows], [*columns.values()])


def _known(value: Any, form: str) -> str:
    return "" if value is None else wording.number(value, form)


def _cell(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "; ".join(map(str, value))
    return "" if value is None else str(value)


def _fitted(parts: Sequence[str | _Folded], limit: int) -> str:
    """Join the parts, cut to ``limit`` bytes of UTF-8."""
    kept = list(parts)
    folded = [i for i, part in enumerate(kept) if isinstance(part, _Folded)]
    for index in sorted(folded, key=lambda i: -len(str(kept[i]))):
        over = len(_joined(kept)) - limit
        if over <= 0:
            break
        kept[index] = _shortened(kept[index], over)
    data = _joined(kept)
    if len(data) <= limit:
        return data.decode()
    tail = f"\n\n{_CUT}\n".encode()
    if limit <= len(tail):
        return ""
    # Not in the middle of a line: half a row of a table, or half a tag, garbles what follows.
    head = data[: limit - len(tail)]
    return (head[: head.rfind(b"\n") + 1] + tail).decode(errors="ignore")


def _shortened(part: str | _Folded, over: int) -> str | _Folded:
    """Return a folded block less at least ``over`` bytes of rows from its end, if it has them."""
    if not isinstance(part, _Folded):
        return part
    lines = part.text.splitlines()
    gone = -len(_CUT) - 2
    while gone < over and len(lines) > 2:
        gone += len(lines.pop().encode()) + 1
    return replace(part, text="\n".join([*lines, "", _CUT]))


def _joined(parts: Sequence[str | _Folded]) -> bytes:
    # A lone surrogate is no UTF-8; cells are free of them, names and paths may not be.
    return re.sub("[\ud800-\udfff]", "\ufffd", "\n".join(map(str, parts))).encode()
