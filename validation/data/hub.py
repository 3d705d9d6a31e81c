"""Data sets from the Hugging Face hub, at one commit, as the same rows that files give."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from albert_deploy.runtime.errors import InputError, MachineError
from albert_deploy.validation.data.labels import canonical, class_ids
from albert_deploy.validation.data.layouts import TAG, Bad, Dropped, label_of, wanted_labels
from albert_deploy.validation.data.layouts_json import choice_row
from albert_deploy.validation.data.rows import (
    ChoiceRow,
    ClassificationRow,
    Example,
    QuestionRow,
    TokensRow,
)
from albert_deploy.validation.data.table import Dataset, Hub

_COMMIT = re.compile(r"[0-9a-f]{40}")


def hub_rows(
    name: str, dataset: Dataset, *, split: str, revision: str | None
) -> tuple[Iterator[Example | Bad | Dropped], str]:
    """Load a split from the hub, or from what an earlier load left in the cache.

    Args:
        name: Name of the data set, for errors.
        dataset: The row of the table.
        split: ``dev`` or ``train``.
        revision: Commit, branch or tag; None for the newest commit. Anything but a full commit
            is looked up first, so that what is read is always one commit.

    Returns:
        The rows, and the commit they are of.

    Raises:
        InputError: The data set is not on the hub, or has no such split or revision.
        MachineError: A package is missing or the hub cannot be reached.
    """
    hub = dataset.hub
    if hub is None:
        raise InputError(
            f"{name} is made from your own text; give a file with {name}=PATH, one text per line"
        )
    if split not in dataset.files:
        raise InputError(f"{name} has no split {split!r}; use one of: {', '.join(dataset.files)}")
    try:
        import datasets
        from huggingface_hub import HfApi, errors
    except ImportError as error:
        raise MachineError(
            f"{name} without a path comes from the Hugging Face hub, and {error.name} is not "
            f"installed; run: pip install 'albert-deploy[hub]', or give {name}=PATH"
        ) from error
    try:
        commit = revision
        if commit is None or not _COMMIT.fullmatch(commit):
            commit = str(HfApi().dataset_info(hub.repository, revision=revision).sha)
        table = datasets.load_dataset(
            hub.repository, hub.config, split=hub.dev if split == "dev" else split, revision=commit
        )
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise InputError(
            f"the Hugging Face hub has no {hub.repository} at revision {revision or 'main'} "
            f"({type(error).__name__}); give another revision, or {name}=PATH"
        ) from error
    except Exception as error:  # timeouts and refusals have the classes of several HTTP clients
        raise MachineError(
            f"cannot load {hub.repository} from the Hugging Face hub "
            f"({type(error).__name__}: {str(error)[:200]}); "
            f"see to the network, or give {name}=PATH with the official files"
        ) from error
    return table_rows(dataset, table), commit


def table_rows(dataset: Dataset, table: Any) -> Iterator[Example | Bad | Dropped]:
    """Convert rows of the hub; malformed ones are told by their number, from 0.

    Args:
        dataset: The row of the table of data sets.
        table: A ``datasets.Dataset`` with the columns that the hub has.

    Raises:
        InputError: It lacks a column, or its labels are not those of the data set.
    """
    hub = dataset.hub
    if hub is None:
        raise InputError("this data set is not on the hub; give a file")
    columns = _columns(dataset, hub)
    missing = [column for column in columns if column not in table.column_names]
    if missing:
        raise InputError(
            f"{hub.repository} lacks {' and '.join(missing)}, wanted the columns "
            f"{', '.join(columns)}; give a revision that has them"
        )
    classes = _classes(dataset, table, hub) if dataset.layout in ("tsv", "columns") else None
    for index, record in enumerate(table):
        where = f"{hub.repository}, row {index}"
        if dataset.layout == "tsv":
            yield _classification(dataset, hub, record, classes, where, str(index))
        elif dataset.layout == "squad":
            yield _question(dataset, record, where)
        elif dataset.layout == "race":
            yield _choice(record, where, index)
        else:
            yield _tokens(hub, record, classes, where, str(index))


def _columns(dataset: Dataset, hub: Hub) -> tuple[str, ...]:
    if dataset.layout == "tsv":
        return (*hub.columns, "label")
    if dataset.layout == "squad":
        return ("id", "context", "question", "answers")
    if dataset.layout == "race":
        return ("example_id", "article", "question", "options", "answer")
    return hub.columns


def _classes(dataset: Dataset, table: Any, hub: Hub) -> list[Any] | None:
    """Return what each id in the hub's label column stands for; None for plain values."""
    feature = table.features["label" if dataset.layout == "tsv" else hub.columns[1]]
    names = getattr(getattr(feature, "feature", feature), "names", None)
    if names is None or dataset.layout == "columns":
        return names
    ids = class_ids([canonical(name) for name in names], dataset)
    if ids is None:
        raise InputError(
            f"the classes of {hub.repository} are {', '.join(names)}, wanted "
            f"{', '.join(dataset.names)}; give another revision"
        )
    return list(ids)


def _classification(
    dataset: Dataset,
    hub: Hub,
    record: dict[str, Any],
    classes: list[Any] | None,
    where: str,
    row_id: str,
) -> ClassificationRow | Bad | Dropped:
    texts = [record[column] for column in hub.columns]
    for column, text in zip(hub.columns, texts, strict=True):
        if not isinstance(text, str) or not text.strip():
            if dataset.drop_incomplete:
                return Dropped(f"{where}: {column} is empty, as in the official file")
            return Bad(f"{where}: {column} is {text!r:.80}, wanted text")
    given = record["label"]
    label: int | float | None
    if dataset.values is not None:
        label = label_of(dataset, str(given))
    else:
        known = range(len(dataset.labels)) if classes is None else classes
        usable = isinstance(given, int) and 0 <= given < len(known)
        label = known[given] if usable else None
    if label is None:
        return Bad(f"{where}: label is {given!r:.80}, wanted the id of {wanted_labels(dataset)}")
    pair = texts[1] if len(texts) > 1 else None
    return ClassificationRow(id=row_id, text=texts[0], pair=pair, label=label)


def _question(dataset: Dataset, record: dict[str, Any], where: str) -> QuestionRow | Bad:
    answers = tuple((record["answers"] or {}).get("text") or ())
    texts = (record["id"], record["question"], record["context"], *answers)
    if not all(isinstance(text, str) and text.strip() for text in texts):
        return Bad(f"{where}: id, question, context or an answer is empty, wanted text")
    if not answers and "NoAns_exact" not in dataset.metrics:
        return Bad(f"{where}: question {record['id']} has no answers, wanted at least one")
    lost = [answer for answer in answers if answer not in record["context"]]
    if lost:
        return Bad(f"{where}: {lost[0][:80]!r}, an answer, is not in its context")
    return QuestionRow(
        id=record["id"],
        question=record["question"],
        context=record["context"],
        answers=answers,
    )


def _choice(record: dict[str, Any], where: str, index: int) -> ChoiceRow | Bad:
    passage = str(record["example_id"]).removesuffix(".txt")
    group = "middle" if passage.startswith("middle") else "high"
    return choice_row(
        where=where,
        # The hub has no number of the question within its passage.
        row_id=f"{group}/{passage.removeprefix(group)}-{index}",
        group=group,
        texts=(record["article"], record["question"]),
        choices=record["options"],
        answer=record["answer"],
    )


def _tokens(
    hub: Hub, record: dict[str, Any], classes: list[Any] | None, where: str, row_id: str
) -> TokensRow | Bad:
    words, given = (record[column] or () for column in hub.columns)
    try:
        tags = tuple(tag if classes is None else classes[tag] for tag in given)
    except (IndexError, TypeError):
        return Bad(f"{where}: the tags are {given!r:.80}, wanted ids below {len(classes or ())}")
    if not words or len(words) != len(tags):
        return Bad(f"{where}: {len(words)} words and {len(tags)} tags, wanted as many, above 0")
    if not all(isinstance(tag, str) and TAG.fullmatch(tag) for tag in tags):
        return Bad(f"{where}: the tags are {tags!r:.80}, wanted O or a type after B- or I-")
    return TokensRow(id=row_id, words=tuple(words), tags=tags)
