"""CoNLL-2003's layout: a word and its tags on a line, an empty line after each sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from albert_deploy.runtime.errors import InputError
from albert_deploy.validation.dataset_table import Dataset
from albert_deploy.validation.examples import TokensRow
from albert_deploy.validation.files import Bad, read_text

DOCUMENT = "-DOCSTART-"
# Outside, or begin, inside, end or single of an entity of some type.
TAG = re.compile(r"O|[BIES]-\S+")


def column_rows(dataset: Dataset, file: Path) -> Iterator[TokensRow | Bad]:
    """Read sentences; the word is in the first column and its entity tag in the last.

    Lines that open a document are left out, as they are no sentences.

    Args:
        dataset: The row of the table.
        file: The file.

    Yields:
        A row, whose id counts sentences from 0, or why one cannot be used.

    Raises:
        InputError: The file cannot be read, or its first line has one column only.
    """
    columns = 0
    index = 0
    sentence: list[list[str]] = []
    bad: Bad | None = None
    # The empty line at the end closes the last sentence.
    for number, line in enumerate((*read_text(file).split("\n"), ""), start=1):
        cells = re.split(r"[ \t]+", line.strip(" \t\r"))
        if cells == [""]:
            if sentence or bad:
                yield bad or _row(index, sentence)
                index += 1
            sentence, bad = [], None
            continue
        columns = columns or len(cells)
        if columns == 1:
            raise InputError(
                f"{file}, line {number}: {line[:80]!r} has one column, wanted a word and its tag; "
                f"use a file in CoNLL-2003's layout, such as {dataset.files['dev']}"
            )
        if cells[0] == DOCUMENT:
            continue
        bad = bad or _fault(f"{file}, line {number}", cells, columns)
        sentence.append(cells)


def _row(index: int, sentence: list[list[str]]) -> TokensRow:
    return TokensRow(
        id=str(index),
        words=tuple(cells[0] for cells in sentence),
        tags=tuple(cells[-1] for cells in sentence),
    )


def _fault(where: str, cells: list[str], columns: int) -> Bad | None:
    if len(cells) != columns:
        return Bad(
            f"{where}: {len(cells)} columns, wanted {columns} as in the first line; "
            "correct the line or remove its sentence"
        )
    if not TAG.fullmatch(cells[-1]):
        return Bad(
            f"{where}: the tag is {cells[-1][:80]!r}, wanted O or a type after B-, I-, E- or S-; "
            "correct the line or remove its sentence"
        )
    return None
