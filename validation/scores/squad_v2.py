"""The scores of SQuAD v2.0, with questions that have no answer and the best no-answer threshold.

Source: Rajpurkar et al. 2018, "Know What You Don't Know: Unanswerable Questions for SQuAD", and
its official evaluation script.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from albert_deploy.validation.data.rows import QuestionRow
from albert_deploy.validation.scores.measured import Index, Measured, from_values, times
from albert_deploy.validation.scores.squad import normalize, overlap

# An answer is taken as "no answer" where the null score is above that of the best span.
NO_ANSWER_ABOVE = 0.0


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The prediction for one question.

    Attributes:
        text: Text of the best span; empty for no answer.
        no_answer: Score of no answer less that of the best span; None where none was computed,
            the text is then the answer.
    """

    text: str
    no_answer: float | None


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """Return 1.0 where the prediction equals one of the answers, or both are none; else 0.0."""
    mine = normalize(prediction)
    return float(any(mine == answer for answer in _normalized(answers)))


def f1(prediction: str, answers: Sequence[str]) -> float:
    """Return the F1 of words against the closest answer; 1.0 where both are without words."""
    mine = normalize(prediction)
    return max(
        overlap(mine, answer) if mine and answer else float(mine == answer)
        for answer in _normalized(answers)
    )


def measure_v2(rows: Sequence[QuestionRow], predictions: Mapping[str, Any]) -> dict[str, Measured]:
    """Score answers as SQuAD v2.0 does.

    Args:
        rows: Questions; without reference answers where they have none.
        predictions: By question id, a dict of ``text`` and ``no_answer`` (see ``Answer``). A
            question without one, or with a score that is not a number, counts as wrong at any
            threshold.

    Returns:
        ``exact`` and ``f1`` over all questions, with the empty answer where ``no_answer`` is
        above 0; the same over those with an answer (``HasAns_``) and, ``exact``, those without
        (``NoAns_``), as far as there are such questions; ``best_exact`` and ``best_f1`` at the
        threshold of ``no_answer`` that suits these very predictions best, where all have one.
    """
    answers = [usable(predictions.get(row.id)) for row in rows]
    answerable = np.array([bool(row.answers) for row in rows])
    found: dict[str, Measured] = {}
    for name, metric in (("exact", exact_match), ("f1", f1)):
        raw = np.array(
            [
                0.0 if answer is None else metric(answer.text, row.answers)
                for row, answer in zip(rows, answers, strict=True)
            ]
        )
        scores = raw.copy()
        for index, answer in enumerate(answers):
            if answer is not None and (answer.no_answer or 0.0) > NO_ANSWER_ABOVE:
                scores[index] = float(not answerable[index])
        found[name] = from_values(name, 100.0 * scores)
        for part, chosen in (("HasAns", answerable), ("NoAns", ~answerable)):
            if chosen.any():
                found[f"{part}_{name}"] = from_values(f"{part}_{name}", 100.0 * scores[chosen])
        if not any(answer is not None and answer.no_answer is None for answer in answers):
            found[f"best_{name}"] = best_threshold(f"best_{name}", raw, answers, answerable)
    return found


def usable(value: Any) -> Answer | None:
    """Return a prediction as an answer; None where it is missing or its score is NaN."""
    if value is None or not isinstance(value["text"], str):
        return None
    score = value.get("no_answer")
    if score is not None and np.isnan(score):
        return None
    return Answer(text=value["text"], no_answer=None if score is None else float(score))


def best_threshold(
    name: str,
    raw: npt.NDArray[np.float64],
    answers: Sequence[Answer | None],
    answerable: npt.NDArray[np.bool_],
) -> Measured:
    """Return the best score that a threshold on ``no_answer`` reaches.

    The official script: go through the questions by rising ``no_answer``; before the first, all
    answers are empty. Each question that is passed adds its score, or, where it has no answer,
    takes away the point for the empty one if its text is not empty.

    Args:
        name: Name of the metric.
        raw: Score of each text, 0.0 to 1.0, [rows].
        answers: What was predicted; None counts as wrong at any threshold.
        answerable: Whether a question has an answer, [rows].
    """
    given = np.array([answer is not None for answer in answers])
    wordy = np.array([answer is not None and bool(answer.text) for answer in answers])
    null = np.array([0.0 if a is None or a.no_answer is None else a.no_answer for a in answers])
    order = np.argsort(null, kind="stable")
    start = (given & ~answerable).astype(np.float64)
    steps = np.where(answerable, raw, -(wordy & given).astype(np.float64))[order]
    totals = start.sum() + steps.cumsum()
    best = int(totals.argmax())
    higher = totals[best] > start.sum()
    score = 100.0 * float(totals[best] if higher else start.sum()) / len(raw)

    def many(indices: Index) -> npt.NDArray[np.float64]:
        weights = times(indices, len(raw))
        first = (weights * start).sum(axis=1)
        reached = (weights[:, order] * steps).cumsum(axis=1).max(axis=1)
        best_sums = first + np.maximum(reached, 0.0)
        return np.asarray(100.0 * best_sums / indices.shape[1], dtype=np.float64)

    def at(index: Index | None) -> float:
        return score if index is None else float(many(index[np.newaxis])[0])

    return Measured(
        name=name,
        rows=len(raw),
        values=None,
        at=at,
        many=many,
        # The official script has 0.0 for "all empty", as its scores are probabilities.
        threshold=float(null[order][best] if higher else np.nextafter(null.min(), -np.inf)),
    )


def _normalized(answers: Sequence[str]) -> list[str]:
    """Return the answers that have words; that of a question without any is the empty one."""
    return [words for words in map(normalize, answers) if words] or [""]
