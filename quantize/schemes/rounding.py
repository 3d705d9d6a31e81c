"""Rounding of weights: to nearest, or so that the errors of a column cancel in the product."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from albert_deploy.export.graph.edit import bias_behind, matrix, values_of
from albert_deploy.quantize.schemes.qdq import Plan

Matrix = npt.NDArray[np.float32]

# 255 * 128 = 32640 is within 16 bits; 255 * 129 is not.
LARGEST_PAIR = 128
# Scales tried for a column, from the one that fits its peak to the one that fits its pairs.
_TRIED = 8
_COLUMNS_AT_ONCE = 1024


def bound_pairs(values: npt.NDArray[Any]) -> None:
    """Bring every pair of neighbouring rows to a sum of at most 128 in size, in place.

    Both move toward zero by half of what is too much.

    Args:
        values: Integers in -127..127 of any type, [inputs, outputs].
    """
    even = len(values) // 2 * 2
    first, second = values[0:even:2], values[1:even:2]
    total = np.add(first, second, dtype=np.float32)
    excess = total - np.clip(total, -LARGEST_PAIR, LARGEST_PAIR)
    half = np.trunc(excess / 2)
    first -= half.astype(values.dtype)
    second -= (excess - half).astype(values.dtype)


def scales_for_pairs(weight: Matrix, scale: Matrix, levels: int = 127) -> Matrix:
    """Return the scales with the least squared error once pairs are bounded.

    Args:
        weight: float32 [inputs, outputs].
        scale: float32 [outputs]; the scales that fit the largest weight of each column.
        levels: Largest magnitude.

    Returns:
        float32 [outputs], each between ``scale`` and twice that.
    """
    best = scale.copy()
    for start in range(0, weight.shape[1], _COLUMNS_AT_ONCE):
        part = slice(start, start + _COLUMNS_AT_ONCE)
        best[part] = _best_of(weight[:, part], scale[part], levels)
    return best


def _best_of(weight: Matrix, scale: Matrix, levels: int) -> Matrix:
    exact = weight / scale
    even = len(weight) // 2 * 2
    pairs = np.abs(exact[0:even:2] + exact[1:even:2]).max(axis=0, initial=0)
    widest = np.maximum(pairs / (LARGEST_PAIR - 1), 1)
    best, least = np.ones_like(scale), np.full(len(scale), np.inf)
    for share in np.linspace(0, 1, _TRIED, dtype=np.float32):
        wider = 1 + share * (widest - 1)
        values = np.rint(exact / wider).clip(-levels, levels)
        bound_pairs(values)
        error = np.square(exact - values * wider).sum(axis=0, dtype=np.float64)
        best = np.where(error < least, wider, best)
        least = np.minimum(error, least)
    return np.asarray(scale * best, np.float32)


Moments = npt.NDArray[np.floating[Any]]

# Rows between two updates of the rest of the matrix: one large product instead of many small.
_BLOCK = 128
# Added to the diagonal, as a share of its mean, so that the inverse exists.
_DAMPING = 0.01


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


def correct_biases(
    model: ir.Model, plan: Plan, means: Mapping[str, npt.NDArray[np.float64]]
) -> int:
    """Take the mean error of a rounded weight's products off the bias behind them.

    One correction serves all uses, as one bias does: the mean is over the inputs of all of
    them (Nagel et al. 2019, "Data-free quantization", section 4.2, with measured means).
    """
    count = 0
    for name, weight in plan.weights.items():
        readers = [n for n, _ in model.graph.initializers[name].uses()]
        biases = {found[1] for n in readers if (found := bias_behind(n)) is not None}
        if name not in means or len(biases) != 1:
            continue
        bias = biases.pop()
        error = means[name] @ (weight.real().astype(np.float64) - matrix(model, name))
        corrected = np.asarray(values_of(bias).numpy(), np.float64) - error
        bias.const_value = ir.tensor(corrected.astype(np.float32), name=bias.name)
        count += 1
    return count
