"""Rows of a data set as feeds: tokenized as their task does, one row at a time, unpadded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from albert_deploy.runtime.contract import CHOICES
from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.session import Feeds
from albert_deploy.runtime.tasks.tokenize import (
    Window,
    encode,
    encode_choice,
    encode_words,
    stack,
    windows,
)

MASK_TOKENS = ("[MASK]", "<mask>")


@dataclass(frozen=True, kw_only=True)
class RowsConfig:
    """How texts become feeds.

    Args:
        truncate: Cut over-long texts; otherwise they are an error.
        stride: Tokens that two windows of a long context share.
        max_query_length: Tokens of a question.
        max_choice_length: Tokens of a question and one of its choices.
        masked: Share of the tokens that masked-token prediction hides, as in BERT's training.
        seed: Which tokens those are.

    Raises:
        InputError: A value is out of range.
    """

    truncate: bool = False
    stride: int = 128
    max_query_length: int = 64
    max_choice_length: int = 128
    masked: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        if self.stride < 0 or min(self.max_query_length, self.max_choice_length) < 1:
            raise InputError(
                f"stride is {self.stride}, max_query_length {self.max_query_length} and "
                f"max_choice_length {self.max_choice_length}; use at least 0, 1 and 1"
            )
        if not 0 < self.masked <= 1:
            raise InputError(f"masked is {self.masked}; use a share above 0 and up to 1")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a data set.

    Attributes:
        id: Its id in the data set.
        feeds: Inputs of batch 1; several where a long context has several windows.
        windows: Those windows; None for other tasks.
        marks: Positions that are scored, int64 [marks]: of each word's first token (-1 for a word
            without one), or of the tokens that were masked; None for other tasks.
        wanted: Ids of the tokens that were masked, int64 [marks]; None for other tasks.
    """

    id: str
    feeds: list[Feeds]
    windows: list[Window] | None = None
    marks: npt.NDArray[np.int64] | None = None
    wanted: npt.NDArray[np.int64] | None = None


def encode_rows(
    rows: Iterable[Example],
    contract: dict[str, Any],
    tokenizer: Tokenizer,
    config: RowsConfig,
) -> Iterator[Row]:
    """Tokenize rows one after the other.

    Args:
        rows: Result of ``datasets.read_dataset``.
        contract: The manifest's contract.
        tokenizer: The directory's tokenizer.
        config: Options.

    Raises:
        InputError: A text is empty or too long, or the tokenizer has no token for a mask.
    """
    for row in rows:
        match row:
            case QuestionRow():
                yield _question(row, contract, tokenizer, config)
            case ChoiceRow():
                yield _choices(row, contract, tokenizer, config)
            case TokensRow():
                yield _words(row, contract, tokenizer, config)
            case PlainRow(following=None):
                yield _masked(row, contract, tokenizer, config)
            case PlainRow():
                yield _text(row.id, row.text, row.following, contract, tokenizer, config)
            case ClassificationRow():
                yield _text(row.id, row.text, row.pair, contract, tokenizer, config)


def _question(
    row: QuestionRow, contract: dict[str, Any], tokenizer: Tokenizer, config: RowsConfig
) -> Row:
    limit = contract["max_length"]
    laid = windows(
        tokenizer,
        row.question,
        row.context,
        max_length=limit,
        # A short model keeps room to move on.
        stride=min(config.stride, limit // 4),
        max_query_length=min(config.max_query_length, limit // 2),
        row=f"question {row.id}",
    )
    return Row(id=row.id, feeds=[w.feeds for w in laid], windows=laid)


def _choices(
    row: ChoiceRow, contract: dict[str, Any], tokenizer: Tokenizer, config: RowsConfig
) -> Row:
    limit = contract["max_length"]
    each = [
        encode_choice(
            tokenizer,
            row.context,
            row.question,
            choice,
            max_length=limit,
            max_choice_length=min(config.max_choice_length, limit // 2),
            row=f"question {row.id}",
        )
        for choice in row.choices
    ]
    return Row(id=row.id, feeds=[_beside(each, contract)])


def _words(
    row: TokensRow, contract: dict[str, Any], tokenizer: Tokenizer, config: RowsConfig
) -> Row:
    feeds, first = encode_words(
        tokenizer,
        row.words,
        max_length=contract["max_length"],
        truncate=config.truncate,
        row=f"sentence {row.id}",
    )
    return Row(id=row.id, feeds=[feeds], marks=first)


def _masked(
    row: PlainRow, contract: dict[str, Any], tokenizer: Tokenizer, config: RowsConfig
) -> Row:
    """Hide a share of the tokens, at least one; which ones depends on the seed and the row's id."""
    mask = next((i for t in MASK_TOKENS if (i := tokenizer.token_to_id(t)) is not None), None)
    if mask is None:
        raise InputError(
            f"the tokenizer has none of {', '.join(MASK_TOKENS)}, so that no token can be "
            "hidden; use the tokenizer that the model was trained with"
        )
    name = f"row {row.id}"
    limit = contract["max_length"]
    feeds = encode(tokenizer, row.text, max_length=limit, truncate=config.truncate, row=name)
    added = tokenizer.get_added_tokens_decoder()
    specials = [i for i, token in added.items() if token.special]
    ids = feeds["input_ids"].copy()
    ordinary = np.flatnonzero(~np.isin(ids[0], specials))
    if not len(ordinary):
        raise InputError(f"{name} has no token that could be hidden; remove the row")
    digest = hashlib.sha256(f"{config.seed} {row.id}".encode()).digest()
    random = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    count = max(1, round(config.masked * len(ordinary)))
    marks = np.sort(random.choice(ordinary, count, replace=False))
    wanted = ids[0, marks]
    ids[0, marks] = mask
    return Row(id=row.id, feeds=[{**feeds, "input_ids": ids}], marks=marks, wanted=wanted)


def _text(
    row_id: str,
    text: str,
    pair: str | None,
    contract: dict[str, Any],
    tokenizer: Tokenizer,
    config: RowsConfig,
) -> Row:
    limit = contract["max_length"]
    feeds = encode(
        tokenizer, text, pair, max_length=limit, truncate=config.truncate, row=f"row {row_id}"
    )
    if CHOICES in contract["inputs"][0]["axes"]:
        # A text without choices, to run a model that has no data set: its halves.
        words = text.split()
        halves = (" ".join(words[: len(words) // 2]), " ".join(words[len(words) // 2 :]))
        each = [encode(tokenizer, text, half, max_length=limit, truncate=True) for half in halves]
        feeds = _beside(each, contract)
    return Row(id=row_id, feeds=[feeds])


def _beside(each: Sequence[Feeds], contract: dict[str, Any]) -> Feeds:
    """Return the inputs int64 [1, choices, longest sequence] of one row."""
    stacked = stack(each, contract["pad_token_id"])
    return {name: value[np.newaxis] for name, value in stacked.items()}


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
