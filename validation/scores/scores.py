"""Score the predictions of one model on a data set, ready to be compared and resampled."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from albert_deploy.runtime.errors import InputError, lookup
from albert_deploy.validation.data.layouts import TAG
from albert_deploy.validation.data.rows import (
    ChoiceRow,
    ClassificationRow,
    Example,
    PlainRow,
    QuestionRow,
    TokensRow,
)
from albert_deploy.validation.data.table import DATASETS, Dataset
from albert_deploy.validation.scores import metrics, squad
from albert_deploy.validation.scores.measured import (
    Floats,
    Index,
    Measured,
    correlations,
    f1_of,
    from_arrays,
    from_sums,
    from_values,
    matthews_of,
    ranks,
    share,
)
from albert_deploy.validation.scores.squad_v2 import measure_v2

# The least log probability: of the smallest normal float32, so that no score is infinite.
LEAST_LOG_PROB = math.log(float(np.finfo(np.float32).tiny))
_LARGEST = float(np.finfo(np.float32).max)


def measure(
    name: str, rows: Sequence[Example], predictions: Mapping[str, Any]
) -> dict[str, Measured]:
    """Score predictions as results on the data set are published.

    A row without a prediction, or with one that is None, NaN or of no known class, counts as
    wrong: as the other class in F1 and Matthews, as the end of the scale that is farther from
    its label in a regression, as ``O`` for every word of a sentence.

    Args:
        name: A key of ``DATASETS``.
        rows: Its rows, or some of them.
        predictions: By row id: an int for a class (the data's id), choice or order, a float for
            a regression, a dict of ``text`` and ``no_answer`` for a question (or just its text),
            a tag per word for a sentence, and for masked tokens a list of dicts of ``top``
            (token ids, best first), ``wanted`` (token id) and ``log_prob`` (natural logarithm
            of the wanted token's probability).

    Returns:
        Metric -> score, in the order of ``DATASETS[name].metrics``; one of a part of the data
        (``HasAns_exact``, ``accuracy_high``) only where there are such rows.

    Raises:
        InputError: There are no rows, or a prediction has another form.
        MachineError: The library that computes a score is not installed.
    """
    dataset = lookup(DATASETS, name, "data set")
    if not rows:
        raise InputError(f"got no rows of {name} to score, wanted at least one; check the data")
    found: dict[str, Measured]
    match rows[0]:
        case QuestionRow():
            found = _questions(
                dataset, [r for r in rows if isinstance(r, QuestionRow)], predictions
            )
        case ChoiceRow():
            found = _choices([r for r in rows if isinstance(r, ChoiceRow)], predictions)
        case TokensRow():
            found = _tokens([r for r in rows if isinstance(r, TokensRow)], predictions)
        case PlainRow(label=None):
            found = _masked(rows, predictions)
        case PlainRow():
            labels = [row.label or 0 for row in rows if isinstance(row, PlainRow)]
            found = {"accuracy": _accuracy("accuracy", labels, _given(rows, predictions))}
        case ClassificationRow():
            texts = [row.label for row in rows if isinstance(row, ClassificationRow)]
            given = _given(rows, predictions)
            found = _regression(texts, given, dataset) if dataset.values else _classes(texts, given)
    return {metric: found[metric] for metric in dataset.metrics if metric in found}


def _given(rows: Sequence[Example], predictions: Mapping[str, Any]) -> list[Any]:
    return [predictions.get(row.id) for row in rows]


def _right(labels: Sequence[float], given: Sequence[Any]) -> Floats:
    return np.array(
        [float(got is not None and got == label) for label, got in zip(labels, given, strict=True)]
    )


def _accuracy(name: str, labels: Sequence[float], given: Sequence[Any]) -> Measured:
    return from_values(name, 100.0 * _right(labels, given))


def _classes(labels: Sequence[float], given: Sequence[Any]) -> dict[str, Measured]:
    found = {"accuracy": _accuracy("accuracy", labels, given)}
    if not set(labels) <= {0, 1}:
        return found
    wanted = np.array(labels, dtype=np.int64)
    right = _right(labels, given) == 1
    got = np.where(right, wanted, 1 - wanted)
    counts = np.stack([wanted & got, got, wanted], axis=1).astype(np.float64)
    cells = np.eye(4)[2 * wanted + got]
    return found | {
        "f1": from_sums("f1", counts, f1_of, whole=lambda: metrics.f1(wanted, got)),
        "matthews": from_sums(
            "matthews", cells, matthews_of, whole=lambda: metrics.matthews(wanted, got)
        ),
    }


def _regression(
    labels: Sequence[float], given: Sequence[Any], dataset: Dataset
) -> dict[str, Measured]:
    least, largest = dataset.values or (0.0, 0.0)
    wanted = np.array(labels, dtype=np.float64)
    got = np.array([np.nan if value is None else value for value in given], dtype=np.float64)
    farther = np.where(wanted - least > largest - wanted, least, largest)
    got = np.where(np.abs(got) <= _LARGEST, got, farther)

    def linear(indices: Index) -> Floats:
        return correlations(wanted[indices], got[indices])

    def ranked(indices: Index) -> Floats:
        return correlations(ranks(wanted, indices), ranks(got, indices))

    return {
        "pearson": from_arrays(
            "pearson", len(wanted), linear, lambda: metrics.pearson(wanted, got)
        ),
        "spearman": from_arrays(
            "spearman", len(wanted), ranked, lambda: metrics.spearman(wanted, got)
        ),
    }


def _questions(
    dataset: Dataset, rows: Sequence[QuestionRow], predictions: Mapping[str, Any]
) -> dict[str, Measured]:
    dicts = {
        row_id: {"text": value} if isinstance(value, str) else value
        for row_id, value in predictions.items()
    }
    if "NoAns_exact" in dataset.metrics:
        return measure_v2(rows, dicts)
    texts = [(dicts.get(row.id) or {}).get("text") for row in rows]
    return {
        name: from_values(
            name,
            100.0
            * np.array(
                [
                    0.0 if text is None else metric(text, row.answers)
                    for text, row in zip(texts, rows, strict=True)
                ]
            ),
        )
        for name, metric in (("exact_match", squad.exact_match), ("f1", squad.f1))
    }


def _choices(rows: Sequence[ChoiceRow], predictions: Mapping[str, Any]) -> dict[str, Measured]:
    found = {}
    for group in ("", *dict.fromkeys(row.group for row in rows)):
        part = [row for row in rows if group in ("", row.group)]
        name = f"accuracy_{group}" if group else "accuracy"
        found[name] = _accuracy(name, [row.label for row in part], _given(part, predictions))
    return found


def _tokens(rows: Sequence[TokensRow], predictions: Mapping[str, Any]) -> dict[str, Measured]:
    wanted = [[tag.upper() for tag in row.tags] for row in rows]
    got = []
    for row in rows:
        tags = predictions.get(row.id) or ("O",) * len(row.tags)
        if len(tags) != len(row.tags):
            raise InputError(
                f"row {row.id} has {len(row.tags)} words and {len(tags)} predicted tags, wanted "
                "one for each word"
            )
        upper = [str(tag).upper() for tag in tags]
        strange = [tag for tag in upper if not TAG.fullmatch(tag)]
        if strange:
            raise InputError(
                f"row {row.id} has the predicted tag {strange[0]!r}, wanted O or a type after B-, "
                "I-, E- or S-; name the tags in id2label of the checkpoint's config.json"
            )
        got.append(upper)
    counts = metrics.entity_counts(wanted, got).astype(np.float64)
    whole = metrics.entity_f1(wanted, got)
    return {"f1": from_sums("f1", counts, f1_of, whole=lambda: whole)}


def _masked(rows: Sequence[Example], predictions: Mapping[str, Any]) -> dict[str, Measured]:
    """Sum over each row's masked positions: those of one row depend on each other."""
    sums = np.array([_positions(predictions.get(row.id)) for row in rows], dtype=np.float64)
    if not sums[:, 0].any():
        raise InputError("no row has a masked position to score; give longer texts")
    top1, top5 = sums[:, [1, 0]], sums[:, [2, 0]]
    return {
        "top1": from_sums("top1", top1, lambda s: share(s[..., 0], s[..., 1])),
        "top5": from_sums("top5", top5, lambda s: share(s[..., 0], s[..., 1])),
        "pseudo_perplexity": from_sums(
            "pseudo_perplexity", sums[:, [3, 0]], _perplexity, higher_is_better=False
        ),
    }


def _positions(found: Sequence[Mapping[str, Any]] | None) -> tuple[float, float, float, float]:
    """Return a row's positions, those right at first, those among five, their log probability."""
    if found is None:
        return 1.0, 0.0, 0.0, LEAST_LOG_PROB
    first = five = total = 0.0
    for position in found:
        top = list(position["top"])[:5]
        first += float(top[:1] == [position["wanted"]])
        five += float(position["wanted"] in top)
        value = float(position["log_prob"])
        total += LEAST_LOG_PROB if math.isnan(value) else min(max(value, LEAST_LOG_PROB), 0.0)
    return float(len(found)), first, five, total


def _perplexity(sums: Floats) -> npt.NDArray[np.float64]:
    """Return exp of the mean negative log probability, after Salazar et al. 2020, section 2.3."""
    count = sums[..., 1]
    mean = np.where(count == 0, LEAST_LOG_PROB, sums[..., 0] / np.where(count == 0, 1.0, count))
    return np.asarray(np.exp(-mean), dtype=np.float64)
