"""How long a data set's texts are in tokens, as their task tokenizes them: a histogram."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from albert_deploy.runtime.contract import CHOICES
from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.manifest import read_manifest

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """A histogram of what one run of a model has on its sequence axis.

    A question with a long context counts once for each window. The choices of a question stand
    in one run, so that each of them is as long as the longest.

    Args:
        counts: Sequences of n tokens, int64 [max_length + 1].
        real: Tokens in them that are not padding, int64 [max_length + 1].
        choices: How many rows have how many choices; empty for tasks without.
        origin: Where they come from: name, file, split, rows and the like.

    Raises:
        InputError: There is no sequence.
    """

    counts: Counts
    real: Counts
    choices: Mapping[int, int] = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that there is something to choose from."""
        if not self.counts[1:].any():
            raise InputError("got no texts to choose profiles from; give a data set that has some")

    @property
    def max_length(self) -> int:
        """Most tokens that the model takes."""
        return len(self.counts) - 1

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return int(np.flatnonzero(self.counts)[-1])

    @property
    def sequences(self) -> int:
        """Number of sequences."""
        return int(self.counts.sum())

    @property
    def real_tokens(self) -> int:
        """Tokens that are not padding."""
        return int(self.real.sum())


def lengths_from(
    counts: Mapping[int, int], max_length: int, origin: Mapping[str, Any] | None = None
) -> Lengths:
    """Make a histogram from numbers known from elsewhere, such as a service's log.

    Args:
        counts: Tokens -> sequences of that length.
        max_length: Most tokens that the model takes.
        origin: Where the numbers come from.

    Raises:
        InputError: There is none, or one is out of range.
    """
    array = np.zeros(max_length + 1, np.int64)
    for length, count in counts.items():
        if not 1 <= length <= max_length or count < 0:
            raise InputError(
                f"got {count} sequences of {length} tokens; wanted none or more, of 1 to "
                f"{max_length} tokens"
            )
        array[length] += count
    return Lengths(counts=array, real=array * np.arange(max_length + 1), origin=origin or {})


def lengths_of(
    directory: Path,
    dataset: tuple[str, Path | None],
    *,
    split: str = "dev",
    every: int = 1,
    max_length: int | None = None,
) -> Lengths:
    """Tokenize a data set's rows as the task does and count their lengths.

    Rows are tokenized one after the other and none is kept.

    Args:
        directory: Deployment directory, for its tokenizer and task.
        dataset: Name and path of the data; None as the path is the Hugging Face hub.
        split: ``dev`` or ``train``.
        every: Of the rows, take each such one, the first included: a large data set has the
            lengths of a part of it.
        max_length: Cut texts, or lay windows, to fewer tokens than the model takes.

    Raises:
        InputError: The data cannot be read or is for another task, the directory has no
            tokenizer, or a number is out of range.
        MachineError: The hub is wanted and cannot be used from here.
    """
    from albert_deploy.runtime.tasks import load_tokenizer
    from albert_deploy.validation.datasets import dataset_named, read_data
    from albert_deploy.validation.rows import RowsConfig, prepared

    manifest = read_manifest(directory)
    contract, task = manifest["contract"], manifest["task"]
    name, path = dataset
    limit = int(contract["max_length"])
    wanted = limit if max_length is None else max_length
    if not 1 <= wanted <= limit or every < 1:
        raise InputError(
            f"got texts of up to {wanted} tokens and one row in {every}; wanted 1 to {limit} "
            "tokens, what the model takes, and at least 1"
        )
    if not dataset_named(name).fits(task):
        raise InputError(
            f"{name} is data for {dataset_named(name).task}, the checkpoint is for {task}; take "
            "lengths from data of its own task"
        )
    data = read_data(name, path, split=split)
    counts, real = np.zeros((2, limit + 1), np.int64)
    choices: Counter[int] = Counter()
    cut = contract | {"max_length": wanted}
    rows = data.rows[::every]
    for row in prepared(rows, cut, load_tokenizer(directory), RowsConfig(truncate=True)):
        for feeds in row.feeds:
            mask = feeds["attention_mask"]
            length = mask.shape[-1]
            counts[length] += mask.size // length
            real[length] += mask.sum()
            if CHOICES in contract["inputs"][0]["axes"]:
                choices[mask.shape[1]] += 1
    return Lengths(
        counts=counts,
        real=real,
        choices=dict(choices),
        origin={
            "name": name,
            "file": data.file.name if data.file else None,
            "revision": data.revision,
            "split": split,
            "rows": len(rows),
            "every": every,
            "max_length": wanted,
        },
    )
