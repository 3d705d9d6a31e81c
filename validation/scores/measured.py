"""A score with what a resampling test needs: the same score over any choice of the rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Index = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """The score of one model on one metric.

    Attributes:
        name: Name of the metric.
        rows: Number of units that are drawn when resampling.
        values: Value of each, [rows], in percent, where the score is their mean; else None.
        at: Score over the units of an index, int64 [any number] with repeats; None is all.
        many: Score over each of several resamples, int64 [resamples, units] -> [resamples].
        higher_is_better: Whether a larger score is better.
        threshold: No-answer threshold that reaches the score, where that was searched for.
    """

    name: str
    rows: int
    values: Floats | None
    at: Callable[[Index | None], float]
    many: Callable[[Index], Floats]
    higher_is_better: bool = True
    threshold: float | None = None

    @property
    def score(self) -> float:
        """Score over all rows, in percent (a perplexity is not)."""
        return self.at(None)


def from_values(name: str, values: Floats) -> Measured:
    """Return a score that is the mean of values in percent, [rows], at least one."""

    def at(index: Index | None) -> float:
        return float((values if index is None else values[index]).mean())

    def many(indices: Index) -> Floats:
        return np.asarray(values[indices].mean(axis=1), dtype=np.float64)

    return Measured(name=name, rows=len(values), values=values, at=at, many=many)


def from_sums(
    name: str,
    terms: Floats,
    finish: Callable[[Floats], Floats],
    *,
    whole: Callable[[], float] | None = None,
    higher_is_better: bool = True,
) -> Measured:
    """Return a score that is a function of sums over rows, such as counts of a 2 x 2 table.

    Args:
        name: Name of the metric.
        terms: What is summed, [rows, terms].
        finish: Sums [..., terms] -> score [...].
        whole: The score over all rows by a library; None computes it from the sums.
        higher_is_better: See ``Measured``.
    """
    total = float(finish(terms.sum(axis=0))) if whole is None else whole()

    def at(index: Index | None) -> float:
        return total if index is None else float(finish(terms[index].sum(axis=0)))

    def many(indices: Index) -> Floats:
        return np.asarray(finish(times(indices, len(terms)) @ terms), dtype=np.float64)

    return Measured(
        name=name,
        rows=len(terms),
        values=None,
        at=at,
        many=many,
        higher_is_better=higher_is_better,
    )


def from_arrays(
    name: str, rows: int, function: Callable[[Index], Floats], whole: Callable[[], float]
) -> Measured:
    """Return a score of resamples that are computed as one array.

    Args:
        name: Name of the metric.
        rows: Number of rows.
        function: Indices [resamples, units] -> scores [resamples].
        whole: The score over all rows by a library.
    """
    total = whole()

    def at(index: Index | None) -> float:
        return total if index is None else float(function(index[np.newaxis])[0])

    return Measured(name=name, rows=rows, values=None, at=at, many=function)


def times(indices: Index, rows: int) -> Floats:
    """Return how often each row is in each resample, [resamples, rows]."""
    count = len(indices)
    flat = (indices + rows * np.arange(count, dtype=np.int64)[:, np.newaxis]).ravel()
    counts = np.bincount(flat, minlength=count * rows).reshape(count, rows)
    return counts.astype(np.float64)


def share(part: Floats, whole: Floats) -> Floats:
    """Return 100 x part / whole, and 0 where the whole is 0."""
    safe = np.where(whole == 0, 1.0, whole)
    return np.where(whole == 0, 0.0, 100.0 * part / safe)


def f1_of(sums: Floats) -> Floats:
    """Return F1 in percent from [..., (right, predicted, there)]: their harmonic mean."""
    return share(2 * sums[..., 0], sums[..., 1] + sums[..., 2])


def matthews_of(sums: Floats) -> Floats:
    """Return Matthews' correlation x 100 from the cells [..., 4] of a 2 x 2 table.

    The cells are rows with label and prediction 0 0, 0 1, 1 0 and 1 1. Matthews 1975: the
    determinant of the table over the root of the product of its four margins.
    """
    neither, false, missed, right = (sums[..., cell] for cell in range(4))
    margins = (neither + false) * (missed + right) * (neither + missed) * (false + right)
    return share(right * neither - false * missed, np.sqrt(margins))


def correlations(left: Floats, right: Floats) -> Floats:
    """Return Pearson's correlation x 100 of each row of two arrays [resamples, units].

    A row that is constant on one side gives 0.
    """
    sides = []
    for values in (left, right):
        away = values - values.mean(axis=1, keepdims=True)
        constant = values.max(axis=1, keepdims=True) == values.min(axis=1, keepdims=True)
        # Scaled, so that squares neither overflow nor vanish.
        largest = np.abs(away).max(axis=1, keepdims=True)
        away = np.where(constant, 0.0, away / np.where(largest == 0, 1.0, largest))
        length = np.sqrt((away**2).sum(axis=1, keepdims=True))
        sides.append(away / np.where(length == 0, 1.0, length))
    products = (sides[0] * sides[1]).sum(axis=1)
    return np.asarray(100.0 * np.clip(products, -1.0, 1.0), dtype=np.float64)


def ranks(values: Floats, indices: Index) -> Floats:
    """Return the rank of each unit within its resample, ties at their mean, [resamples, units].

    Args:
        values: Numbers, [rows].
        indices: Rows of each resample, [resamples, units].
    """
    _, codes = np.unique(values, return_inverse=True)
    chosen = codes[indices]
    counts = times(chosen, int(codes.max()) + 1)
    # The last rank of each distinct value, less half of the ranks that it takes up.
    places = counts.cumsum(axis=1) - (counts - 1) / 2
    return np.take_along_axis(places, chosen, axis=1)
