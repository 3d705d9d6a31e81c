"""Rows of data sets, one kind for each sort of task, and what reading a data set gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias


@dataclass(frozen=True, kw_only=True)
class ClassificationRow:
    """A text, or two, and its class id, or its score where the data set is a regression.

    ``id`` counts the rows of the file from 0, rows that were skipped too.
    """

    id: str
    text: str
    pair: str | None
    label: int | float


@dataclass(frozen=True, kw_only=True)
class QuestionRow:
    """A question, the context to answer it from and its reference answers.

    Without any answer the question cannot be answered from the context (SQuAD v2.0).
    """

    id: str
    question: str
    context: str
    answers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ChoiceRow:
    """A question about a context, the answers to choose from and the index of the right one.

    ``group`` is the part of the data set that the row belongs to: ``middle`` or ``high``.
    """

    id: str
    context: str
    question: str
    choices: tuple[str, ...]
    label: int
    group: str


@dataclass(frozen=True, kw_only=True)
class TokensRow:
    """The words of a sentence and the tag of each."""

    id: str
    words: tuple[str, ...]
    tags: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class PlainRow:
    """Raw text for masked-token prediction, or two segments for sentence order.

    ``label`` is that of sentence order as ALBERT was trained on it: 0 where ``text`` comes
    before ``following`` in the file, 1 where the two were swapped; None without ``following``.
    """

    id: str
    text: str
    following: str | None
    label: int | None = None


Example: TypeAlias = ClassificationRow | QuestionRow | ChoiceRow | TokensRow | PlainRow


@dataclass(frozen=True, kw_only=True)
class Data:
    """A data set that was read.

    Attributes:
        rows: Its rows, in the order of the file.
        skipped: Rows that were left out: malformed ones where that was asked for, and those
            that the official scores leave out too (see ``Dataset.dropped`` and
            ``Dataset.drop_incomplete``).
        reasons: Why the first of them were left out.
        file: File or folder that was read; None for the hub.
        revision: Commit of the hub's repository; None for a file.
    """

    rows: list[Example]
    skipped: int = 0
    reasons: tuple[str, ...] = ()
    file: Path | None = None
    revision: str | None = None
