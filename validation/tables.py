"""Sections, tables and cells of the HTML report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from albert_deploy.validation.wording import MISSING, compact


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
