"""Scores of predictions, in percent, by the libraries that the field computes them with."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from albert_deploy.runtime.errors import InputError, MachineError


def f1(labels: Sequence[int] | npt.NDArray[Any], predictions: Any) -> float:
    """Return the F1 of class 1, in percent; 0 where neither labels nor predictions have it.

    Args:
        labels: 0 or 1, [rows].
        predictions: 0 or 1, [rows].

    Raises:
        InputError: There are no rows, or not one prediction for each label.
        MachineError: scikit-learn is not installed.
    """
    wanted, got = _pair(labels, predictions)
    sklearn = library("sklearn.metrics")
    return 100.0 * float(sklearn.f1_score(wanted, got, zero_division=0.0))


def matthews(labels: Sequence[int] | npt.NDArray[Any], predictions: Any) -> float:
    """Return Matthews' correlation x 100; 0 where labels or predictions are all of one class.

    Args:
        labels: Class ids, [rows].
        predictions: Class ids, [rows].

    Raises:
        InputError: See ``f1``.
        MachineError: scikit-learn is not installed.
    """
    wanted, got = _pair(labels, predictions)
    if _constant(wanted) or _constant(got):
        return 0.0
    return 100.0 * float(library("sklearn.metrics").matthews_corrcoef(wanted, got))


def pearson(labels: Sequence[float] | npt.NDArray[Any], predictions: Any) -> float:
    """Return Pearson's correlation x 100; 0, and not NaN, where one side is constant.

    Args:
        labels: Finite numbers, [rows].
        predictions: Finite numbers, [rows].

    Raises:
        InputError: See ``f1``.
        MachineError: SciPy is not installed.
    """
    return _correlation("pearsonr", labels, predictions)


def spearman(labels: Sequence[float] | npt.NDArray[Any], predictions: Any) -> float:
    """Return Spearman's rank correlation x 100; see ``pearson``."""
    return _correlation("spearmanr", labels, predictions)


def entity_f1(labels: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]]) -> float:
    """Return the F1 over entities that are right in type and both ends, in percent.

    Args:
        labels: Tags of each sentence.
        predictions: As many tags of each sentence.
    """
    right, found, there = entity_counts(labels, predictions).sum(axis=0).tolist()
    return 200.0 * right / (found + there) if found + there else 0.0


def entity_counts(
    labels: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]]
) -> npt.NDArray[np.int64]:
    """Return entities of each sentence that are right, predicted and there, [sentences, 3]."""
    counts = np.zeros((len(labels), 3), dtype=np.int64)
    for row, (wanted, got) in enumerate(zip(labels, predictions, strict=True)):
        there, found = entities(wanted), entities(got)
        counts[row] = len(there & found), len(found), len(there)
    return counts


def entities(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """Return the entities of a sentence as (type, first word, last word).

    Chunks begin and end as in CoNLL's ``conlleval``, with the letters of IOB, BIOES and BILOU: B-,
    S- and U- begin one, E-, S-, L- and U- end one, and an I-, E- or L- that follows no open tag of
    its type begins one as well.
    """
    found = set()
    open_type, start, last = "", 0, "O"
    for place, tag in enumerate((*tags, "O")):
        letter, kind = tag[0], tag[1:].partition("-")[2] or tag[1:] or "_"
        goes_on = letter not in "BSUO" and last not in "ESLUO" and kind == open_type
        if last != "O" and not goes_on:
            found.add((open_type, start, place - 1))
        if letter != "O" and not goes_on:
            open_type, start = kind, place
        last = letter
    return found


def library(module: str) -> Any:
    """Import a module of a metrics library.

    Raises:
        MachineError: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MachineError(
            f"this score is computed by {module.partition('.')[0]}, which cannot be imported "
            f"({error}); run: pip install 'albert-deploy[export]'"
        ) from error


def _pair(labels: Any, predictions: Any) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    wanted, got = np.asarray(labels), np.asarray(predictions)
    if wanted.ndim != 1 or wanted.shape != got.shape:
        raise InputError(
            f"got labels of shape {wanted.shape} and predictions of shape {got.shape}; "
            "give one class id per row in each"
        )
    if not len(wanted):
        raise InputError("got no rows to score, wanted at least one; check the data set")
    return wanted, got


def _constant(values: npt.NDArray[Any]) -> bool:
    return bool((values == values[0]).all())


def _correlation(function: str, labels: Any, predictions: Any) -> float:
    wanted, got = (np.asarray(side, dtype=np.float64) for side in _pair(labels, predictions))
    if _constant(wanted) or _constant(got):
        return 0.0
    stats = library("scipy.stats")
    with warnings.catch_warnings():
        # Almost constant predictions: the value is inexact, and the report shows it as it is.
        warnings.simplefilter("ignore", category=stats.NearConstantInputWarning)
        value = float(getattr(stats, function)(wanted, got).statistic)
    return 100.0 * value if np.isfinite(value) else 0.0
