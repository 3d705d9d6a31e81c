"""Rows of a data set as feeds: one text at a time, tokenized as its task does, unpadded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from albert_deploy.runtime.answers import Window
from albert_deploy.runtime.contract import CHOICES
from albert_deploy.runtime.tasks import Feeds, encode, stack, windows
from albert_deploy.validation.datasets import (
    ClassificationRow,
    QuestionRow,
    read_dataset,
)


@dataclass(frozen=True, kw_only=True)
class RowsConfig:
    """How texts become feeds.

    Args:
        truncate: Cut over-long texts; otherwise they are an error.
        stride: Tokens that two windows of a long context share.
        max_query_length: Tokens of a question.
    """

    truncate: bool = False
    stride: int = 128
    max_query_length: int = 64


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a data set.

    Attributes:
        id: Its id in the data set.
        feeds: Inputs of batch 1; several where a long context has several windows.
        windows: Those windows; None for other tasks.
    """

    id: str
    feeds: list[Feeds]
    windows: list[Window] | None = None


def prepared(
    rows: list[ClassificationRow] | list[QuestionRow],
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
        InputError: A text is empty or too long.
    """
    limit = contract["max_length"]
    choices = CHOICES in contract["inputs"][0]["axes"]
    for row in rows:
        if isinstance(row, QuestionRow):
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
            yield Row(id=row.id, feeds=[w.feeds for w in laid], windows=laid)
            continue
        feeds = encode(
            tokenizer,
            row.text,
            row.pair,
            max_length=limit,
            truncate=config.truncate,
            row=f"row {row.id}",
        )
        if choices:
            words = row.text.split()
            halves = [" ".join(words[: len(words) // 2]), " ".join(words[len(words) // 2 :])]
            each = [
                encode(tokenizer, row.text, half, max_length=limit, truncate=True)
                for half in halves
            ]
            stacked = stack(each, contract["pad_token_id"])
            feeds = {name: value[np.newaxis] for name, value in stacked.items()}
        yield Row(id=row.id, feeds=[feeds])


def shipped_texts(task: str, count: int) -> list[ClassificationRow] | list[QuestionRow]:
    """Return real texts from the shipped samples, to run a model that has no data set."""
    from albert_deploy.validation.sample import SAMPLES

    name = "sample-squad" if task == "question-answering" else "sample-sst2"
    return read_dataset(SAMPLES[name].dataset, SAMPLES[name].data)[:count]
