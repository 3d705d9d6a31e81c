"""Real lengths for a GPU benchmark: rows of a data set, or of the bundled samples, in tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from albert_deploy.export.engine.profiles import best_edges, lengths_from
from albert_deploy.export.samples import SAMPLES
from albert_deploy.runtime.contract import BATCH, SEQUENCE
from albert_deploy.runtime.tasks.tokenize import load_tokenizer
from albert_deploy.validation.bench.gpu_lengths import Distribution

# What the engines of a deployment directory may have at most by default.
MOST_BUCKETS = 4
_MULTIPLE = 8


def distribution(
    name: str,
    path: Path | None,
    *,
    tokenizer: Path,
    limit: int,
    rows: int = 512,
    seed: int = 0,
) -> Distribution:
    """Tokenize some rows of a data set, drawn at random, and choose buckets for their lengths.

    Args:
        name: Key of ``DATASETS`` with rows of one or two texts, or questions with a context,
            whose windows count as rows.
        path: Where it is; None for the data of the shipped sample of that name.
        tokenizer: Folder with ``tokenizer.json``.
        limit: Most tokens.
        rows: How many at most.
        seed: Of the draw.

    Raises:
        InputError: The data or the tokenizer cannot be read.
    """
    from albert_deploy.validation.data.datasets import read_dataset
    from albert_deploy.validation.data.rows import RowsConfig, encode_rows

    if path is None:
        path = next((s.data for s in SAMPLES.values() if s.dataset == name), Path(name))
    every = read_dataset(name, path)
    order = np.random.default_rng(seed).permutation(len(every))[:rows]
    contract = {
        "max_length": limit,
        "pad_token_id": 0,
        "inputs": [{"name": "input_ids", "axes": [BATCH, SEQUENCE]}],
    }
    found = encode_rows(
        [every[i] for i in order], contract, load_tokenizer(tokenizer), RowsConfig(truncate=True)
    )
    lengths = [feeds["input_ids"].shape[-1] for row in found for feeds in row.feeds][:rows]
    counts = {n: lengths.count(n) for n in set(lengths)}
    known = lengths_from(counts, limit)
    return Distribution(
        name=name,
        lengths=tuple(lengths),
        edges=best_edges(known.counts, MOST_BUCKETS, multiple=_MULTIPLE),
    )
