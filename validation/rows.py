"""Rows of a data set as feeds: tokenized as their task does, one row at a time, unpadded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from albert_deploy.runtime.answers import Window
from albert_deploy.runtime.contract import CHOICES
from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.tasks import Feeds, encode, encode_choice, encode_words, stack, windows
from albert_deploy.validation.datasets import read_dataset
from albert_deploy.validation.examples import (
    ChoiceRow,
    ClassificationRow,
    Example,
    PlainRow,
    QuestionRow,
    TokensRow,
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
        """Check the values."""
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


def prepared(
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


def shipped_texts(task: str, count: int) -> list[Example]:
    """Return real texts from the shipped samples, to run a model that has no data set."""
    from albert_deploy.validation.sample import SAMPLES

    name = "sample-squad" if task == "question-answering" else "sample-sst2"
    return list(read_dataset(SAMPLES[name].dataset, SAMPLES[name].data)[:count])


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
    return Row(id=row.id, feeds=[feeds | {"input_ids": ids}], marks=marks, wanted=wanted)


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
