"""The checks of a gate: what was found, what was wanted, and whether it holds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from albert_deploy.validation.gate.policy import Limits
from albert_deploy.validation.gate.verdicts import FAIL, PASS, UNDECIDED
from albert_deploy.validation.parity.difference import Difference
from albert_deploy.validation.parity.rounding import Rounding
from albert_deploy.validation.scores.paired import Paired, rows_needed

# Scores are ratios of whole rows; a loss equal to the limit must not fail by rounding.
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at.

    Attributes:
        kind: ``parity``, ``accuracy``, ``performance``, ``contract``, ``metamorphic``,
            ``regression``, or ``run`` where a variant gave no answer.
        name: What of it, unique within its kind and variant.
        verdict: ``pass``, ``fail`` or ``undecided``.
        message: What was found and what was wanted.
        value: The number that was held against the limit; None where there is none.
        limit: The limit.
    """

    kind: str
    name: str
    verdict: str
    message: str
    value: float | None = None
    limit: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the form that reports hold; a number that is not finite is null."""
        value = self.value if self.value is not None and math.isfinite(self.value) else None
        return asdict(self) | {"value": value}


def check_output(limits: Limits, where: str, difference: Difference) -> list[Check]:
    """Return the checks of one output; ``where`` names it and what it was run on."""
    if not difference.finite:
        return [_parity(f"{where}, finite", False, f"{where} has NaN or infinite values")]
    found = [_parity(f"{where}, finite", True, f"{where} has only finite values")]
    limit, value = limits.max_relative_error, difference.relative
    if limit is not None:
        message = f"{where} differs by {value:.2e} of its scale, the limit is {limit:.0e}"
        found.append(_parity(f"{where}, relative error", value <= limit, message, value, limit))
    limit, value = limits.min_sqnr_db, difference.sqnr_db
    if limit is not None:
        text = "is exact" if value == math.inf else f"has an SQNR of {value:.1f} dB"
        message = f"{where} {text}, the limit is {limit:.1f} dB"
        found.append(_parity(f"{where}, SQNR", value >= limit, message, value, limit))
    return found


def check_rounding(limits: Limits, where: str, rounding: Rounding | None) -> list[Check]:
    """Return the checks of one output's errors against float64; None where they were not seen."""
    limit, name = limits.max_error_ratio, f"{where}, error against float64"
    if limit is None:
        return []
    if rounding is None:
        return [_parity(name, False, f"{where} was not compared with the source in float64")]
    if not rounding.finite:
        return [_parity(name, False, f"{where}: the variant or float64 is not finite")]
    found, value = rounding.to_json(), rounding.ratio
    message = (
        f"{where} differs from float64 by {found['variant_max']:.1e} of its scale (root mean "
        f"square {found['variant_rms']:.1e}), the source by {found['source_max']:.1e} "
        f"({found['source_rms']:.1e}): {value:.3g} times as much, the limit is {limit:g}"
    )
    checks = [_parity(name, value <= limit, message, value, limit)]
    if rounding.changed:
        value = rounding.changed_ratio
        message = (
            f"{where}: {rounding.changed} decisions changed; float64 decides them by up to "
            f"{value:.3g} times the source's own error there, the limit is {limit:g}"
        )
        checks.append(_parity(f"{where}, decisions", value <= limit, message, value, limit))
    return checks


def check_predictions(limits: Limits, changed: int | None, rows: int | None) -> list[Check]:
    """Return the checks of how many predictions changed; none where none can be counted."""
    found: list[Check] = []
    if changed is None:
        return found
    limit = limits.max_changed_predictions
    if limit is not None:
        message = f"{changed} predictions changed, the limit is {limit}"
        held = changed <= limit
        found.append(_accuracy("changed predictions", held, message, changed, limit))
    least = limits.min_agreement
    if least is not None and rows:
        value = 1 - changed / rows
        held = value >= least - _ROUNDING
        message = (
            f"{changed} of {rows} predictions changed: {value:.2%} agree, the limit is {least:.2%}"
        )
        found.append(_accuracy("agreement", held, message, value, least))
    return found


def check_score(
    limits: Limits, name: str, source: float, variant: float, higher_is_better: bool = True
) -> list[Check]:
    """Return the checks of a score as measured, whatever the number of rows."""
    drop = source - variant if higher_is_better else variant - source
    found = []
    limit = limits.min_score
    if limit is not None:
        over = variant - limit if higher_is_better else limit - variant
        side = "least" if higher_is_better else "largest"
        message = f"{name} is {variant:.3f}, the {side} allowed is {limit}"
        found.append(_accuracy(f"{name}, score", over >= -_ROUNDING, message, variant, limit))
    limit = limits.max_drop
    if limit is not None:
        message = f"{name} {_moved(drop, higher_is_better)} from {source:.3f}, the limit is {limit}"
        held = drop <= limit + _ROUNDING
        found.append(_accuracy(f"{name}, drop", held, message, drop, limit))
    shares = {
        "relative drop": limits.max_relative_drop,
        "share of the source": (
            None if limits.min_score_share is None else 1 - limits.min_score_share
        ),
    }
    for label, most in shares.items():
        if most is None:
            continue
        held = drop <= most * abs(source) + _ROUNDING
        least = 1 - most if higher_is_better else 1 + most
        word = "less" if higher_is_better else "more"
        message = (
            f"{name} is {variant:.3f}, {'not ' if held else ''}{word} than {least:.1%} of the "
            f"source's {source:.3f}"
        )
        value = variant / source if source else None
        found.append(_accuracy(f"{name}, {label}", held, message, value, least))
    return found


def margin_points(limits: Limits, paired: Paired) -> float | None:
    """Return the points whose loss the data must rule out: the narrower margin of two."""
    margins = [] if limits.margin is None else [limits.margin]
    if limits.relative_margin is not None:
        margins.append(limits.relative_margin * abs(paired.source))
    return min(margins, default=None)


def check_margin(limits: Limits, paired: Paired) -> list[Check]:
    """Return the check of non-inferiority; none without a margin.

    It passes where the whole interval of the difference is above minus the margin, fails where
    the whole is below, and is undecided between.
    """
    margin = margin_points(limits, paired)
    if margin is None:
        return []
    low, gain, high = paired.gain
    message = (
        f"{paired.name} {_moved(-gain, paired.higher_is_better)} "
        f"[{paired.low:+.2f}, {paired.high:+.2f}] at {paired.confidence:.3g} confidence over "
        f"{paired.rows} rows; a loss of {margin:.4g} points"
    )
    if low >= -margin - _ROUNDING:
        verdict, message = PASS, f"{message} is ruled out"
    elif high < -margin - _ROUNDING:
        verdict, message = FAIL, f"{message} or more is certain at this confidence"
    else:
        wanted = rows_needed(paired, margin)
        verdict, message = UNDECIDED, f"{message} can be neither ruled out nor shown"
        message += (
            "; more rows will not pass what is measured, as the loss itself exceeds it"
            if wanted is None
            else f"; about {wanted} rows would decide, if the share of changes stays"
        )
    name = f"{paired.name}, margin"
    return [
        Check(
            kind="accuracy", name=name, verdict=verdict, message=message, value=low, limit=-margin
        )
    ]


def check_regression(limits: Limits, paired: Paired, earlier: float | None) -> Check:
    """Return the check against the baseline's score, None where it has none."""
    name = f"{paired.name} against the baseline"
    if earlier is None:
        message = f"the baseline has no {paired.name} of this variant"
        return Check(kind="regression", name=name, verdict=PASS, message=message)
    drop = earlier - paired.variant if paired.higher_is_better else paired.variant - earlier
    limit = limits.max_regression
    message = f"{paired.name} {_moved(drop, paired.higher_is_better)} from the baseline's "
    message += f"{earlier:.3f}, " + (
        "no limit is set" if limit is None else f"the limit is {limit}"
    )
    held = limit is None or drop <= limit + _ROUNDING
    return _check("regression", name, held, message, drop, limit)


def check_metamorphic(entry: Mapping[str, Any]) -> Check:
    """Return the check of an entry of the report: what must not change the answer."""
    error, tolerance = entry["error"], entry["tolerance"]
    text = "not finite" if error is None or not math.isfinite(error) else f"{error:.2e}"
    return Check(
        kind="metamorphic",
        name=f"{entry['check']}, {entry['output']}",
        verdict=entry["verdict"],
        message=f"{entry['check']} changes {entry['output']} by {text}, the tolerance is "
        f"{'not set' if tolerance is None else f'{tolerance:.0e}'}",
        value=error,
        limit=tolerance,
    )


def check_costs(limits: Limits, latency_ms: float | None, size_bytes: int | None) -> list[Check]:
    """Return the checks of latency and size; one that is limited and unknown is undecided."""
    found = []
    for name, unit, value, limit in (
        ("latency", "ms", latency_ms, limits.max_latency_ms),
        ("size", "bytes", size_bytes, limits.max_bytes),
    ):
        if limit is None:
            continue
        if value is None:
            verdict, text = UNDECIDED, "was not measured"
        else:
            verdict = PASS if value <= limit else FAIL
            text = f"is {value:,.6g} {unit}" if unit == "ms" else f"is {value:,} {unit}"
        found.append(
            Check(
                kind="performance",
                name=name,
                verdict=verdict,
                message=f"{name} {text}, the limit is {limit:,} {unit}",
                value=value,
                limit=limit,
            )
        )
    return found


def _check(
    kind: str,
    name: str,
    held: bool,
    message: str,
    value: float | None = None,
    limit: float | None = None,
) -> Check:
    verdict = PASS if held else FAIL
    return Check(kind=kind, name=name, verdict=verdict, message=message, value=value, limit=limit)


_parity, _accuracy = partial(_check, "parity"), partial(_check, "accuracy")


def _moved(drop: float, higher_is_better: bool) -> str:
    """Return how a score moved, by its loss in points."""
    if drop == 0:
        return "is the same"
    down = drop > 0 if higher_is_better else drop < 0
    return f"{'dropped' if down else 'rose'} {abs(drop):.3f} points"


def contract_checks(rows: Iterable[Mapping[str, Any]]) -> list[Check]:
    """Return the gate's checks of ``check_weights``' rows."""
    found = []
    for row in rows:
        what = "uses that differ, the first" if row["check"] == "weights uses" else "of"
        found.append(
            Check(
                kind="contract",
                name=row["check"],
                verdict=row["verdict"],
                message=f"{row['check']}: {row['error']:.2g} {what} {row['output']}, the limit is "
                f"{row['tolerance']:.2g}",
                value=row["error"],
                limit=row["tolerance"],
            )
        )
    return found
