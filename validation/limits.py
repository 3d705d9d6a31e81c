"""The limits of a gate: what can be limited, and the defaults of each variant and metric."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from albert_deploy.runtime.errors import InputError
from albert_deploy.validation.paired import PairedConfig

# What becomes of a verdict that the data cannot give.
UNDECIDED = ("fail", "pass")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of one variant, or of one metric of it; None does not limit.

    Args:
        max_relative_error: Largest difference over the output's largest magnitude, on real
            rows and on the edge grid.
        min_sqnr_db: Least signal to noise ratio of an output, on both, in dB.
        max_changed_predictions: Most rows of the data set whose prediction may change.
        min_agreement: Least share of rows whose prediction stays, 0 to 1.
        max_latency_ms: Longest median latency, in ms.
        max_bytes: Most bytes of the variant's files.
        min_score: Least score, in percent; where lower is better, the largest.
        max_drop: Most points of a score that may be lost, as measured.
        max_relative_drop: Most of the source's score that may be lost, as measured, 0 to 1.
        min_score_share: Least share of the source's score, as measured: the same limit from the
            other end, 1 - ``max_relative_drop``.
        margin: Points whose loss the data must rule out at ``confidence``.
        relative_margin: Share of the source's score whose loss the data must rule out, 0 to 1.
        confidence: Of the interval that is held against the margins; None for that of the
            policy's statistics.
        max_regression: Most points that may be lost against the baseline.
    """

    max_relative_error: float | None = None
    min_sqnr_db: float | None = None
    max_changed_predictions: int | None = None
    min_agreement: float | None = None
    max_latency_ms: float | None = None
    max_bytes: int | None = None
    min_score: float | None = None
    max_drop: float | None = None
    max_relative_drop: float | None = None
    min_score_share: float | None = None
    margin: float | None = None
    relative_margin: float | None = None
    confidence: float | None = None
    max_regression: float | None = None


VARIANT_KEYS = tuple(field.name for field in fields(Limits))
# What a metric may be limited in; the rest is of the variant as a whole.
METRIC_KEYS = VARIANT_KEYS[VARIANT_KEYS.index("min_score") :]


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """How intervals are made, and what becomes of a verdict that the data cannot give.

    Args:
        confidence: See ``PairedConfig``, as the next two.
        resamples: Bootstrap resamples.
        seed: Of the resampling.
        undecided: ``fail`` or ``pass``.

    Raises:
        InputError: A value is out of range.
    """

    confidence: float = PairedConfig.confidence
    resamples: int = PairedConfig.resamples
    seed: int = PairedConfig.seed
    undecided: str = UNDECIDED[0]

    def __post_init__(self) -> None:
        """Check the values."""
        self.paired()
        if self.undecided not in UNDECIDED:
            raise InputError(f"undecided is {self.undecided!r}, wanted {' or '.join(UNDECIDED)}")

    def paired(self, confidence: float | None = None) -> PairedConfig:
        """Return how a metric is compared, at a confidence of its own if it has one."""
        chosen = self.confidence if confidence is None else confidence
        return PairedConfig(confidence=chosen, resamples=self.resamples, seed=self.seed)


# fp32 is the same arithmetic in another order: what it may change is not left to chance, and
# the data need not be large enough to show it. One row in 500 may be a near tie.
_FLOAT32 = Limits(max_relative_error=1e-4, min_agreement=0.998)
_INT8 = Limits(min_sqnr_db=10.0, min_score_share=0.99, margin=2.0)
DEFAULT_LIMITS: dict[str, Limits] = {
    "fp32": _FLOAT32,
    "fp16": Limits(min_sqnr_db=40.0, max_drop=0.5, margin=1.5),
    "bf16": Limits(min_sqnr_db=25.0, max_drop=0.5, margin=1.5),
    "int8": _INT8,
    "int8-qdq": _INT8,
    "int8-fp16": _INT8,
    "fp8-qdq": Limits(min_sqnr_db=8.0, min_score_share=0.99, margin=2.0),
}

_NOT_JUDGED: dict[str, float | None] = dict.fromkeys(
    ("max_drop", "min_score_share", "margin"), None
)
# A changed row moves these 2 to 4 times as far as accuracy, so that limits in shares of the score
# would be a matter of one or two rows.
_MATTHEWS: dict[str, dict[str, float | None]] = {
    "fp16": {"max_drop": 1.25, "margin": 3.75},
    "bf16": {"max_drop": 1.25, "margin": 3.75},
    "int8": {"max_drop": 2.5, "min_score_share": None, "margin": 5.0},
}
# Not in percent: shares of the source's value instead of points.
_PERPLEXITY: dict[str, float | None] = {
    **_NOT_JUDGED,
    "max_relative_drop": 0.02,
    "relative_margin": 0.04,
}
# Scores of a part of the rows, and those whose threshold is the best for the rows at hand.
PARTS = (
    "HasAns_exact",
    "HasAns_f1",
    "NoAns_exact",
    "NoAns_f1",
    "best_exact",
    "best_f1",
    "accuracy_middle",
    "accuracy_high",
)


def metric_defaults(variant: str, metric: str) -> Mapping[str, Any]:
    """Return where the default limits of a metric differ from those of its variant."""
    if variant == "fp32":
        return {}
    if metric in PARTS:
        return _NOT_JUDGED
    if metric == "pseudo_perplexity":
        return _PERPLEXITY
    if metric == "matthews":
        return _MATTHEWS.get(variant, _MATTHEWS["int8"])
    return {}
