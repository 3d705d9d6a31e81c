"""What a bench times: rows of fixed lengths, and real texts as long as a data set's are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from albert_deploy.runtime.contract import CHOICES, INPUT_NAMES
from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.session import Feeds
from albert_deploy.runtime.tasks.tokenize import load_tokenizer


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of the tables.

    Args:
        name: Key in the report: a number of tokens, or the name of a data set.
        rows: Feeds of batch 1; the time of a column is the mean over them.
    """

    name: str
    rows: tuple[Feeds, ...]

    @property
    def label(self) -> str:
        """Name for people."""
        return f"{self.name} tokens" if self.name.isdigit() else self.name

    def to_json(self) -> dict[str, Any]:
        """Return the form that the report holds."""
        return {"label": self.label, "tokens": [tokens(row) for row in self.rows]}


def tokens(feeds: Feeds) -> int:
    """Return the number of tokens of a row."""
    return int(feeds["input_ids"].shape[-1])


def fitting_lengths(
    lengths: Sequence[int], max_length: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Split lengths into those that a model of ``max_length`` tokens takes and the others.

    Raises:
        InputError: None fits.
    """
    wanted = sorted(set(lengths))
    fitting = tuple(n for n in wanted if n <= max_length)
    if not fitting:
        raise InputError(
            f"got lengths {', '.join(map(str, wanted))}; the model takes at most {max_length} "
            "tokens: pass shorter --lengths"
        )
    return fitting, tuple(n for n in wanted if n > max_length)


def random_row(manifest: Mapping[str, Any], length: int, *, seed: int) -> Feeds:
    """Return one row without padding: random ids, a full mask, one segment.

    All int64 [1, length]; [1, 2, length] for a task with choices.
    """
    axes = manifest["contract"]["inputs"][0]["axes"]
    shape = (1, 2, length) if CHOICES in axes else (1, length)
    vocabulary = int(manifest["source"]["config"]["vocab_size"])
    ids = np.random.default_rng(seed).integers(0, vocabulary, shape, dtype=np.int64)
    return dict(zip(INPUT_NAMES, (ids, np.ones_like(ids), np.zeros_like(ids)), strict=True))


def dataset_column(
    directory: Path, manifest: Mapping[str, Any], dataset: tuple[str, Path | None], count: int
) -> Column:
    """Take ``count`` texts of a data set, evenly over its lengths.

    Args:
        directory: Deployment directory.
        manifest: Its manifest.
        dataset: Name and path, None for the data of the shipped sample.
        count: Texts; a data set with fewer gives all of them.

    Raises:
        InputError: The data cannot be read, is for another task, or the directory has no
            tokenizer.
    """
    feeds = sorted(texts(directory, manifest, dataset), key=tokens)
    return Column(name=dataset[0], rows=tuple(spread(feeds, count)))


def spread(items: Sequence[Feeds], count: int) -> list[Feeds]:
    """Return ``count`` of the items at even distances, or all where there are fewer."""
    count = min(count, len(items))
    # The middle of each of ``count`` equal parts: neither the shortest nor the longest decides.
    return [items[int((i + 0.5) * len(items) / count)] for i in range(count)]


def texts(
    directory: Path,
    manifest: Mapping[str, Any],
    dataset: tuple[str, Path | None] | None,
    *,
    split: str = "dev",
) -> list[Feeds]:
    """Tokenize real texts as the task does it, cut to what the model takes.

    Args:
        directory: Deployment directory, for its tokenizer.
        manifest: Its manifest.
        dataset: Name and path, None for the data of the shipped sample of the task.
        split: ``dev`` or ``train``.

    Raises:
        InputError: The data cannot be read, is for another task, or there is no tokenizer.
    """
    from albert_deploy.export.samples import SAMPLES
    from albert_deploy.validation.data.datasets import DATASETS, read_dataset
    from albert_deploy.validation.data.rows import RowsConfig, prepared

    task = manifest["task"]
    sample = SAMPLES["sample-squad" if task == "question-answering" else "sample-sst2"]
    name, path = (sample.dataset, sample.data) if dataset is None else dataset
    if dataset is not None and not DATASETS[name].fits(task):
        raise InputError(
            f"{name} is data for {DATASETS[name].task}, the checkpoint is for {task}; give data "
            "of its own task or leave --dataset out"
        )
    if path is None:
        path = next((s.data for s in SAMPLES.values() if s.dataset == name), Path(name))
    rows = read_dataset(name, path, split=split)
    tokenizer = load_tokenizer(directory)
    texts = prepared(rows, manifest["contract"], tokenizer, RowsConfig(truncate=True))
    return [feeds for row in texts for feeds in row.feeds]
