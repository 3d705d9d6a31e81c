"""Data sets in their official layout: what each is called, where its columns are, its rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from albert_deploy.runtime.errors import InputError

_Kind = TypeVar("_Kind", str, list[Any])


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Where a data set keeps what.

    Args:
        task: A key of ``albert_deploy.runtime.contract.TASKS``.
        files: File name of each split in the official folder.
        metrics: Scores by which results on it are published.
        text: Column of the first text, for a data set in TSV.
        pair: Column of the second text, if there is one.
        label: Column of the label.
        labels: What stands in that column for class 0, 1, ...
        names: What those classes are called, in lower case.
    """

    task: str
    files: dict[str, str]
    metrics: tuple[str, ...]
    text: str = ""
    pair: str | None = None
    label: str = ""
    labels: tuple[str, ...] = ()
    names: tuple[str, ...] = ()


DATASETS: dict[str, Dataset] = {
    "sst2": Dataset(
        task="text-classification",
        files={"dev": "dev.tsv", "train": "train.tsv"},
        metrics=("accuracy",),
        text="sentence",
        label="label",
        labels=("0", "1"),
        names=("negative", "positive"),
    ),
    "squad": Dataset(
        task="question-answering",
        files={"dev": "dev-v1.1.json", "train": "train-v1.1.json"},
        metrics=("exact_match", "f1"),
    ),
}


@dataclass(frozen=True, kw_only=True)
class ClassificationRow:
    """A text, or two, and its class id; ``id`` counts the rows of the file from 0."""

    id: str
    text: str
    pair: str | None
    label: int


@dataclass(frozen=True, kw_only=True)
class QuestionRow:
    """A question, the context that answers it and at least one reference answer."""

    id: str
    question: str
    context: str
    answers: tuple[str, ...]


def dataset_named(name: str) -> Dataset:
    """Look a data set up.

    Raises:
        InputError: Unknown data set; the message lists the known ones.
    """
    try:
        return DATASETS[name]
    except KeyError:
        known = ", ".join(DATASETS)
        raise InputError(f"unknown data set {name!r}; use one of: {known}") from None


def parse_dataset_option(option: str) -> tuple[str, Path | None]:
    """Split ``NAME`` or ``NAME=PATH``.

    Raises:
        InputError: Unknown data set, or nothing after the equals sign.
    """
    name, equals, path = option.partition("=")
    dataset_named(name)
    if equals and not path:
        raise InputError(f"got {option!r} without a path; write {name}=PATH or {name}")
    return name, Path(path) if equals else None


def read_dataset(
    name: str, path: Path, *, split: str = "dev"
) -> list[ClassificationRow] | list[QuestionRow]:
    """Read all rows of a data set, in the order of the file.

    Args:
        name: A key of ``DATASETS``.
        path: The official folder, or the file itself (``split`` is then not looked at).
        split: ``dev`` or ``train``.

    Raises:
        InputError: Unknown name or split, no such file, or a file or row that is not as the
            official layout has it.
    """
    dataset = dataset_named(name)
    file, text = _read_text(name, path, split)
    if dataset.task == "question-answering":
        return _question_rows(file, text)
    return _classification_rows(dataset, file, text)


def data_file(name: str, path: Path, split: str = "dev") -> Path:
    """Return the file that ``read_dataset`` reads; it need not exist.

    Args:
        name: A key of ``DATASETS``.
        path: The official folder, or the file itself (``split`` is then not looked at).
        split: ``dev`` or ``train``.

    Raises:
        InputError: Unknown name or split.
    """
    files = dataset_named(name).files
    if split not in files:
        raise InputError(f"{name} has no split {split!r}; use one of: {', '.join(files)}")
    return path / files[split] if path.is_dir() else path


def _read_text(name: str, path: Path, split: str) -> tuple[Path, str]:
    """Return the file of a split and its text."""
    file, official = path, dataset_named(name).files.get(split, "")
    remedy = f"give {name}=PATH with the folder that holds {official}, or with the file itself"
    try:
        file = data_file(name, path, split)
        data = file.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{file} does not exist; {remedy}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise InputError(f"cannot read {file}: {error}; {remedy}") from error
    try:
        return file, data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{file}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8; "
            "save the file as UTF-8"
        ) from None


def _classification_rows(dataset: Dataset, file: Path, text: str) -> list[ClassificationRow]:
    """Read TSV as GLUE writes it: a header, a tab between columns, and quotes mean nothing."""
    # Not splitlines(): a text may hold U+2028 and its like.
    lines = [line.removesuffix("\r") for line in text.rstrip("\r\n").split("\n")]
    header = lines[0].split("\t")
    wanted = [column for column in (dataset.text, dataset.pair, dataset.label) if column]
    missing = [column for column in wanted if column not in header]
    if missing:
        raise InputError(
            f"{file}, line 1: the header {lines[0][:80]!r} lacks {' and '.join(missing)}; "
            f"use a labelled split in GLUE's layout: {', '.join(wanted)}, separated by tabs"
        )
    rows: list[ClassificationRow] = []
    for number, line in enumerate(lines[1:], start=2):
        where = f"{file}, line {number}"
        cells = line.split("\t")
        if len(cells) != len(header):
            raise InputError(
                f"{where}: {len(cells)} columns, wanted {len(header)} as in the header; "
                "correct or remove the row"
            )
        cell = dict(zip(header, cells, strict=True))
        for column in (dataset.text, dataset.pair):
            if column and not cell[column].strip():
                raise InputError(f"{where}: {column} is empty; correct or remove the row")
        if cell[dataset.label] not in dataset.labels:
            raise InputError(
                f"{where}: {dataset.label} is {cell[dataset.label][:80]!r}, "
                f"wanted {' or '.join(dataset.labels)}; correct or remove the row"
            )
        rows.append(
            ClassificationRow(
                id=str(len(rows)),
                text=cell[dataset.text],
                pair=cell[dataset.pair] if dataset.pair else None,
                label=dataset.labels.index(cell[dataset.label]),
            )
        )
    if not rows:
        raise InputError(f"{file} has a header and no rows; use a split with at least one row")
    return rows


def _question_rows(file: Path, text: str) -> list[QuestionRow]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is not JSON: {error}; use SQuAD's dev-v1.1.json") from None
    rows: dict[str, QuestionRow] = {}
    for where, context, question in _questions(file, value):
        row_id = _field(question, "id", str, where)
        if row_id in rows:
            raise InputError(f"{where}: id {row_id!r} is there twice; remove one of the questions")
        answers = tuple(
            _field(answer, "text", str, f"{where}.answers[{index}]")
            for index, answer in enumerate(_field(question, "answers", list, where))
        )
        if not answers:
            raise InputError(
                f"{where}: question {row_id} has no answers, wanted at least one; "
                "use SQuAD v1.1, where every question has some"
            )
        for answer in answers:
            if answer not in context:
                raise InputError(
                    f"{where}: {answer[:80]!r}, an answer to {row_id}, is not in its context; "
                    "correct or remove the question"
                )
        rows[row_id] = QuestionRow(
            id=row_id,
            question=_field(question, "question", str, where),
            context=context,
            answers=answers,
        )
    if not rows:
        raise InputError(f"{file} has no questions; use SQuAD's dev-v1.1.json")
    return list(rows.values())


def _questions(file: Path, value: object) -> Iterator[tuple[str, str, object]]:
    """Yield the place, the context and the record of each question of a SQuAD file."""
    for i, article in enumerate(_field(value, "data", list, str(file))):
        place = f"{file}, data[{i}]"
        for j, paragraph in enumerate(_field(article, "paragraphs", list, place)):
            where = f"{place}.paragraphs[{j}]"
            context = _field(paragraph, "context", str, where)
            for k, question in enumerate(_field(paragraph, "qas", list, where)):
                yield f"{where}.qas[{k}]", context, question


def _field(record: object, key: str, kind: type[_Kind], where: str) -> _Kind:
    """Return a field of a JSON object that has to be a list or a string with text in it."""
    value = record.get(key) if isinstance(record, dict) else None
    if isinstance(value, kind) and (not isinstance(value, str) or value.strip()):
        return value
    shown = "missing" if value is None else repr(value)[:80]
    wanted = "text" if kind is str else "a list"
    raise InputError(
        f"{where}: {key!r} is {shown}, wanted {wanted}; use a file in SQuAD's v1.1 layout"
    )
