"""GLUE's layout: tab-separated rows, with or without a header, in which quotes mean nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from albert_deploy.runtime.errors import InputError
from albert_deploy.validation.dataset_table import Dataset
from albert_deploy.validation.examples import ClassificationRow
from albert_deploy.validation.files import Bad, Dropped, read_text


def tsv_rows(dataset: Dataset, file: Path) -> Iterator[ClassificationRow | Bad | Dropped]:
    """Read a TSV file, row by row.

    Args:
        dataset: Its columns and labels.
        file: The file.

    Yields:
        A row, or why one cannot be used; the id of a row is its place in the file.

    Raises:
        InputError: The file cannot be read, or its header lacks a column.
    """
    # Not splitlines(): a text may hold U+2028 and its like.
    lines = [line.removesuffix("\r") for line in read_text(file).rstrip("\r\n").split("\n")]
    if dataset.header:
        header, first = list(dataset.header), 1
        lines = lines if lines != [""] else []
    else:
        header, first = lines.pop(0).split("\t"), 2
        _check_header(dataset, file, header)
    for index, line in enumerate(lines):
        yield _row(dataset, header, line.split("\t"), f"{file}, line {index + first}", str(index))


def _check_header(dataset: Dataset, file: Path, header: list[str]) -> None:
    wanted = [column for column in (dataset.text, dataset.pair, dataset.label) if column]
    missing = [column for column in wanted if column not in header]
    if missing:
        shown = "\t".join(header)[:80]
        raise InputError(
            f"{file}, line 1: the header {shown!r} lacks {' and '.join(missing)}; "
            f"use a labelled split in GLUE's layout: {', '.join(wanted)}, separated by tabs"
        )


def _row(
    dataset: Dataset, header: list[str], cells: list[str], where: str, row_id: str
) -> ClassificationRow | Bad | Dropped:
    if len(cells) > len(header) and dataset.ragged:
        cells = [*cells[: len(header) - 1], cells[-1]]
    if len(cells) != len(header):
        if dataset.drop_incomplete and len(cells) < len(header):
            return Dropped(f"{where}: {len(cells)} of {len(header)} columns, in official files too")
        as_in = f"({', '.join(header)})" if dataset.header else "as in the header"
        return Bad(
            f"{where}: {len(cells)} columns, wanted {len(header)} {as_in}; "
            "correct or remove the row"
        )
    cell = dict(zip(header, cells, strict=True))
    for column in (dataset.text, dataset.pair):
        if column and not cell[column].strip():
            if dataset.drop_incomplete:
                return Dropped(f"{where}: {column} is empty, in official files too")
            return Bad(f"{where}: {column} is empty; correct or remove the row")
    return _labelled(dataset, cell, where, row_id)


def _labelled(
    dataset: Dataset, cell: dict[str, str], where: str, row_id: str
) -> ClassificationRow | Bad | Dropped:
    given = cell[dataset.label]
    if given in dataset.dropped:
        return Dropped(f"{where}: {dataset.label} is {given!r}: its annotators did not agree")
    label = label_of(dataset, given)
    if label is None:
        return Bad(
            f"{where}: {dataset.label} is {given[:80]!r}, "
            f"wanted {wanted_labels(dataset)}; correct or remove the row"
        )
    return ClassificationRow(
        id=row_id,
        text=cell[dataset.text],
        pair=cell[dataset.pair] if dataset.pair else None,
        label=label,
    )


def label_of(dataset: Dataset, text: str) -> int | float | None:
    """Return the class id, or the score of a regression, that a cell stands for, if it does."""
    if dataset.values is None:
        return dataset.labels.index(text) if text in dataset.labels else None
    try:
        value = float(text)
    except ValueError:
        return None
    least, largest = dataset.values
    return value if math.isfinite(value) and least <= value <= largest else None


def wanted_labels(dataset: Dataset) -> str:
    """Return what stands in the label column, for an error."""
    if dataset.values is not None:
        return f"a number from {dataset.values[0]:g} to {dataset.values[1]:g}"
    *others, last = dataset.labels
    return f"{', '.join(others)} or {last}"
