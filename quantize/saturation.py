"""INT8 weights that no processor's 16-bit sums can saturate.

Without a dot-product instruction (VNNI on x86, the relaxed dot product of WebAssembly) the quick
kernels multiply uint8 activations by int8 weights in pairs of neighbouring inputs and add the two
products in 16 bits, which saturate where ``255 * |a + b|`` is beyond them. Bounding each pair costs
little, as few pairs are that large; the usual remedy, 7-bit weights, doubles every step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int8]

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
