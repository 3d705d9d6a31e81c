"""The gate: what each variant must hold, and the verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from albert_deploy.runtime.errors import (
    AccuracyError,
    AlbertDeployError,
    ContractError,
    MachineError,
    ParityError,
    PerformanceError,
    UndecidedError,
)
from albert_deploy.validation.gate.baseline import Baseline
from albert_deploy.validation.gate.checks import (
    Check,
    check_costs,
    check_margin,
    check_metamorphic,
    check_output,
    check_predictions,
    check_regression,
    check_rounding,
    check_score,
    margin_points,
)
from albert_deploy.validation.gate.policy import Rules
from albert_deploy.validation.gate.verdicts import FAIL, PASS, UNDECIDED
from albert_deploy.validation.parity.difference import Difference
from albert_deploy.validation.parity.rounding import Rounding
from albert_deploy.validation.scores.measured import Measured
from albert_deploy.validation.scores.paired import Paired, compare_paired, rows_needed

# Which error a failing check becomes; where several fail, the first of these that is among them.
_ERRORS: dict[str, type[AlbertDeployError]] = {
    "contract": ContractError,
    "parity": ParityError,
    "metamorphic": ParityError,
    "accuracy": AccuracyError,
    "regression": AccuracyError,
    "performance": PerformanceError,
    "run": MachineError,
}
KINDS = tuple(_ERRORS)


def compare_scores(
    rules: Rules, source: Mapping[str, Measured], variant: Mapping[str, Measured]
) -> dict[str, Paired]:
    """Compare each score of a variant with the source's, as confident as the policy asks.

    Raises:
        InputError: The scores are not of the same rows, or one is not finite.
    """
    return {
        name: compare_paired(measured, variant[name], rules.paired_config(name))
        for name, measured in source.items()
    }


def judge(
    rules: Rules,
    *,
    differences: Mapping[str, Mapping[str, Difference]],
    roundings: Mapping[str, Mapping[str, Rounding]] | None = None,
    changed: int | None = None,
    rows: int | None = None,
    scores: Mapping[str, Paired] | None = None,
    metamorphic: Sequence[Mapping[str, Any]] = (),
    latency_ms: float | None = None,
    size_bytes: int | None = None,
    baseline: Baseline | None = None,
) -> list[Check]:
    """Return every check of a variant, those that pass too.

    Args:
        rules: The policy for the variant.
        differences: Where (``rows``, ``grid``) -> output -> comparison.
        roundings: Likewise the errors against float64; a place or output that is not there fails
            where these are limited.
        changed: Rows whose prediction changed; None where predictions are no choices.
        rows: Rows of the data set, for the agreement.
        scores: Metric -> comparison with the source; result of ``compare_scores``.
        metamorphic: As in the report: ``check``, ``output``, ``error``, ``tolerance``, ``verdict``.
        latency_ms: Median latency; None where it was not measured.
        size_bytes: Size of the variant's files.
        baseline: The earlier release.
    """
    limits = rules.limits
    found = []
    for place, outputs in differences.items():
        for output, difference in outputs.items():
            found += check_output(limits, f"{output} on {place}", difference)
            rounding = (roundings or {}).get(place, {}).get(output)
            found += check_rounding(limits, f"{output} on {place}", rounding)
    found += check_predictions(limits, changed, rows)
    for name, paired in (scores or {}).items():
        own = rules.metric(name)
        found += check_score(own, name, paired.source, paired.variant, paired.higher_is_better)
        found += check_margin(own, paired)
        if baseline is not None:
            earlier = baseline.scores.get(rules.variant, {}).get(name)
            found.append(check_regression(own, paired, earlier))
    found += [check_metamorphic(entry) for entry in metamorphic]
    return found + check_costs(limits, latency_ms, size_bytes)


def verdict_of(checks: Iterable[Check], *, undecided: str = FAIL) -> str:
    """Return ``fail`` if a check fails, else ``undecided`` if one is, else ``pass``.

    Args:
        checks: Of one variant, or of all.
        undecided: The policy's: ``pass`` counts a check that is undecided as passed.
    """
    verdicts = {check.verdict for check in checks}
    if FAIL in verdicts:
        return FAIL
    return UNDECIDED if UNDECIDED in verdicts and undecided != PASS else PASS


def metric_record(rules: Rules, paired: Paired) -> dict[str, Any]:
    """Return what a report says of one metric; intervals are of two sides."""
    limits = rules.metric(paired.name)
    margin, judged = margin_points(limits, paired), check_margin(limits, paired)
    points = check_score(
        limits, paired.name, paired.source, paired.variant, paired.higher_is_better
    )
    wanted = None
    if margin is not None and verdict_of(judged) == UNDECIDED:
        wanted = rows_needed(paired, margin)
    return {
        "source": paired.source,
        "variant": paired.variant,
        "difference": paired.difference,
        "interval": [paired.low, paired.high],
        "variant_interval": [paired.variant_low, paired.variant_high],
        "confidence": paired.confidence,
        "method": paired.method,
        "margin": margin,
        "test": paired.test,
        "verdict": verdict_of([*judged, *points]),
        "rows_needed": wanted,
    }


def raise_for_verdict(report: Mapping[str, Any]) -> None:
    """Raise what a report's verdict calls for; a pass returns.

    Where checks of several kinds fail, the error is the first of these.

    Raises:
        ContractError: An artifact breaks an invariant.
        ParityError: A variant's outputs are too far from the source's, or depend on what they
            must not depend on.
        AccuracyError: A variant lost too much of the score, or against the baseline.
        PerformanceError: A variant is not as fast or as small as was required.
        MachineError: A variant gave no answer.
        UndecidedError: The data cannot tell, and the policy does not let that pass.
        AlbertDeployError: The verdict is no pass and nothing in the report says why.
    """
    found: dict[str, list[str]] = {}
    for name, variant in (*report["variants"].items(), *report.get("engines", {}).items()):
        checks = variant.get("checks")
        if checks is None:
            checks = [{"verdict": FAIL} | breach for breach in variant.get("breaches", ())]
        bad = [check for check in checks if check["verdict"] != PASS]
        if variant.get("failure") and not any(check["verdict"] == FAIL for check in bad):
            bad.append({"kind": "run", "verdict": FAIL, "message": variant["failure"]})
        for check in bad:
            kind = check["kind"] if check["verdict"] == FAIL else UNDECIDED
            found.setdefault(kind, []).append(f"{name}: {check['message']}")
    if "performance" in report:
        found.setdefault("performance", []).append(report["performance"])
    # Kinds of one error are told together.
    for error in dict.fromkeys(_ERRORS.values()):
        messages = [m for kind, e in _ERRORS.items() if e is error for m in found.get(kind, ())]
        if messages:
            raise error("; ".join(messages))
    verdict = report.get("verdict", PASS)
    if verdict == UNDECIDED:
        raise UndecidedError("; ".join(found.get(UNDECIDED, ("the data cannot tell",))))
    if verdict != PASS:
        raise AlbertDeployError(
            f"the verdict is {verdict!r} and no check says why; "
            f"{report.get('reason') or 'validate again'}"
        )
