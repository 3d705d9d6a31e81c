"""What sections of a report are made of: tables of texts, sentences and pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from albert_deploy.validation.report.pictures import Picture
from albert_deploy.validation.report.wording import MISSING, compact, number

Column = str | tuple[str, str] | tuple[str, str, str]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of texts, one for each column; the first of a row names it.

    A column that starts with ``#`` holds numbers and is set flush right; one called ``verdict``
    holds verdicts, which the page shows as badges. A ``folded`` one is closed until it is opened.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    folded: bool = False


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading, a sentence on what is below it, and notes, pictures and tables.

    Attributes:
        key: Its id in the page.
        title: Its heading.
        lead: What is below, in a sentence.
        notes: What is said in sentences.
        pictures: File name without suffix -> picture.
        tables: Those without a row are left out, and so are columns in which no row has anything.
        in_summary: Whether it is in the summary too; rows of the data and long lists are not.
    """

    key: str
    title: str
    lead: str = ""
    notes: Sequence[str] = ()
    pictures: Mapping[str, Picture] | None = None
    tables: Sequence[Table] = ()
    in_summary: bool = True


def record_table(
    caption: str,
    columns: Sequence[Column],
    rows: Iterable[Mapping[str, Any]],
    *,
    folded: bool = False,
) -> Table:
    """Return a table of records.

    Args:
        caption: What it shows.
        columns: The heading of each, or its heading, the key of a record where it is not the
            heading, and the format of its number where it has one.
        rows: The records.
        folded: Whether it is closed at first.
    """
    full = [(c, c.removeprefix("#"), "") if isinstance(c, str) else (*c, "")[:3] for c in columns]
    texts = [
        [number(row.get(key), form) if form else compact(row.get(key)) for _, key, form in full]
        for row in rows
    ]
    return Table(caption=caption, columns=[c[0] for c in full], rows=texts, folded=folded)


def variant_rows(report: Mapping[str, Any], key: str) -> Iterator[dict[str, Any]]:
    """Yield the records that variants have under a key, each with its ``variant``."""
    for name, variant in report["variants"].items():
        yield from ({"variant": name} | row for row in variant.get(key) or ())


def filled(tables: Iterable[Table]) -> list[Table]:
    """Return the tables that have rows, without the columns in which no row has anything."""
    found = []
    for table in tables:
        kept = [
            i
            for i in range(len(table.columns))
            if i == 0 or any(row[i] not in ("", MISSING) for row in table.rows)
        ]
        rows = [[row[i] for i in kept] for row in table.rows]
        if rows:
            found.append(replace(table, columns=[table.columns[i] for i in kept], rows=rows))
    return found
