"""Outputs become predictions, and what is kept of them: a compressed file for each model."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from albert_deploy.runtime.contract import TASKS
from albert_deploy.runtime.manifest import writing
from albert_deploy.validation.data.labels import label_map
from albert_deploy.validation.data.rows import (
    ChoiceRow,
    ClassificationRow,
    Example,
    PlainRow,
    QuestionRow,
    Row,
    TokensRow,
)
from albert_deploy.validation.data.table import DATASETS, check_fits
from albert_deploy.validation.evaluate.batches import Outputs
from albert_deploy.validation.scores.squad_answers import best_answers, null_score

FOLDER = "predictions"
# Token ids that are kept of each masked position.
_TOP = 5
# Positions of a row at which the logits of a vocabulary are compared where none is masked.
_SPREAD = 8


@dataclass(frozen=True, kw_only=True)
class Heads:
    """How the outputs of a task become predictions on a data set.

    Attributes:
        classes: The data's class id of each of the checkpoint's classes.
        labels: The checkpoint's names of them.
        vocabulary: Outputs with a logit for each token of the vocabulary.
        output: The output that decides.
        regression: Whether it is a number instead of a choice.
        answerable: Whether every question has an answer in its context.
        max_answer_tokens: Longest answer.
        n_best: Starts and ends considered for an answer.
        max_context: See ``validation.scores.squad_answers.best_answers``.
    """

    classes: tuple[int, ...]
    labels: tuple[str, ...]
    vocabulary: tuple[str, ...]
    output: str
    regression: bool
    answerable: bool
    max_answer_tokens: int
    n_best: int
    max_context: bool


def heads(
    name: str,
    task: str,
    contract: Mapping[str, Any],
    *,
    max_answer_tokens: int,
    n_best: int,
    max_context: bool = False,
    label_order: Sequence[str] | None = None,
) -> Heads:
    """Return how a checkpoint's outputs become predictions on a data set.

    Args:
        name: A key of ``DATASETS``.
        task: A key of ``TASKS``.
        contract: The manifest's contract.
        max_answer_tokens: Longest answer.
        n_best: Starts and ends considered for an answer.
        max_context: See ``validation.scores.squad_answers.best_answers``.
        label_order: See ``label_order.label_map``.

    Raises:
        InputError: The data does not fit the task, or its classes are not the checkpoint's.
    """
    dataset = DATASETS[name]
    check_fits(name, task)
    wide = vocabulary_outputs(task, contract)
    names = [str(output["name"]) for output in contract["outputs"]]
    decides = [n for n in names if (n in wide) == (dataset.layout == "lines")]
    return Heads(
        classes=label_map(name, contract, order=label_order),
        labels=tuple(contract["labels"]) if label_order is None else tuple(label_order),
        vocabulary=wide,
        output=decides[0],
        regression=dataset.values is not None,
        answerable="NoAns_exact" not in dataset.metrics,
        max_answer_tokens=max_answer_tokens,
        n_best=n_best,
        max_context=max_context,
    )


def vocabulary_outputs(task: str, contract: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the outputs that have a logit for each token of the vocabulary."""
    family = contract.get("family", "albert")
    return tuple(o.name_in(family) for o in TASKS[task].outputs if "<vocab>" in o.axes)


def compared(row: Row, outputs: Outputs, vocabulary: Sequence[str], *, labelled: bool) -> Outputs:
    """Return what a row's outputs are compared by, and predictions are made from.

    That is all of them, but the logits of a vocabulary: on labelled rows these are taken at the
    masked positions or, where none is masked, at a few that are evenly spread.

    Args:
        row: The row.
        outputs: Of one of its runs, each float32 [1, ...].
        vocabulary: Result of ``vocabulary_outputs``.
        labelled: Whether the row is one of a data set.
    """
    if not labelled:
        return outputs
    found = dict(outputs)
    for name in vocabulary:
        length = outputs[name].shape[1]
        chosen = row.marks
        if chosen is None:
            chosen = np.linspace(0, length - 1, min(length, _SPREAD)).astype(np.int64)
        # A copy, so that the whole is not kept.
        found[name] = outputs[name][:, chosen]
    return found


def predict(example: Example, row: Row, outputs: Sequence[Outputs], how: Heads) -> dict[str, Any]:
    """Return a line of a predictions file.

    Args:
        example: The row of the data set.
        row: The same row, tokenized.
        outputs: Of each of its runs, results of ``compared``.
        how: Result of ``heads``.

    Returns:
        ``id``, ``label``, ``logits`` and ``prediction`` in JSON's types. Where the logits are
        not finite the prediction is None, which counts as wrong.
    """
    if isinstance(example, QuestionRow):
        needed = [o[name] for o in outputs for name in ("start_logits", "end_logits")]
    else:
        needed = [outputs[0][how.output]]
    finite = all(np.isfinite(values).all() for values in needed)
    logits: Any
    found: Any
    match example:
        case QuestionRow():
            label: Any = list(example.answers)
            logits, found = _answer(row, outputs, how) if finite else (None, None)
        case TokensRow():
            label = list(example.tags)
            logits, found = _tags(row, needed[0][0], how)
        case PlainRow(label=None):
            label = [] if row.wanted is None else row.wanted.tolist()
            logits, found = _masked(row, needed[0][0]) if finite else (None, None)
        case ClassificationRow() if how.regression:
            label, logits = example.label, _numbers(needed[0])
            found = logits[0]
        case ChoiceRow():
            label, logits = example.label, _numbers(needed[0])
            found = int(needed[0][0].argmax())
        case ClassificationRow() | PlainRow():
            label, logits = example.label, _numbers(needed[0])
            found = how.classes[int(needed[0][0].argmax())]
    return {
        "id": example.id,
        "label": label,
        "logits": logits,
        "prediction": found if finite else None,
    }


def value_of(line: Mapping[str, Any]) -> Any:
    """Return the prediction of a line as ``scores.measure`` takes it."""
    found = line["prediction"]
    if isinstance(found, list) and found and isinstance(found[0], str):
        return tuple(found)
    if isinstance(found, list):
        return [position | {"top": tuple(position["top"])} for position in found]
    return found


def chosen(prediction: Any) -> Any:
    """Return what counts as the choice in a prediction, see ``scores.measure``."""
    if isinstance(prediction, Mapping):
        # Above 0 the null answer has the better score.
        missing = prediction.get("no_answer")
        return "" if missing is not None and missing > 0 else prediction["text"]
    if isinstance(prediction, list):
        return [position["top"][0] for position in prediction]
    return list(prediction) if isinstance(prediction, tuple) else prediction


def write_predictions(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write lines as compressed JSON lines, atomically; equal lines make equal bytes.

    Raises:
        MachineError: The disk is full.
        InputError: The folder cannot be written.
    """
    with (
        writing(path) as file,
        # No name and no time, so that the bytes depend on the lines alone.
        gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0, compresslevel=6) as packed,
    ):
        for line in lines:
            text = json.dumps(line, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            packed.write(f"{text}\n".encode())


def _answer(row: Row, outputs: Sequence[Outputs], how: Heads) -> tuple[Any, Any]:
    starts = [o["start_logits"][0] for o in outputs]
    ends = [o["end_logits"][0] for o in outputs]
    laid = row.windows or []
    best = best_answers(
        laid,
        starts,
        ends,
        max_answer_tokens=how.max_answer_tokens,
        n_best=how.n_best,
        max_context=how.max_context,
    )
    null = None if how.answerable else null_score(laid, starts, ends)
    logits = {
        "answers": [[a.start, a.end, _number(a.start_logit), _number(a.end_logit)] for a in best],
        "null": null,
    }
    no_answer = None if null is None else null - best[0].score
    return logits, {"text": best[0].text, "no_answer": no_answer}


def _tags(row: Row, logits: npt.NDArray[np.float32], how: Heads) -> tuple[Any, Any]:
    """Return the logits of each word, [words][labels], and its tag; none and O without tokens."""
    first = [] if row.marks is None else row.marks.tolist()
    kept = [None if at < 0 else _numbers(logits[at]) for at in first]
    return kept, ["O" if at < 0 else how.labels[int(logits[at].argmax())] for at in first]


def _masked(row: Row, logits: npt.NDArray[np.float32]) -> tuple[Any, Any]:
    """Return for each masked position its best tokens and the one that was masked."""
    if row.wanted is None:
        return [], []
    values = logits.astype(np.float64)
    top = np.argsort(-values, axis=-1, kind="stable")[:, :_TOP]
    wanted = np.take_along_axis(values, row.wanted[:, np.newaxis], axis=-1)[:, 0]
    largest = values.max(axis=-1)
    total = largest + np.log(np.exp(values - largest[:, np.newaxis]).sum(axis=-1))
    rows = range(len(values))
    kept = [{"top": _numbers(values[i, top[i]]), "wanted": _number(float(wanted[i]))} for i in rows]
    found = [
        {
            "top": top[i].tolist(),
            "wanted": int(row.wanted[i]),
            "log_prob": min(float(wanted[i] - total[i]), 0.0),
        }
        for i in rows
    ]
    return kept, found


def _numbers(values: npt.NDArray[Any]) -> list[float | None]:
    return [_number(value) for value in values.ravel().tolist()]


def _number(value: float) -> float | None:
    """Return the shortest number that is the same float32; None for NaN and infinity."""
    return float(str(np.float32(value))) if np.isfinite(value) else None
