"""What a bench times: rows of fixed lengths, and real texts as long as a data set's are."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from albert_deploy.export.engine.profiles import best_edges, lengths_from
from albert_deploy.runtime.contract import CHOICES, INPUT_NAMES
from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.session import Feeds
from albert_deploy.runtime.tasks.tokenize import load_tokenizer
from albert_deploy.validation.bench.config import BenchConfig

# Rows of a batch of real texts, unless the largest batch is smaller.
REAL_BATCH = 32
# What the engines of a deployment directory may have at most by default.
_MOST_BUCKETS, _MULTIPLE = 4, 8


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of the tables.

    Args:
        name: Key in the report, such as ``128``, ``8x128`` or ``sst2``.
        label: Name for people.
        rows: Feeds; the time of a column is the mean over them.
        batch: Most rows of one of them.
        lengths: Real tokens of each text.
        edges: Where the buckets end that its batches were made of; empty where there are none.
    """

    name: str
    label: str
    rows: tuple[Feeds, ...]
    batch: int = 1
    lengths: tuple[int, ...]
    edges: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the form that the report holds.

        ``tokens`` are those of a row of each input, ``padding`` is the computed tokens over the
        real ones.
        """
        computed = sum(feeds["input_ids"].size for feeds in self.rows)
        return {
            "label": self.label,
            "batch": self.batch,
            "tokens": [tokens(row) for row in self.rows],
            "texts": len(self.lengths),
            "real_tokens": sum(self.lengths),
            "padding": round(computed / sum(self.lengths), 4),
            "edges": list(self.edges),
        }


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
            "tokens: pass shorter `lengths`"
        )
    return fitting, tuple(n for n in wanted if n > max_length)


def make_columns(
    directory: Path, manifest: Mapping[str, Any], config: BenchConfig, lengths: Sequence[int]
) -> list[Column]:
    """Return every shape, the smallest first, as memory grows along; then the data sets.

    Args:
        directory: Deployment directory, for its tokenizer.
        manifest: Its manifest.
        config: Options.
        lengths: Those of them that the model takes.

    Raises:
        InputError: Data cannot be read, is for another task, or there is no tokenizer.
    """
    shapes = [(b, n) for b in set(config.batches) for n in lengths]
    shapes.sort(key=lambda shape: (shape[0] * shape[1], shape[1]))
    columns = [_shape_column(manifest, b, n, config.seed) for b, n in shapes]
    most = max(config.batches)
    for dataset in config.datasets:
        if most == 1:
            columns.append(dataset_column(directory, manifest, dataset, config.dataset_rows))
        else:
            columns += batch_columns(
                directory,
                manifest,
                dataset,
                config.dataset_rows,
                min(REAL_BATCH, most),
                config.seed,
            )
    return columns


def _shape_column(manifest: Mapping[str, Any], batch: int, length: int, seed: int) -> Column:
    rows = [random_row(manifest, length, seed=seed + i) for i in range(batch)]
    feeds = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    return Column(
        name=str(length) if batch == 1 else f"{batch}x{length}",
        label=f"{length} tokens",
        rows=(feeds,),
        batch=batch,
        lengths=(feeds["input_ids"].size // batch,) * batch,
    )


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
    """Take ``count`` texts of a data set, evenly over its lengths, to run one by one.

    Args:
        directory: Deployment directory.
        manifest: Its manifest.
        dataset: Name and path, None for the data of the shipped sample.
        count: Texts; a data set with fewer gives all of them.

    Raises:
        InputError: The data cannot be read, is for another task, or the directory has no
            tokenizer.
    """
    feeds = spread(sorted(texts(directory, manifest, dataset), key=tokens), count)
    lengths = tuple(row["input_ids"].size for row in feeds)
    return Column(name=dataset[0], label=dataset[0], rows=tuple(feeds), lengths=lengths)


def batch_columns(
    directory: Path,
    manifest: Mapping[str, Any],
    dataset: tuple[str, Path | None],
    count: int,
    size: int,
    seed: int,
) -> list[Column]:
    """Take texts of a data set in batches: as they come, and those of a length together.

    A batch of the first column is padded to its longest row, one of the second to the end of its
    bucket. The buckets are those that ``build`` would choose for these texts. Of a data set for
    another task only the lengths count, which any model can run.

    Args:
        directory: Deployment directory.
        manifest: Its manifest.
        dataset: Name and path, None for the data of the shipped sample.
        count: Texts, drawn at random; questions with a context count by windows.
        size: Most rows of a batch.
        seed: Of the draw.

    Raises:
        InputError: The data cannot be read, or the directory has no tokenizer.
    """
    every = texts(directory, manifest, dataset, any_task=True)
    order = np.random.default_rng(seed).permutation(len(every))[:count]
    rows = [every[i] for i in order]
    lengths = tuple(map(tokens, rows))
    counts = {n: lengths.count(n) for n in set(lengths)}
    known = lengths_from(counts, int(manifest["contract"]["max_length"]))
    edges = best_edges(known.counts, _MOST_BUCKETS, multiple=_MULTIPLE)
    buckets: list[list[Feeds]] = [[] for _ in edges]
    for row in rows:
        buckets[bisect.bisect_left(edges, tokens(row))].append(row)
    pad = int(manifest["contract"]["pad_token_id"])
    come = [padded(chunk, max(map(tokens, chunk)), pad) for chunk in _chunks(rows, size)]
    sorted_in = [
        padded(chunk, edge, pad)
        for edge, bucket in zip(edges, buckets, strict=True)
        for chunk in _chunks(bucket, size)
    ]
    name = dataset[0]
    return [
        Column(
            name=name, label=f"{name}, as it comes", rows=tuple(come), batch=size, lengths=lengths
        ),
        Column(
            name=f"{name}-buckets",
            label=f"{name}, in buckets",
            rows=tuple(sorted_in),
            batch=size,
            lengths=lengths,
            edges=edges,
        ),
    ]


def _chunks(rows: Sequence[Feeds], size: int) -> list[Sequence[Feeds]]:
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def padded(rows: Sequence[Feeds], width: int, pad_id: int) -> Feeds:
    """Join rows into one batch, int64 [rows, width], padded on the right."""
    fill = dict.fromkeys(INPUT_NAMES, 0) | {"input_ids": pad_id}
    joined = {}
    for name in INPUT_NAMES:
        parts = []
        for row in rows:
            sides = [(0, 0)] * (row[name].ndim - 1) + [(0, width - tokens(row))]
            parts.append(np.pad(row[name], sides, constant_values=fill[name]))
        joined[name] = np.concatenate(parts)
    return joined


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
    any_task: bool = False,
) -> list[Feeds]:
    """Tokenize real texts as the task does it, cut to what the model takes.

    Args:
        directory: Deployment directory, for its tokenizer.
        manifest: Its manifest.
        dataset: Name and path, None for the data of the shipped sample of the task.
        split: ``dev`` or ``train``.
        any_task: The data may be for another task.

    Raises:
        InputError: The data cannot be read, is for another task, or there is no tokenizer.
    """
    from albert_deploy.export.samples import SAMPLES
    from albert_deploy.validation.data.datasets import read_dataset
    from albert_deploy.validation.data.rows import RowsConfig, encode_rows
    from albert_deploy.validation.data.table import check_fits

    task = manifest["task"]
    sample = SAMPLES["sample-squad" if task == "question-answering" else "sample-sst2"]
    name, path = (sample.dataset, sample.data) if dataset is None else dataset
    if dataset is not None and not any_task:
        check_fits(name, task)
    if path is None:
        path = next((s.data for s in SAMPLES.values() if s.dataset == name), Path(name))
    rows = read_dataset(name, path, split=split)
    tokenizer = load_tokenizer(directory)
    texts = encode_rows(rows, manifest["contract"], tokenizer, RowsConfig(truncate=True))
    return [feeds for row in texts for feeds in row.feeds]
