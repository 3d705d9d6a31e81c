"""Rounding of weights: to nearest, or so that the errors of a column cancel in the product."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from albert_deploy.quantize.saturation import LARGEST_PAIR, bound_pairs

Matrix = npt.NDArray[np.float32]
Moments = npt.NDArray[np.floating[Any]]

# Rows between two updates of the rest of the matrix: one large product instead of many small.
_BLOCK = 128
# Added to the diagonal, as a share of its mean, so that the inverse exists.
_DAMPING = 0.01


def round_nearest(weight: Matrix, scale: Matrix, levels: int = 127) -> npt.NDArray[np.int8]:
    """Round to the nearest multiple of the scales.

    Args:
        weight: float32 [inputs, outputs].
        scale: float32 [outputs] or, for a scale per row, [inputs, 1].
        levels: Largest magnitude.
    """
    return np.asarray(np.rint(weight / scale).clip(-levels, levels), np.int8)


def round_compensated(
    weight: Matrix, scale: Matrix, moments: Moments, levels: int = 127, *, pairs: bool = False
) -> npt.NDArray[np.int8]:
    """Round row after row, moving each row's error onto the rows that are still to come.

    Minimizes the error of ``x @ weight`` over the inputs seen in calibration instead of the
    error of the weight: Frantar et al. 2023, "GPTQ", algorithm 1, with the second moments of the
    inputs of *all* uses of a shared weight.

    Args:
        weight: float32 [inputs, outputs].
        scale: float32 [outputs].
        moments: Sum of ``x.T @ x`` over calibration, [inputs, inputs].
        levels: Largest magnitude.
        pairs: Bound the sum of every pair of neighbouring rows, see ``saturation``.

    Returns:
        int8 [inputs, outputs].
    """
    inverse = _inverse_root(np.asarray(moments, np.float64))
    rest = np.asarray(weight, np.float64).copy()
    values = np.empty(weight.shape, np.int8)
    count = len(rest)
    for start in range(0, count, _BLOCK):
        stop = min(start + _BLOCK, count)
        errors = np.empty((stop - start, rest.shape[1]))
        for row in range(start, stop):
            rounded = np.rint(rest[row] / scale).clip(-levels, levels)
            if pairs and row % 2:
                before = values[row - 1].astype(np.float64)
                rounded = rounded.clip(-LARGEST_PAIR - before, LARGEST_PAIR - before)
            elif pairs and row + 1 < count:
                # What is too much is halved: all of it on the second row would weigh double.
                both = np.array([rounded, np.rint(rest[row + 1] / scale).clip(-levels, levels)])
                bound_pairs(both)
                rounded = both[0]
            values[row] = rounded
            error = (rest[row] - rounded * scale) / inverse[row, row]
            rest[row + 1 : stop] -= np.outer(inverse[row, row + 1 : stop], error)
            errors[row - start] = error
        rest[stop:] -= inverse[start:stop, stop:].T @ errors
    return values


def _inverse_root(moments: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the upper Cholesky factor of the damped inverse of the second moments."""
    damped = moments.copy()
    diagonal = np.einsum("ii->i", damped)
    mean = float(diagonal.mean()) or 1.0
    # An input that is always zero has no say; its weight is rounded to nearest.
    diagonal[diagonal == 0] = mean
    diagonal += _DAMPING * mean
    # With the order of the inputs reversed, the lower factor becomes the upper R of
    # damped = R @ R.T, whose inverse is the upper factor of the inverse.
    root = np.linalg.cholesky(damped[::-1, ::-1])[::-1, ::-1]
    return np.asarray(np.triu(np.linalg.inv(root)))
