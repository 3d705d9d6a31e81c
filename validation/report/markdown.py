"""A report as Markdown: for a terminal, a pull-request comment and a CI job's summary."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from albert_deploy.validation.gate.verdicts import advice, reason
from albert_deploy.validation.report import wording
from albert_deploy.validation.report.pictures import Picture
from albert_deploy.validation.report.sections import facts, sections, variants
from albert_deploy.validation.report.tables import Section, Table
from albert_deploy.validation.tables import markdown_table

# GitHub takes a comment of 65,536 characters; counted in bytes, so that any way of counting fits.
COMMENT_BYTES = 65_536
_CUT = "*Cut here: the whole is in `report.html` and `validation.json`.*"


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
    pictures: Mapping[str, Picture] | None = None,
    *,
    more: Sequence[str] = (),
    limit: int = COMMENT_BYTES,
) -> str:
    """Return the report as Markdown that also reads well in a terminal.

    Args:
        report: As in ``validation.json``.
        pictures: Those that lie beside it, to be linked; None for a comment or a job's summary,
            which cannot show them.
        more: Further sections, such as that of a search.
        limit: Most bytes; folded tables are cut first, the largest before the others.
    """
    parts: list[str | _Folded] = [
        f"# {escaped(report['task'])}: {escaped(report['verdict'])}",
        "",
        f"**{escaped(reason(report))}**",
        "",
        *(f"> {escaped(text)}" for text in advice(report)),
        "",
        ". ".join(f"{name}: {escaped(value)}" for name, value in facts(report).items()) + ".",
        "",
    ]
    for section in sections(report, pictures):
        if section.in_summary:
            parts += _section(section)
    return _fitted([*parts, *(f"{text}\n" for text in more)], limit)


def table(report: Mapping[str, Any]) -> str:
    """Return the variants as a table in GitHub's Markdown that fits a terminal."""
    return tables(variants(report, brief=True).tables)


def tables(found: Sequence[Table]) -> str:
    """Return tables in GitHub's Markdown, less their captions."""
    return "\n\n".join(markdown(t.rows, [c.removeprefix("#") for c in t.columns]) for t in found)


def markdown(rows: Sequence[Sequence[object]], headers: Sequence[str]) -> str:
    """Return a table in GitHub's Markdown."""
    safe = [[escaped(cell) for cell in row] for row in rows]
    return markdown_table(safe, [escaped(header) for header in headers])


def escaped(value: object) -> str:
    """Return a text that stays in its cell, and neither starts HTML nor names somebody."""
    text = " ".join(wording.printable(value).split())
    for sign, safe in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("@", "&#64;")):
        text = text.replace(sign, safe)
    return text.replace("](", "]\\(")


def _section(section: Section) -> list[str | _Folded]:
    parts: list[str | _Folded] = [f"## {section.title}", ""]
    parts += [escaped(section.lead), ""] if section.lead else []
    parts += [*(f"- {escaped(note)}" for note in section.notes), ""] if section.notes else []
    for found in section.tables:
        caption, text = escaped(found.caption), tables([found])
        if found.folded:
            parts.append(_Folded(title=caption, text=text))
        else:
            parts += [f"{caption}:", "", text, ""]
    for name, picture in (section.pictures or {}).items():
        parts += [f"![{escaped(picture.title)}]({name}.svg)", ""]
    return parts


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
