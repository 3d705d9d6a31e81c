"""Compare a variant's score with the source's on the same rows: test, interval, rows needed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from albert_deploy.runtime.errors import InputError
from albert_deploy.validation.scores.measured import Measured
from albert_deploy.validation.scores.resampling import (
    bca_interval,
    critical,
    deleted,
    mean_deleted,
    means,
    reach,
    resampled,
    score_interval,
    wilson_interval,
)

MIN_RESAMPLES = 200


@dataclass(frozen=True, kw_only=True)
class PairedConfig:
    """How a difference is estimated.

    Args:
        confidence: Of the two-sided intervals; each bound alone holds with (1 + confidence) / 2.
        resamples: Bootstrap resamples.
        seed: Of the resampling; one seed gives the same intervals each time.

    Raises:
        InputError: A value is out of range.
    """

    confidence: float = 0.95
    resamples: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.5 <= self.confidence < 1:
            raise InputError(
                f"confidence is {self.confidence}, wanted 0.5 to less than 1, such as 0.95"
            )
        if not MIN_RESAMPLES <= self.resamples <= 1_000_000:
            raise InputError(
                f"resamples is {self.resamples}, wanted {MIN_RESAMPLES} to 1000000, such as 2000"
            )
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}, wanted 0 or more")


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Two scores on the same rows.

    Attributes:
        name: Name of the metric.
        rows: Units that the scores are made of.
        source: Score of the source; percent, or what the metric is in.
        variant: Score of the variant.
        difference: Variant minus source, in points.
        low: Lower bound of the difference.
        high: Upper bound of the difference.
        variant_low: Lower bound of the variant's own score.
        variant_high: Upper bound of the variant's own score.
        confidence: Of both intervals, two-sided.
        unseen: Points of the interval's arms that stand for changes too rare to be seen in so few
            rows; part of ``low`` and ``high``.
        higher_is_better: Whether a larger score is better.
        method: Of the interval of the difference: ``score`` or ``bca``.
        test: ``name`` (mcnemar), ``better``, ``worse`` (rows that only the variant, or only the
            source, gets right) and ``p_value`` of the two-sided test that neither is more
            likely; None where rows are not just right or wrong.
    """

    name: str
    rows: int
    source: float
    variant: float
    difference: float
    low: float
    high: float
    variant_low: float
    variant_high: float
    confidence: float
    unseen: float
    higher_is_better: bool
    method: str
    test: dict[str, Any] | None

    @property
    def gain(self) -> tuple[float, float, float]:
        """Low bound, estimate and high bound of what the variant gains; a loss is negative."""
        if self.higher_is_better:
            return self.low, self.difference, self.high
        return -self.high, -self.difference, -self.low


def compare_paired(source: Measured, variant: Measured, config: PairedConfig) -> Paired:
    """Estimate by how much a variant's score differs from the source's.

    Where each row is right or wrong (0 or 100): Tango's score interval and the exact McNemar
    test. Otherwise the BCa bootstrap interval over rows, the same rows for both, each arm
    lengthened by ``unseen``: in place of the bootstrap's variance m M^2 / n^2 of m rows that
    changed by M points it puts (m + z^2) M^2 / n^2, as Agresti and Coull do for a proportion.
    A change that none of n rows shows may still happen in z^2 / (n + z^2) of all rows.

    Args:
        source: Score of the source.
        variant: Score of the variant, on the same rows.
        config: Options.

    Raises:
        InputError: The scores are of different metrics or numbers of rows, or not finite.
    """
    if (source.name, source.rows) != (variant.name, variant.rows):
        raise InputError(
            f"got {source.name} over {source.rows} rows and {variant.name} over {variant.rows}; "
            "only one metric over the same rows can be compared"
        )
    if not (math.isfinite(source.score) and math.isfinite(variant.score)):
        raise InputError(
            f"{source.name} is {source.score} for the source and {variant.score} for the variant, "
            "wanted numbers; check the predictions"
        )
    if _is_binary(source) and _is_binary(variant):
        right, now = (np.asarray(side.values) > 50 for side in (source, variant))
        better, worse = np.count_nonzero(now & ~right), np.count_nonzero(right & ~now)
        return compare_counts(
            source.name,
            better=int(better),
            worse=int(worse),
            right=int(np.count_nonzero(right)),
            rows=source.rows,
            confidence=config.confidence,
        )
    return _bootstrapped(source, variant, config)


def compare_counts(
    name: str, *, better: int, worse: int, right: int, rows: int, confidence: float
) -> Paired:
    """Compare two scores whose rows are right or wrong, from their counts.

    Args:
        name: Name of the metric.
        better: Rows that only the variant gets right.
        worse: Rows that only the source gets right.
        right: Rows that the source gets right.
        rows: Rows in all.
        confidence: Of the two-sided intervals.
    """
    low, high = score_interval(better, worse, rows, confidence)
    kept = right + better - worse
    own = wilson_interval(kept, rows, confidence)
    z = critical(confidence)
    return Paired(
        name=name,
        rows=rows,
        source=100 * right / rows,
        variant=100 * kept / rows,
        difference=100 * (better - worse) / rows,
        low=float(low),
        high=float(high),
        variant_low=own[0],
        variant_high=own[1],
        confidence=confidence,
        unseen=100 * z * z / (rows + z * z),
        higher_is_better=True,
        method="score",
        test={
            "name": "mcnemar",
            "better": better,
            "worse": worse,
            "p_value": mcnemar(better, worse),
        },
    )


def mcnemar(better: int, worse: int) -> float:
    """Return the two-sided p-value of the exact McNemar test; 1 where no row differs.

    If neither model is better, each row that only one gets right is the toss of a fair coin.
    Source: Q. McNemar, Note on the sampling error of the difference between correlated
    proportions or percentages, Psychometrika 12 (1947), in its exact binomial form.
    """
    from scipy.stats import binomtest

    return float(binomtest(better, better + worse).pvalue) if better + worse else 1.0


def rows_needed(paired: Paired, margin: float) -> int | None:
    """Return how many rows would decide, if the difference and the share of changes stay.

    Of the arm between estimate and lower bound, the part from sampling shrinks with the root of
    the number of rows and the part for unseen changes with the number itself; they add as
    squares. Solved for the number at which the bound meets the margin.

    Args:
        paired: The comparison.
        margin: Points that may be lost.

    Returns:
        Rows, no less than there are; None where the loss itself is as large as the margin.
    """
    low, estimate, _ = paired.gain
    room, arm = margin + estimate, estimate - low
    if room <= 1e-9:
        return None
    if arm <= room:
        return paired.rows
    unseen = paired.unseen**2
    sampling = max(arm**2 - unseen, 0.0)
    # rows / wanted = x: unseen x^2 + sampling x = room^2, in the form that loses no digits.
    x = 2 * room**2 / (sampling + math.sqrt(sampling**2 + 4 * unseen * room**2))
    return math.ceil(paired.rows / x)


def _bootstrapped(source: Measured, variant: Measured, config: PairedConfig) -> Paired:
    draws = {"resamples": config.resamples, "seed": config.seed}
    if source.values is not None and variant.values is not None:
        gained = variant.values - source.values
        replicates, own = means(gained, **draws), means(variant.values, **draws)
        left_out, own_left_out = mean_deleted(gained), mean_deleted(variant.values)
        span = 100.0
    else:
        theirs, own = resampled(source, variant, **draws)
        source_left_out, own_left_out = deleted(source, variant, seed=config.seed)
        replicates, left_out = own - theirs, own_left_out - source_left_out
        span = reach(left_out, source_left_out, source.rows)
    difference = variant.score - source.score
    low, high = bca_interval(difference, replicates, left_out, config.confidence)
    z = critical(config.confidence)
    unseen = span * z * z / (source.rows + z * z)
    variant_low, variant_high = bca_interval(variant.score, own, own_left_out, config.confidence)
    if variant_low == variant_high:  # Every row has one value: the bootstrap sees no spread.
        variant_low -= unseen
        variant_high += unseen
    if source.higher_is_better:
        variant_high = min(variant_high, 100.0)
    return Paired(
        name=source.name,
        rows=source.rows,
        source=source.score,
        variant=variant.score,
        difference=difference,
        low=difference - math.hypot(max(difference - low, 0.0), unseen),
        high=difference + math.hypot(max(high - difference, 0.0), unseen),
        variant_low=variant_low,
        variant_high=variant_high,
        confidence=config.confidence,
        unseen=unseen,
        higher_is_better=source.higher_is_better,
        method="bca",
        test=None,
    )


def _is_binary(measured: Measured) -> bool:
    values = measured.values
    return (
        values is not None and measured.higher_is_better and bool(np.isin(values, (0, 100)).all())
    )
