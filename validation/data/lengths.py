"""How long a data set's texts are in tokens, as their task tokenizes them: a histogram."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from albert_deploy.export.engine.profiles import Lengths
from albert_deploy.runtime.contract import CHOICES
from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.manifest import read_manifest


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
    from albert_deploy.runtime.tasks.tokenize import load_tokenizer
    from albert_deploy.validation.data.datasets import read_data
    from albert_deploy.validation.data.rows import RowsConfig, encode_rows
    from albert_deploy.validation.data.table import check_fits

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
    check_fits(name, task, remedy="take lengths from data of its own task")
    data = read_data(name, path, split=split)
    counts, real = np.zeros((2, limit + 1), np.int64)
    choices: Counter[int] = Counter()
    cut = contract | {"max_length": wanted}
    rows = data.rows[::every]
    for row in encode_rows(rows, cut, load_tokenizer(directory), RowsConfig(truncate=True)):
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
