"""Run the source and its variants over the same rows, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer
from tqdm import tqdm

from albert_deploy.runtime.answers import best_answer
from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.session import Feeds, Session
from albert_deploy.validation import metrics, squad
from albert_deploy.validation.datasets import (
    DATASETS,
    ClassificationRow,
    QuestionRow,
    read_dataset,
)
from albert_deploy.validation.parity import Case, Difference
from albert_deploy.validation.rows import Row, RowsConfig, prepared, shipped_texts

SOURCE = "source"


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """How rows become feeds and outputs answers.

    Args:
        rows: How texts become feeds.
        n_best: Starts and ends considered for an answer.
        max_answer_tokens: Longest answer.
        grid_texts: Rows whose texts the edge grid and the error trace use.
        unlabelled_rows: Real texts that are run where there is no data set.
    """

    rows: RowsConfig = field(default_factory=RowsConfig)
    n_best: int = 20
    max_answer_tokens: int = 30
    grid_texts: int = 64
    unlabelled_rows: int = 64


@dataclass(kw_only=True)
class Evidence:
    """What was seen of the source and its variants on the same rows.

    Attributes:
        rows: Number of rows.
        differences: Variant -> output -> comparison with the source.
        feeds: Inputs of the first rows, of their first windows where they have several.
        errors: Variant -> largest absolute difference of each row, [rows].
        predictions: Source or variant -> row id -> class id or answer; empty without a data set.
        metrics: Source or variant -> metric -> percent; empty without a data set.
    """

    rows: int = 0
    differences: dict[str, dict[str, Difference]] = field(default_factory=dict)
    feeds: list[Feeds] = field(default_factory=list)
    errors: dict[str, list[float]] = field(default_factory=dict)
    predictions: dict[str, dict[str, Any]] = field(default_factory=dict)
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def texts(self) -> list[npt.NDArray[np.int64]]:
        """Token ids of the first rows, each int64 [tokens]."""
        return [feeds["input_ids"].reshape(-1) for feeds in self.feeds]


def decisions(contract: dict[str, Any], argmax: Mapping[str, bool]) -> dict[str, str | None]:
    """Return for each output how it becomes a prediction, see ``Difference``."""
    problem = contract["problem_type"]
    by_problem = {"multi_label_classification": "sign", "regression": None}
    return {
        o["name"]: by_problem.get(problem, "argmax") if argmax[o["name"]] else None
        for o in contract["outputs"]
    }


def evaluate(
    sessions: Mapping[str, Session],
    *,
    contract: dict[str, Any],
    task: str,
    tokenizer: Tokenizer,
    decide: Mapping[str, str | None],
    dataset: tuple[str, Path] | None,
    config: EvaluateConfig,
) -> Evidence:
    """Run every session on every row, one row at a time and without padding.

    Args:
        sessions: ``source`` and the variants.
        contract: The manifest's contract.
        task: Key of ``TASKS``.
        tokenizer: The directory's tokenizer.
        decide: Result of ``decisions``.
        dataset: Name and path of labelled data; None runs real texts without labels.
        config: Options.

    Raises:
        InputError: The data does not fit the task, or a text is too long.
    """
    labelled: list[ClassificationRow] | list[QuestionRow] = []
    if dataset is not None:
        name, path = dataset
        if DATASETS[name].task != task:
            raise InputError(
                f"{name} is data for {DATASETS[name].task}, the checkpoint is for {task}; "
                "give data of its own task or leave --dataset out"
            )
        _check_labels(name, contract)
        labelled = read_dataset(name, path)
        rows = prepared(labelled, contract, tokenizer, config.rows)
        total = len(labelled)
    else:
        unlabelled = shipped_texts(task, config.unlabelled_rows)
        rows = prepared(unlabelled, contract, tokenizer, replace(config.rows, truncate=True))
        total = len(unlabelled)
    variants = [v for v in sessions if v != SOURCE]
    evidence = Evidence(
        rows=total,
        differences={v: {o: Difference(d) for o, d in decide.items()} for v in variants},
        errors={v: [] for v in variants},
        predictions={v: {} for v in sessions} if dataset else {},
    )
    for row in tqdm(rows, total=total, desc="rows", unit="row", disable=None, leave=False):
        outputs = {
            name: [session.run(feeds) for feeds in row.feeds] for name, session in sessions.items()
        }
        if len(evidence.feeds) < config.grid_texts:
            evidence.feeds.append(row.feeds[0])
        for variant in variants:
            evidence.errors[variant].append(
                _compare(evidence.differences[variant], outputs[SOURCE], outputs[variant])
            )
        for name in evidence.predictions:
            evidence.predictions[name][row.id] = _predict(row, outputs[name], config)
    if dataset is not None:
        evidence.metrics = {
            name: _score(labelled, predicted) for name, predicted in evidence.predictions.items()
        }
    return evidence


def _check_labels(name: str, contract: dict[str, Any]) -> None:
    """Fail where the head's classes cannot be those of the data.

    Raises:
        InputError: Another number of classes, the same classes in another order, or a head
            that does not choose one of them.
    """
    classes, labels = DATASETS[name].labels, contract["labels"]
    chooses = contract["problem_type"] in (None, "single_label_classification")
    if classes and (len(labels) != len(classes) or not chooses):
        raise InputError(
            f"{name} has {len(classes)} classes to choose from, the checkpoint has {len(labels)} "
            f"labels ({contract['problem_type']}); give data that it was trained for"
        )
    names = [label.lower() for label in labels]
    if set(names) == set(DATASETS[name].names) and tuple(names) != DATASETS[name].names:
        raise InputError(
            f"the checkpoint's classes are {', '.join(labels)}, those of {name} are "
            f"{', '.join(DATASETS[name].names)} in this order; number the data's labels alike"
        )


def run_grid(
    sessions: Mapping[str, Session], cases: list[Case], decide: Mapping[str, str | None]
) -> dict[str, dict[str, Difference]]:
    """Run every session on every case of the edge grid; return variant -> output -> comparison."""
    variants = [v for v in sessions if v != SOURCE]
    found = {v: {o: Difference(d) for o, d in decide.items()} for v in variants}
    for case in tqdm(cases, desc="edge grid", unit="case", disable=None, leave=False):
        source = [sessions[SOURCE].run(case.feeds)]
        for variant in variants:
            _compare(found[variant], source, [sessions[variant].run(case.feeds)])
    return found


def _compare(
    differences: dict[str, Difference],
    source: list[dict[str, npt.NDArray[np.float32]]],
    variant: list[dict[str, npt.NDArray[np.float32]]],
) -> float:
    return max(
        differences[name].add(ours[name], theirs[name])
        for ours, theirs in zip(source, variant, strict=True)
        for name in differences
    )


def _predict(
    row: Row, outputs: list[dict[str, npt.NDArray[np.float32]]], config: EvaluateConfig
) -> Any:
    if row.windows is None:
        return int(next(iter(outputs[0].values()))[0].argmax())
    starts = [o["start_logits"][0] for o in outputs]
    ends = [o["end_logits"][0] for o in outputs]
    if not all(np.isfinite(x).all() for x in (*starts, *ends)):
        return ""
    answer = best_answer(
        row.windows,
        starts,
        ends,
        max_answer_tokens=config.max_answer_tokens,
        n_best=config.n_best,
    )
    return answer[0]


def _score(
    rows: list[ClassificationRow] | list[QuestionRow], predicted: Mapping[str, Any]
) -> dict[str, float]:
    questions = [row for row in rows if isinstance(row, QuestionRow)]
    if questions:
        return squad.score(predicted, questions)
    texts = [row for row in rows if isinstance(row, ClassificationRow)]
    return {
        "accuracy": metrics.accuracy([r.label for r in texts], [predicted[r.id] for r in texts])
    }
