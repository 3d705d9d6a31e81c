"""The table of data sets: what each is for, where it keeps what, and how it is scored."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from albert_deploy.runtime.errors import InputError, lookup

Layout = Literal["tsv", "squad", "race", "columns", "lines", "order"]


@dataclass(frozen=True, kw_only=True)
class Hub:
    """Where the Hugging Face hub keeps a data set.

    Args:
        repository: Its id.
        config: Name of the part of the repository.
        columns: Columns of the texts, in the order of ``Dataset.text`` and ``pair``.
        dev: The hub's name of the split.
    """

    repository: str
    config: str | None
    columns: tuple[str, ...] = ()
    dev: str = "validation"


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What a data set is for and where it keeps what.

    Args:
        task: A key of ``albert_deploy.runtime.contract.TASKS``.
        also: Other tasks whose heads can be scored on it.
        layout: How its files are written; a key of ``datasets.READERS``.
        files: Name of each split's file, or folder, in the official folder.
        other_files: Names under which that split is also found.
        folder: Name of the official folder inside that of its whole benchmark.
        metrics: Scores by which results on it are published.
        header: Columns of a TSV file that has no header line.
        text: Column of the first text, for a data set in TSV.
        pair: Column of the second text, if there is one.
        label: Column of the label.
        labels: What stands in that column for class 0, 1, ...
        names: What those classes are called, in lower case.
        values: Least and largest label of a regression.
        ragged: Rows may have more columns than the header; the label is then the last one.
        dropped: Labels of rows without one, which official scores leave out.
        drop_incomplete: The official file has rows that lack a cell; scores leave them out.
        hub: Where it is on the Hugging Face hub, if it is.
    """

    task: str
    also: tuple[str, ...] = ()
    layout: Layout = "tsv"
    files: dict[str, str] = field(default_factory=lambda: {"dev": "dev.tsv", "train": "train.tsv"})
    other_files: dict[str, tuple[str, ...]] = field(default_factory=dict)
    folder: str = ""
    metrics: tuple[str, ...]
    header: tuple[str, ...] = ()
    text: str = ""
    pair: str | None = None
    label: str = ""
    labels: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    values: tuple[float, float] | None = None
    ragged: bool = False
    dropped: tuple[str, ...] = ()
    drop_incomplete: bool = False
    hub: Hub | None = None

    def fits(self, task: str) -> bool:
        """Return whether a checkpoint with the head of ``task`` can be scored on it."""
        return task == self.task or task in self.also


_GLUE = "nyu-mll/glue"
_BOOLEAN = ("0", "1")
_ENTAILED = ("entailment", "not_entailment")
_PREMISE = ("premise", "hypothesis")
_INFERENCE = ("entailment", "neutral", "contradiction")
_SQUAD_V2_PARTS = ("HasAns_exact", "HasAns_f1", "NoAns_exact", "NoAns_f1")
# The order of the ids in the hub's copy, which most checkpoints were trained with.
_CONLL = ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC", "I-MISC")

DATASETS: dict[str, Dataset] = {
    "sst2": Dataset(
        task="text-classification",
        folder="SST-2",
        metrics=("accuracy",),
        text="sentence",
        label="label",
        labels=_BOOLEAN,
        names=("negative", "positive"),
        hub=Hub(repository=_GLUE, config="sst2", columns=("sentence",)),
    ),
    "cola": Dataset(
        task="text-classification",
        folder="CoLA",
        metrics=("matthews",),
        header=("source", "label", "mark", "sentence"),
        text="sentence",
        label="label",
        labels=_BOOLEAN,
        names=("unacceptable", "acceptable"),
        hub=Hub(repository=_GLUE, config="cola", columns=("sentence",)),
    ),
    "mrpc": Dataset(
        task="text-classification",
        folder="MRPC",
        metrics=("accuracy", "f1"),
        text="#1 String",
        pair="#2 String",
        label="Quality",
        labels=_BOOLEAN,
        names=("not_equivalent", "equivalent"),
        hub=Hub(repository=_GLUE, config="mrpc", columns=("sentence1", "sentence2")),
    ),
    "stsb": Dataset(
        task="text-classification",
        folder="STS-B",
        metrics=("pearson", "spearman"),
        text="sentence1",
        pair="sentence2",
        label="score",
        values=(0.0, 5.0),
        ragged=True,
        hub=Hub(repository=_GLUE, config="stsb", columns=("sentence1", "sentence2")),
    ),
    "qqp": Dataset(
        task="text-classification",
        folder="QQP",
        metrics=("accuracy", "f1"),
        text="question1",
        pair="question2",
        label="is_duplicate",
        labels=_BOOLEAN,
        names=("not_duplicate", "duplicate"),
        drop_incomplete=True,
        hub=Hub(repository=_GLUE, config="qqp", columns=("question1", "question2")),
    ),
    "mnli": Dataset(
        task="text-classification",
        files={"dev": "dev_matched.tsv", "train": "train.tsv"},
        other_files={"dev": ("dev_matched.slim.tsv",), "train": ("train.slim.tsv",)},
        folder="MNLI",
        metrics=("accuracy",),
        text="sentence1",
        pair="sentence2",
        label="gold_label",
        labels=_INFERENCE,
        names=_INFERENCE,
        dropped=("-",),
        hub=Hub(repository=_GLUE, config="mnli", columns=_PREMISE, dev="validation_matched"),
    ),
    "mnli_mm": Dataset(
        task="text-classification",
        files={"dev": "dev_mismatched.tsv", "train": "train.tsv"},
        other_files={"dev": ("dev_mismatched.slim.tsv",), "train": ("train.slim.tsv",)},
        folder="MNLI",
        metrics=("accuracy",),
        text="sentence1",
        pair="sentence2",
        label="gold_label",
        labels=_INFERENCE,
        names=_INFERENCE,
        dropped=("-",),
        hub=Hub(repository=_GLUE, config="mnli", columns=_PREMISE, dev="validation_mismatched"),
    ),
    "qnli": Dataset(
        task="text-classification",
        folder="QNLI",
        metrics=("accuracy",),
        text="question",
        pair="sentence",
        label="label",
        labels=_ENTAILED,
        names=_ENTAILED,
        hub=Hub(repository=_GLUE, config="qnli", columns=("question", "sentence")),
    ),
    "rte": Dataset(
        task="text-classification",
        folder="RTE",
        metrics=("accuracy",),
        text="sentence1",
        pair="sentence2",
        label="label",
        labels=_ENTAILED,
        names=_ENTAILED,
        hub=Hub(repository=_GLUE, config="rte", columns=("sentence1", "sentence2")),
    ),
    "wnli": Dataset(
        task="text-classification",
        folder="WNLI",
        metrics=("accuracy",),
        text="sentence1",
        pair="sentence2",
        label="label",
        labels=_BOOLEAN,
        names=("not_entailment", "entailment"),
        hub=Hub(repository=_GLUE, config="wnli", columns=("sentence1", "sentence2")),
    ),
    "squad": Dataset(
        task="question-answering",
        layout="squad",
        files={"dev": "dev-v1.1.json", "train": "train-v1.1.json"},
        metrics=("exact_match", "f1"),
        hub=Hub(repository="rajpurkar/squad", config="plain_text"),
    ),
    "squad_v2": Dataset(
        task="question-answering",
        layout="squad",
        files={"dev": "dev-v2.0.json", "train": "train-v2.0.json"},
        metrics=("exact", "f1", *_SQUAD_V2_PARTS, "best_exact", "best_f1"),
        hub=Hub(repository="rajpurkar/squad_v2", config="squad_v2"),
    ),
    "race": Dataset(
        task="multiple-choice",
        layout="race",
        files={"dev": "dev", "train": "train"},
        folder="RACE",
        metrics=("accuracy", "accuracy_middle", "accuracy_high"),
        names=("a", "b", "c", "d"),
        hub=Hub(repository="ehovy/race", config="all"),
    ),
    "conll2003": Dataset(
        task="token-classification",
        layout="columns",
        files={"dev": "valid.txt", "train": "train.txt"},
        other_files={
            "dev": ("testa.txt", "eng.testa", "testa", "dev.txt"),
            "train": ("eng.train", "train"),
        },
        metrics=("f1",),
        names=tuple(tag.lower() for tag in _CONLL),
        # The hub's own repository of this name is a script, which no longer loads.
        hub=Hub(repository="lhoestq/conll2003", config=None, columns=("tokens", "ner_tags")),
    ),
    "mlm": Dataset(
        task="fill-mask",
        also=("pretraining",),
        layout="lines",
        files={"dev": "dev.txt", "train": "train.txt"},
        metrics=("top1", "top5", "pseudo_perplexity"),
    ),
    "sop": Dataset(
        task="pretraining",
        layout="order",
        files={"dev": "dev.txt", "train": "train.txt"},
        metrics=("accuracy",),
        names=("in_order", "swapped"),
    ),
}


def check_fits(
    name: str, task: str, *, remedy: str = "give data of its own task or leave `dataset` out"
) -> None:
    """Fail where a data set is for another task than a checkpoint's.

    Args:
        name: Key of ``DATASETS``.
        task: Of the checkpoint.
        remedy: What to do instead.

    Raises:
        InputError: It is.
    """
    dataset = lookup(DATASETS, name, "data set")
    if not dataset.fits(task):
        wanted = " or ".join((dataset.task, *dataset.also))
        raise InputError(f"{name} is data for {wanted}, the checkpoint is for {task}; {remedy}")
