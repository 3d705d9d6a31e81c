"""The gate: what each variant must hold, and the verdict."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from albert_deploy.runtime.contract import VARIANTS
from albert_deploy.runtime.errors import (
    AccuracyError,
    AlbertDeployError,
    InputError,
    ParityError,
    PerformanceError,
)
from albert_deploy.validation.parity import Difference


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of one variant; None does not limit.

    Args:
        max_relative_error: Largest difference over the output's largest magnitude, on real
            rows and on the edge grid.
        min_sqnr_db: Least signal to noise ratio of an output, on both, in dB.
        max_changed_predictions: Most rows of the data set whose prediction may change.
        max_drop: Most points of a score that may be lost, in percent points.
        min_score_share: Least share of the source's score, 0 to 1.
    """

    max_relative_error: float | None = None
    min_sqnr_db: float | None = None
    max_changed_predictions: int | None = None
    max_drop: float | None = None
    min_score_share: float | None = None


DEFAULT_GATE: dict[str, Limits] = {
    "fp32": Limits(max_relative_error=1e-4, max_changed_predictions=0),
    "fp16": Limits(min_sqnr_db=40.0, max_drop=0.1),
    "bf16": Limits(min_sqnr_db=25.0, max_drop=0.2),
    "int8": Limits(min_sqnr_db=10.0, min_score_share=0.99),
    "int8-qdq": Limits(min_sqnr_db=10.0, min_score_share=0.99),
    "int8-fp16": Limits(min_sqnr_db=10.0, min_score_share=0.99),
    "fp8-qdq": Limits(min_sqnr_db=8.0, min_score_share=0.99),
}


@dataclass(frozen=True, kw_only=True)
class Breach:
    """One limit that a variant does not hold; ``kind`` is ``parity`` or ``accuracy``."""

    kind: str
    message: str

    def to_json(self) -> dict[str, str]:
        """Return the form that reports hold."""
        return {"kind": self.kind, "message": self.message}


_ERRORS: dict[str, type[AlbertDeployError]] = {"parity": ParityError, "accuracy": AccuracyError}


def read_gate(path: Path | None) -> dict[str, Limits]:
    """Read a gate from TOML: a table per variant with the fields of ``Limits``.

    What the file does not set keeps its default.

    Raises:
        InputError: No such file, not TOML, or an unknown variant or key.
    """
    if path is None:
        return DEFAULT_GATE
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot read the gate {path}: {error}; give a TOML file with a table per variant"
        ) from error
    known = {field.name for field in fields(Limits)}
    gate = dict(DEFAULT_GATE)
    for variant, limits in tables.items():
        if variant not in VARIANTS or not isinstance(limits, dict):
            raise InputError(f"{path}: {variant!r} is no variant; use {', '.join(VARIANTS)}")
        for key, value in limits.items():
            if key not in known:
                raise InputError(f"{path}: unknown key {key!r}; use {', '.join(sorted(known))}")
            # NaN would compare false with everything, and so limit nothing.
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not math.isfinite(value):
                raise InputError(f"{path}: {variant}.{key} is {value!r}, wanted a number")
        gate[variant] = replace(gate[variant], **limits)
    return gate


def judge(
    limits: Limits,
    *,
    differences: dict[str, dict[str, Difference]],
    metrics: dict[str, dict[str, float]],
    changed: int | None,
) -> list[Breach]:
    """Return every limit that is not held.

    Args:
        limits: The variant's limits.
        differences: Where (``rows``, ``grid``) -> output -> comparison.
        metrics: Metric -> ``source`` and ``variant`` in percent; empty without labels.
        changed: Rows whose prediction changed; None without a data set.
    """
    found = []
    for place, outputs in differences.items():
        for name, difference in outputs.items():
            found += _parity(limits, f"{name} on {place}", difference)
    if changed is not None and _over(changed, limits.max_changed_predictions):
        found.append(
            Breach(
                kind="accuracy",
                message=f"{changed} predictions changed, the limit is "
                f"{limits.max_changed_predictions}",
            )
        )
    for name, score in metrics.items():
        drop = score["source"] - score["variant"]
        # Scores are ratios of whole rows; a drop equal to the limit must not fail by rounding.
        if limits.max_drop is not None and drop > limits.max_drop + 1e-9:
            found.append(
                Breach(
                    kind="accuracy",
                    message=f"{name} dropped {drop:.3f} points from {score['source']:.3f}, "
                    f"the limit is {limits.max_drop}",
                )
            )
        share = limits.min_score_share
        if share is not None and score["variant"] < share * score["source"] - 1e-9:
            found.append(
                Breach(
                    kind="accuracy",
                    message=f"{name} is {score['variant']:.3f}, less than {share:.1%} of the "
                    f"source's {score['source']:.3f}",
                )
            )
    return found


def raise_for_verdict(report: dict[str, Any]) -> None:
    """Raise what a report's verdict calls for; a pass returns.

    Raises:
        ParityError: A variant's outputs are too far from the source's.
        AccuracyError: A variant lost too much of the score.
        PerformanceError: A variant is not as fast or as small as was required.
    """
    breaches = [
        (breach["kind"], f"{name}: {breach['message']}")
        for name, variant in report["variants"].items()
        for breach in variant["breaches"]
    ]
    for kind, error in _ERRORS.items():
        if any(k == kind for k, _ in breaches):
            raise error("; ".join(message for _, message in breaches))
    if "performance" in report:
        raise PerformanceError(report["performance"])


def _parity(limits: Limits, where: str, difference: Difference) -> list[Breach]:
    if not difference.finite:
        return [Breach(kind="parity", message=f"{where} has NaN or infinite values")]
    found = []
    if _over(difference.relative, limits.max_relative_error):
        found.append(
            f"{where} differs by {difference.relative:.2e} of its scale, the limit is "
            f"{limits.max_relative_error:.0e}"
        )
    if limits.min_sqnr_db is not None and difference.sqnr_db < limits.min_sqnr_db:
        found.append(
            f"{where} has an SQNR of {difference.sqnr_db:.1f} dB, the limit is "
            f"{limits.min_sqnr_db:.1f} dB"
        )
    return [Breach(kind="parity", message=message) for message in found]


def _over(value: float, limit: float | None) -> bool:
    return limit is not None and value > limit
