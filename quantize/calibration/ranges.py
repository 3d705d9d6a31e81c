"""From a histogram to a range: min-max, percentile, entropy and mean squared error."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from albert_deploy.quantize.calibration.statistics import HALF, Statistics
from albert_deploy.runtime.errors import lookup

Rule = Callable[[Statistics, int], float]

# Ranges tried by the searching rules, as shares of the largest magnitude.
_SHARES = np.geomspace(1 / 64, 1.0, 97)
_PERCENTILE = 0.9999


def minmax(statistics: Statistics, levels: int) -> float:
    """Return the largest magnitude: nothing is clipped."""
    return statistics.peak


def percentile(statistics: Statistics, levels: int) -> float:
    """Return the magnitude below which 99.99% of the values lie."""
    share = np.cumsum(_folded(statistics)) / statistics.total
    return min(float(np.searchsorted(share, _PERCENTILE) + 1) * statistics.width, statistics.peak)


def mse(statistics: Statistics, levels: int) -> float:
    """Return the range with the least mean squared error after rounding and clipping."""
    if statistics.peak == 0:
        return 0.0
    centers, counts = statistics.centers(), statistics.counts
    seen = counts > 0
    centers, counts = centers[seen], counts[seen]
    ranges = statistics.peak * _SHARES
    steps = ranges[:, None] / levels
    rounded = np.clip(np.rint(centers / steps), -levels, levels) * steps
    errors = ((rounded - centers) ** 2 * counts).sum(axis=1)
    return float(ranges[int(errors.argmin())])


def entropy(statistics: Statistics, levels: int) -> float:
    """Return the range whose quantized distribution diverges least (KL) from the original.

    The clipped mass is put on the last bin and each quantized level is spread over the bins
    that it stands for, as in Migacz, "8-bit inference with TensorRT", GTC 2017.
    """
    counts = _folded(statistics).astype(np.float64)
    last = int(np.flatnonzero(counts)[-1]) + 1
    best, found = np.inf, last
    # The whole range is always among them: where all values are large, any other clips them all.
    for stop in (*range(min(levels, last), last, max(1, last // 128)), last):
        original = counts[:stop].copy()
        original[-1] += counts[stop:].sum()
        groups = np.minimum(np.arange(stop) * levels // stop, levels - 1)
        mass = np.bincount(groups, counts[:stop], levels)
        members = np.bincount(groups, counts[:stop] > 0, levels)
        spread = np.divide(mass, members, out=np.zeros(levels), where=members > 0)
        quantized = np.where(counts[:stop] > 0, spread[groups], 0.0)
        divergence = _divergence(original, quantized)
        if divergence < best:
            best, found = divergence, stop
    return min(found * statistics.width, statistics.peak)


MINMAX = "minmax"

RULES: dict[str, Rule] = {
    MINMAX: minmax,
    "percentile": percentile,
    "entropy": entropy,
    "mse": mse,
}


def scale_of(statistics: Statistics, rule: str, levels: int = 127) -> float:
    """Return the step of symmetric quantization by a rule: positive and a normal float32.

    Raises:
        InputError: Unknown rule.
    """
    step = lookup(RULES, rule, "range rule")(statistics, levels) / levels
    return max(step, float(np.finfo(np.float32).tiny))


def _folded(statistics: Statistics) -> npt.NDArray[np.int64]:
    """Return the histogram of magnitudes, [HALF]."""
    counts = statistics.counts
    return np.asarray(counts[HALF:] + counts[:HALF][::-1], dtype=np.int64)


def _divergence(p: npt.NDArray[np.float64], q: npt.NDArray[np.float64]) -> float:
    seen = p > 0
    p, q = p[seen] / p.sum(), q[seen] / max(q.sum(), 1e-300)
    return float((p * np.log(p / np.maximum(q, 1e-12))).sum())
