"""Files of data sets as text, and how a layout says that a row cannot be used."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from albert_deploy.runtime.errors import InputError
from albert_deploy.validation.data.rows import ClassificationRow, PlainRow, TokensRow
from albert_deploy.validation.data.table import Dataset

_Kind = TypeVar("_Kind", str, list[Any])


@dataclass(frozen=True)
class Bad:
    """A malformed row: an error, unless such rows are to be skipped."""

    reason: str


@dataclass(frozen=True)
class Dropped:
    """A row that official scores leave out: it is skipped and counted."""

    reason: str


def read_text(file: Path, remedy: str = "give another file") -> str:
    """Return the text of a file in UTF-8, without a byte order mark.

    Raises:
        InputError: It cannot be read, or is not UTF-8; the message names the line.
    """
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{file} does not exist; {remedy}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise InputError(f"cannot read {file}: {error}; {remedy}") from error
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{file}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8; "
            "save the file as UTF-8"
        ) from None


def json_field(record: object, key: str, kind: type[_Kind], where: str, layout: str) -> _Kind:
    """Return a field of a JSON object that has to be a list, or a string with text in it.

    Args:
        record: The object.
        key: Name of the field.
        kind: ``str`` or ``list``.
        where: How an error names the object.
        layout: How an error names the layout that is wanted.

    Raises:
        InputError: The field is missing or something else.
    """
    value = record.get(key) if isinstance(record, dict) else None
    if isinstance(value, kind) and (not isinstance(value, str) or value.strip()):
        return value
    shown = "missing" if value is None else repr(value)[:80]
    wanted = "text" if kind is str else "a list"
    raise InputError(f"{where}: {key!r} is {shown}, wanted {wanted}; use a file in {layout}")


def digest(path: Path) -> str:
    """Return the sha256 of a file, or of a folder: of its files' names and digests, sorted.

    Raises:
        OSError: It cannot be read.
    """
    if not path.is_dir():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    total = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        if file.is_file():
            name = file.relative_to(path).as_posix()
            total.update(f"{name}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def tsv_rows(dataset: Dataset, file: Path) -> Iterator[ClassificationRow | Bad | Dropped]:
    """Read a TSV file, row by row.

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


# A sentence ends at one of these, perhaps within quotes or brackets, before white space.
_BOUNDARY = re.compile(r"(?<=[.!?])[\"')\]”’]*\s+")  # noqa: RUF001


def line_rows(dataset: Dataset, file: Path) -> Iterator[PlainRow]:
    """Read the lines that hold text, for masked-token prediction; the id counts them from 0.

    Raises:
        InputError: The file cannot be read.
    """
    del dataset
    texts = [line.strip() for line in read_text(file).split("\n")]
    for index, text in enumerate(filter(None, texts)):
        yield PlainRow(id=str(index), text=text, following=None)


def order_rows(dataset: Dataset, file: Path) -> Iterator[PlainRow]:
    """Read pairs of consecutive segments, for sentence order (Lan et al. 2019, section 3.1).

    A line of several sentences is one pair: it is cut at the end of the sentence that is nearest
    to its middle. A line of one sentence is paired with the next line, if that too is one
    sentence and no empty line is between them; other such lines are not used. About half of the
    pairs are swapped, which ones is fixed by a hash of their text.

    Raises:
        InputError: The file cannot be read.
    """
    del dataset
    waiting = ""
    index = 0
    for line in read_text(file).split("\n"):
        text = line.strip()
        pair = halves(text)
        if pair is None and text and waiting:
            pair = waiting, text
        waiting = text if pair is None else ""
        if pair is not None:
            yield ordered(str(index), *pair)
            index += 1


def halves(text: str) -> tuple[str, str] | None:
    """Cut a text between two sentences, as near to its middle as can be; None for one sentence."""
    ends = [match for match in _BOUNDARY.finditer(text) if match.end() < len(text)]
    if not ends:
        return None
    cut = min(ends, key=lambda match: abs(match.start() + match.end() - len(text)))
    return text[: cut.end()].rstrip(), text[cut.end() :]


def ordered(row_id: str, first: str, second: str, *, seed: int = 0) -> PlainRow:
    """Return a pair of consecutive segments, swapped or not as a hash of seed and text says."""
    swapped = hashlib.sha256(f"{seed}\0{first}\0{second}".encode()).digest()[0] & 1
    text, following = (second, first) if swapped else (first, second)
    return PlainRow(id=row_id, text=text, following=following, label=swapped)


DOCUMENT = "-DOCSTART-"
# Outside, or begin, inside, end or single of an entity of some type.
TAG = re.compile(r"O|[BIES]-\S+")


def column_rows(dataset: Dataset, file: Path) -> Iterator[TokensRow | Bad]:
    """Read sentences; the word is in the first column and its entity tag in the last.

    Lines that open a document are left out, as they are no sentences.

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
                yield bad or _sentence_row(index, sentence)
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


def _sentence_row(index: int, sentence: list[list[str]]) -> TokensRow:
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
