"""Resample rows: scores of bootstrap samples, and of samples with rows left out."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from albert_deploy.validation.scores.measured import Floats, Measured

# Numbers held at a time while resampling: 16 MB of indices, whatever the number of rows.
_BLOCK = 2_000_000
# Leave-one-out scores: of each row up to so many rows, of as many groups of rows above.
_DELETED = 1000


def means(values: Floats, *, resamples: int, seed: int) -> Floats:
    """Return the mean of each resample, [resamples]."""
    rng, rows = np.random.default_rng(seed), len(values)
    distinct, counts = np.unique(values, return_counts=True)
    # How often each value is drawn is enough, and far quicker where few rows differ.
    few = 10 * len(distinct) < rows
    found = []
    for size in _blocks(resamples, len(distinct) if few else rows):
        if few:
            drawn = rng.multinomial(rows, counts / rows, size=size)
            found.append(drawn @ distinct / rows)
        else:
            found.append(values[rng.integers(0, rows, size=(size, rows))].mean(axis=1))
    return np.concatenate(found)


def resampled(
    source: Measured, variant: Measured, *, resamples: int, seed: int
) -> tuple[Floats, Floats]:
    """Return the scores of source and variant on the same resamples, [resamples] each."""
    rng, rows = np.random.default_rng(seed), source.rows
    found = []
    for size in _blocks(resamples, rows):
        drawn = rng.integers(0, rows, size=(size, rows))
        found.append((source.many(drawn), variant.many(drawn)))
    theirs, own = (np.concatenate(side) for side in zip(*found, strict=True))
    return theirs, own


def mean_deleted(values: Floats) -> Floats:
    """Return the mean without each row, [rows]."""
    if len(values) == 1:
        return values
    return np.asarray((values.sum() - values) / (len(values) - 1), dtype=np.float64)


def deleted(source: Measured, variant: Measured, *, seed: int) -> tuple[Floats, Floats]:
    """Return the scores without each row, or without each of equal groups of rows."""
    rows = source.rows
    group = math.ceil(rows / _DELETED)
    # Rows in excess of whole groups stay in every sample.
    order = np.random.default_rng(seed).permutation(rows)
    groups = order[: rows // group * group].reshape(-1, group)
    if rows == group:
        return np.array([source.score]), np.array([variant.score])
    found, done = [], 0
    for size in _blocks(len(groups), rows):
        kept = np.ones((size, rows), dtype=bool)
        np.put_along_axis(kept, groups[done : done + size], values=False, axis=1)
        index = np.nonzero(kept)[1].reshape(size, rows - group)
        found.append((source.many(index), variant.many(index)))
        done += size
    theirs, own = (np.concatenate(side) for side in zip(*found, strict=True))
    return theirs, own


def reach(left_out: Floats, source_left_out: Floats, rows: int) -> float:
    """Return by how many points a changed row moves the score, times the number of rows.

    That of the rows that do change, weighted by the square of their influence; where none does,
    what lies between the best and the worst row of the source.
    """
    influence = rows * (left_out - left_out.mean())
    power = float((influence**2).sum())
    if power > 1e-18 * rows:
        return math.sqrt(float((influence**4).sum()) / power)
    return float(rows * np.ptp(source_left_out)) or 100.0


def _blocks(count: int, width: int) -> list[int]:
    """Return sizes that add up to the count, each with at most ``_BLOCK`` numbers or one line."""
    size = max(1, _BLOCK // width)
    return [min(size, count - start) for start in range(0, count, size)]


# Halvings of an interval no wider than 2: far below one row in any data set.
_HALVINGS = 60


def critical(confidence: float) -> float:
    """Return z of a two-sided interval, such as 1.96 for a confidence of 0.95."""
    from scipy.special import ndtri

    return float(ndtri(0.5 + confidence / 2))


def score_interval(
    better: npt.ArrayLike, worse: npt.ArrayLike, rows: npt.ArrayLike, confidence: float
) -> tuple[Floats, Floats]:
    """Return the score interval of a difference of paired proportions, in percent points.

    The bounds are the differences d at which (better - worse - rows d) / sqrt(v) is z and -z,
    with v the variance under the most likely proportions whose difference is d. Unlike Wald's
    interval and the bootstrap's it does not shrink to nothing where no row differs.

    Args:
        better: Rows that only the variant gets right, any shape.
        worse: Rows that only the source gets right.
        rows: Rows in all.
        confidence: Two-sided, 0 to 1.

    Returns:
        Low and high of variant minus source.

    Source: T. Tango, Equivalence test and confidence interval for the difference in proportions
    for the paired-sample design, Statistics in Medicine 17 (1998), equations 7 to 11.
    """
    b, c, n = np.broadcast_arrays(*(np.asarray(x, np.float64) for x in (better, worse, rows)))
    z, estimate = critical(confidence), (b - c) / n

    def statistic(d: Floats) -> Floats:
        linear = (2 * n - b + c) * d - b - c
        root = np.sqrt(np.maximum(linear**2 + 8 * n * c * d * (1 - d), 0))
        p = (root - linear) / (4 * n)  # Most likely share of worse rows at the difference d.
        variance = n * (2 * p + d * (1 - d))
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(variance > 0, (b - c - n * d) / np.sqrt(variance), 0.0)

    def bound(outside: float, inside: Floats) -> Floats:
        far = np.full_like(estimate, outside)
        for _ in range(_HALVINGS):
            middle = (far + inside) / 2
            held = np.abs(statistic(middle)) <= z
            far, inside = np.where(held, far, middle), np.where(held, middle, inside)
        return 100 * inside

    return bound(-1.0, estimate), bound(1.0, estimate)


def wilson_interval(right: float, rows: int, confidence: float) -> tuple[float, float]:
    """Return the score interval of a proportion, in percent.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference,
    Journal of the American Statistical Association 22 (1927).
    """
    z, share = critical(confidence), right / rows
    centre = (share + z * z / (2 * rows)) / (1 + z * z / rows)
    half = math.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows))
    half *= z / (1 + z * z / rows)
    return 100 * max(0.0, centre - half), 100 * min(1.0, centre + half)


def bca_interval(
    estimate: float, replicates: Floats, deleted: Floats, confidence: float
) -> tuple[float, float]:
    """Return the bias-corrected and accelerated bootstrap interval.

    Args:
        estimate: The statistic on the sample.
        replicates: The statistic on each resample, [resamples].
        deleted: The statistic with each row, or each group of rows of one size, left out.
        confidence: Two-sided, 0 to 1.

    Returns:
        Low and high; both the estimate where every replicate equals it.

    Source: B. Efron, Better bootstrap confidence intervals, Journal of the American Statistical
    Association 82 (1987); with the jackknife's acceleration as in Efron and Tibshirani, An
    Introduction to the Bootstrap (1993), equations 14.9 to 14.15.
    """
    from scipy.special import ndtr, ndtri

    # Resamples of equal rows differ in the last bits; to count them as ties keeps the bias right.
    near = 1e-10 * max(1.0, abs(estimate))
    off = replicates - estimate
    if np.abs(off).max(initial=0.0) <= near:
        return estimate, estimate
    below = (np.count_nonzero(off < -near) + np.count_nonzero(off <= near)) / 2
    # All on one side: half a replicate short of it, as the quantile of 0 or 1 is infinite.
    bias = ndtri(np.clip(below, 0.5, len(off) - 0.5) / len(off))
    u = deleted.mean() - deleted
    spread = float((u**2).sum())
    acceleration = float((u**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0
    shifted = bias + critical(confidence) * np.array([-1.0, 1.0])
    levels = ndtr(bias + shifted / (1 - acceleration * shifted))
    low, high = np.percentile(replicates, 100 * levels)
    return float(low), float(high)
