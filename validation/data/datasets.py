"""Data sets by name: find the file, read its rows, from disk or from the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from albert_deploy.runtime.errors import InputError, lookup
from albert_deploy.validation.data.layouts import (
    Bad,
    Dropped,
    column_rows,
    line_rows,
    order_rows,
    tsv_rows,
)
from albert_deploy.validation.data.layouts_json import GROUPS, race_rows, squad_rows
from albert_deploy.validation.data.rows import Data, Example
from albert_deploy.validation.data.table import DATASETS, Dataset, Layout

# Layout -> what reads a file of it; see ``Bad`` and ``Dropped`` for rows that cannot be used.
READERS: dict[Layout, Callable[[Dataset, Path], Iterator[Any]]] = {
    "tsv": tsv_rows,
    "squad": squad_rows,
    "race": race_rows,
    "columns": column_rows,
    "lines": line_rows,
    "order": order_rows,
}
# Of the rows that are left out, the first ones are explained.
REASONS = 10


def parse_dataset_option(option: str) -> tuple[str, Path | None]:
    """Split ``NAME`` or ``NAME=PATH``.

    Raises:
        InputError: Unknown data set, or nothing after the equals sign.
    """
    name, equals, path = option.partition("=")
    lookup(DATASETS, name, "data set")
    if equals and not path:
        raise InputError(f"got {option!r} without a path; write {name}=PATH or {name}")
    return name, Path(path) if equals else None


def read_data(
    name: str,
    path: Path | None,
    *,
    split: str = "dev",
    skip_bad_rows: bool = False,
    revision: str | None = None,
) -> Data:
    """Read a data set, in the order of the file.

    Args:
        name: A key of ``DATASETS``.
        path: The official folder, or the file itself (``split`` is then not looked at); None for
            the Hugging Face hub.
        split: ``dev`` or ``train``.
        skip_bad_rows: Leave malformed rows out and count them; otherwise the first is an error.
        revision: Commit, branch or tag of the hub's repository; None for the newest commit.

    Raises:
        InputError: Unknown name or split, no such file, a file or row that is not as the
            official layout has it, or a revision that does not go with ``path``.
        MachineError: The hub is wanted and cannot be used from here.
    """
    dataset = lookup(DATASETS, name, "data set")
    file = None
    found: Iterable[Any]
    if path is None:
        from albert_deploy.validation.data.hub import hub_rows

        found, revision = hub_rows(name, dataset, split=split, revision=revision)
    elif revision is not None:
        raise InputError(
            f"got revision {revision!r} and {path}; a revision is one of the Hugging Face hub: "
            f"leave the path of {name} or the revision out"
        )
    else:
        file = data_file(name, path, split)
        _check_place(file, name, split)
        found = READERS[dataset.layout](dataset, file)
    rows, skipped, reasons = _collect(found, skip_bad_rows=skip_bad_rows)
    if not rows:
        place = f"{name} on the Hugging Face hub" if file is None else str(file)
        raise InputError(_nothing(place, dataset, skipped, reasons))
    return Data(rows=rows, skipped=skipped, reasons=reasons, file=file, revision=revision)


def read_dataset(name: str, path: Path, *, split: str = "dev") -> list[Example]:
    """Return the rows of ``read_data``; a malformed row is an error.

    Raises:
        InputError: See ``read_data``.
    """
    return read_data(name, path, split=split).rows


def data_file(name: str, path: Path, split: str = "dev") -> Path:
    """Return the file, or RACE's folder, that ``read_data`` reads; it need not exist.

    Args:
        name: A key of ``DATASETS``.
        path: The official folder, or the file itself (``split`` is then not looked at).
        split: ``dev`` or ``train``.

    Raises:
        InputError: Unknown name or split.
    """
    dataset = lookup(DATASETS, name, "data set")
    files = dataset.files
    if split not in files:
        raise InputError(f"{name} has no split {split!r}; use one of: {', '.join(files)}")
    if not path.is_dir():
        return path
    if dataset.layout == "race" and any((path / group).is_dir() for group in GROUPS):
        return path
    names = (files[split], *dataset.other_files.get(split, ()))
    folders = (path, path / dataset.folder) if dataset.folder else (path,)
    found = (folder / file for folder in folders for file in names if (folder / file).exists())
    return next(found, path / files[split])


def _check_place(file: Path, name: str, split: str) -> None:
    dataset = lookup(DATASETS, name, "data set")
    official = dataset.files.get(split, "")
    remedy = f"give {name}=PATH with the folder that holds {official}"
    remedy += "/middle/*.txt" if dataset.layout == "race" else ", or with the file itself"
    try:
        folder = file.is_dir()
        file.stat()
    except FileNotFoundError:
        raise InputError(f"{file} does not exist; {remedy}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise InputError(f"cannot read {file}: {error}; {remedy}") from error
    if folder and dataset.layout != "race":
        raise InputError(f"cannot read {file}: it is a folder; {remedy}")


def _collect(
    found: Iterable[Any], *, skip_bad_rows: bool
) -> tuple[list[Example], int, tuple[str, ...]]:
    """Separate rows from those that cannot be used; return both, the latter as a count."""
    rows: list[Example] = []
    reasons: list[str] = []
    skipped = 0
    for row in found:
        if not isinstance(row, (Bad, Dropped)):
            rows.append(row)
            continue
        if isinstance(row, Bad) and not skip_bad_rows:
            raise InputError(row.reason)
        skipped += 1
        if len(reasons) < REASONS:
            reasons.append(row.reason)
    return rows, skipped, tuple(reasons)


def _nothing(place: str, dataset: Dataset, skipped: int, reasons: tuple[str, ...]) -> str:
    if skipped:
        return (
            f"{place}: none of its {skipped} rows can be used, the first because of: {reasons[0]}"
        )
    if dataset.layout == "squad":
        return f"{place} has no questions; use SQuAD's {dataset.files['dev']}"
    if dataset.layout == "race":
        return f"{place} has no questions; use RACE's folder {dataset.files['dev']}"
    if dataset.layout == "order":
        return f"{place} has no two sentences in a row; use a text with paragraphs of several"
    header = "a header and " if dataset.layout == "tsv" and not dataset.header else ""
    return f"{place} has {header}no rows; use a split with at least one row"


def shipped_texts(task: str, count: int) -> list[Example]:
    """Return real texts from the shipped samples, to run a model that has no data set."""
    from albert_deploy.export.samples import SAMPLES

    name = "sample-squad" if task == "question-answering" else "sample-sst2"
    return list(read_dataset(SAMPLES[name].dataset, SAMPLES[name].data)[:count])
