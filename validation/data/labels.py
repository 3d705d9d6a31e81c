"""Which of the data's classes each class of a checkpoint is, told by name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from albert_deploy.runtime.errors import InputError, lookup
from albert_deploy.validation.data.layouts import TAG
from albert_deploy.validation.data.table import DATASETS, Dataset

# Other names under which checkpoints have a class, in the form of ``canonical``.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "negative": ("neg",),
    "positive": ("pos",),
    "acceptable": ("grammatical",),
    "unacceptable": ("ungrammatical", "not_acceptable"),
    "equivalent": ("paraphrase", "semantically_equivalent"),
    "not_equivalent": ("not_paraphrase", "not_semantically_equivalent", "inequivalent"),
    "duplicate": ("is_duplicate", "paraphrase"),
    "not_duplicate": ("is_not_duplicate", "not_paraphrase"),
    "entailment": ("entail", "entails", "entailed"),
    "contradiction": ("contradict", "contradicts", "contradictory"),
    "not_entailment": ("no_entailment", "non_entailment", "not_entailed", "notentailment"),
}
_GENERIC = re.compile(r"(?:label|class)?_?(\d+)")
_NUMBERED = re.compile(r"\d+\s*[:.)]\s*(?=\D)")


def label_map(
    name: str, contract: Mapping[str, Any], *, order: Sequence[str] | None = None
) -> tuple[int, ...]:
    """Return the data's class id of each class of a checkpoint.

    Classes are told by the names in the checkpoint's ``id2label``. Without names (``LABEL_0``)
    the ids are taken as the data's, except where checkpoints are known to differ: the three
    classes of MNLI, where a guess would turn a good checkpoint into one at 33%.

    Args:
        name: A key of ``DATASETS``.
        contract: The manifest's contract, with ``labels`` and ``problem_type``.
        order: Names of the checkpoint's classes, in its order, for one whose ``id2label`` does
            not say them.

    Returns:
        Class ids, one for each of the checkpoint's labels. Those of a checkpoint that does not
        choose among the data's classes (answers, choices, tags) are 0, 1, ...

    Raises:
        InputError: Another number of classes, names that are not the data's, or no names where
            the order cannot be known.
    """
    dataset = lookup(DATASETS, name, "data set")
    labels = list(contract["labels"] if order is None else order)
    problem = contract["problem_type"]
    if dataset.layout == "columns":
        return _tag_ids(name, labels)
    if dataset.values is not None:
        if len(contract["labels"]) != 1 or problem not in (None, "regression"):
            raise InputError(
                f"{name} wants one number, the checkpoint has {len(contract['labels'])} labels "
                f"({problem}); give data that it was trained for"
            )
        return (0,)
    classes = dataset.labels
    if not classes:
        return tuple(range(len(dataset.names) or len(labels)))
    chooses = problem in (None, "single_label_classification")
    if len(contract["labels"]) != len(classes) or not chooses:
        raise InputError(
            f"{name} has {len(classes)} classes to choose from, the checkpoint has "
            f"{len(contract['labels'])} labels ({problem}); give data that it was trained for"
        )
    ids = class_ids([canonical(label) for label in labels], dataset)
    if ids is not None:
        return ids
    raise InputError(
        f"the {'order' if order is not None else 'checkpoint'} has the classes "
        f"{', '.join(labels)}, those of {name} are {', '.join(dataset.names)}, and which is which "
        "cannot be told; name them in id2label of the checkpoint's config.json, or give their "
        "order"
    )


def canonical(label: str) -> str:
    """Return a label's name in lower case, with underscores and without a number before it."""
    bare = _NUMBERED.sub("", label.strip().lower(), count=1)
    return re.sub(r"[\s-]+", "_", bare)


def class_ids(labels: Sequence[str], dataset: Dataset) -> tuple[int, ...] | None:
    """Return the data's class id of each label; None where that cannot be told.

    Args:
        labels: Names in the form of ``canonical``.
        dataset: The row of the table.
    """
    known = {
        alias: index
        for index, name in enumerate(dataset.names)
        for alias in (name, *SYNONYMS.get(name, ()))
    }
    ids = [known.get(label) for label in labels]
    if all(index is None for index in ids) and len(dataset.names) == 2:
        numbers = [_GENERIC.fullmatch(label) for label in labels]
        ids = [int(number[1]) if number else None for number in numbers]
    found = tuple(index for index in ids if index is not None)
    return found if sorted(found) == list(range(len(dataset.names))) else None


def _tag_ids(name: str, labels: Sequence[str]) -> tuple[int, ...]:
    """Check that a checkpoint's labels are tags; they are compared by name, so ids stay."""
    strange = [label for label in labels if not TAG.fullmatch(label)]
    if strange:
        raise InputError(
            f"the checkpoint's labels are {', '.join(labels)}, and {strange[0]} is no tag of "
            f"{name}, wanted O or a type after B-, I-, E- or S-; name the tags in id2label of "
            "the checkpoint's config.json, or give their order"
        )
    return tuple(range(len(labels)))
