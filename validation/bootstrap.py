"""Resample rows: scores of bootstrap samples, and of samples with rows left out."""

from __future__ import annotations

import math

import numpy as np

from albert_deploy.validation.measured import Floats, Measured

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
