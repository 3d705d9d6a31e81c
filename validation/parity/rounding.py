"""How far float32 arithmetic alone carries an output from its value, by a reference in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

# The source may be exact by luck, as where a model has two products. No float32 file can be asked
# for less than a few units in the last place of the output's scale.
FLOOR = 4 * float(np.finfo(np.float32).eps)


class Rounding:
    """Running errors of the source and of a variant, of one output; constant memory.

    Args:
        decision: How an output becomes a prediction, see ``Difference``.
    """

    def __init__(self, decision: str | None) -> None:
        self._decision = decision
        self.peak = 0.0
        self.finite = True
        self.source_max = self.variant_max = 0.0
        self.changed = 0
        self.changed_ratio = 0.0
        self._count = 0
        self._exact = self._source = self._variant = 0.0

    def add(
        self,
        exact: npt.NDArray[np.float64],
        source: npt.NDArray[np.float32],
        variant: npt.NDArray[np.float32],
    ) -> None:
        """Add one run, [batch, ...] each, of the source in float64, the source and the variant."""
        if not (np.isfinite(exact).all() and np.isfinite(variant).all()):
            self.finite = False
            return
        peak = own = 0.0
        parts = list(zip(exact, source, variant, strict=True))
        # A row at a time: with a vocabulary of 30,000 a batch is near a gigabyte.
        for x, a, b in parts:
            ours, theirs = np.abs(a - x), np.abs(b - x)
            peak = max(peak, float(np.abs(x).max(initial=0.0)))
            own = max(own, float(ours.max(initial=0.0)))
            self.variant_max = max(self.variant_max, float(theirs.max(initial=0.0)))
            self._count += x.size
            self._exact += float((x**2).sum())
            self._source += float((ours**2).sum())
            self._variant += float((theirs**2).sum())
        self.peak, self.source_max = max(self.peak, peak), max(self.source_max, own)
        if self._decision is not None:
            for x, a, b in parts:
                self._add_changes(x, a, b, max(own, FLOOR * peak))

    @property
    def ratio(self) -> float:
        """The variant's error over the source's own, of largest and mean square the worse.

        Both are against float64, and the source's is ``FLOOR`` of the output's scale at least.
        """
        if not self.finite:
            return math.inf
        largest = _over(self.variant_max, max(self.source_max, FLOOR * self.peak))
        exact, source, variant = (
            math.sqrt(total / self._count) if self._count else 0.0
            for total in (self._exact, self._source, self._variant)
        )
        return max(largest, _over(variant, max(source, FLOOR * exact)))

    def to_json(self) -> dict[str, Any]:
        """Return the form that reports hold; errors are shares of the output's scale."""
        count, peak = max(self._count, 1), self.peak or 1.0
        return {
            "finite": self.finite,
            "scale": self.peak,
            "source_max": self.source_max / peak,
            "variant_max": self.variant_max / peak,
            "source_rms": math.sqrt(self._source / count) / peak,
            "variant_rms": math.sqrt(self._variant / count) / peak,
            "ratio": self.ratio if self.finite else None,
            "changed": self.changed,
            "changed_ratio": self.changed_ratio,
        }

    def _add_changes(
        self,
        exact: npt.NDArray[np.float64],
        source: npt.NDArray[np.float32],
        variant: npt.NDArray[np.float32],
        error: float,
    ) -> None:
        """Add the decisions of one row that differ, with what they give away in float64.

        A choice that is d below the best one takes an error of d / 2 in each of the two.
        """
        if self._decision == "sign":
            differ = (source > 0) != (variant > 0)
            lost = np.abs(exact[differ])
        else:
            ours, theirs = source.argmax(axis=-1), variant.argmax(axis=-1)
            differ = np.asarray(ours != theirs)
            best = exact.max(axis=-1)[differ]
            chosen = (np.take_along_axis(exact, np.expand_dims(i, -1), -1) for i in (ours, theirs))
            lost = np.max([best - c[..., 0][differ] for c in chosen], axis=0) / 2
        self.changed += int(np.count_nonzero(differ))
        if lost.size:
            self.changed_ratio = max(self.changed_ratio, _over(float(lost.max()), error))


def _over(error: float, own: float) -> float:
    return error / own if own else (math.inf if error else 0.0)
