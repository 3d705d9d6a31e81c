"""The checks of a report in one list, why it says what it says, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PASS, FAIL, UNDECIDED, ERROR = "pass", "fail", "undecided", "error"
_ORDER = (ERROR, FAIL, UNDECIDED, PASS)
# Where checks of the release as a whole are listed, beside the variants.
RELEASE = "release"

# Kind of what is wrong with a variant that gave no answer: an error rather than a failure.
_RUN = "run"
# Kind of a check that does not pass -> what to do, in the order in which it is best done.
_ADVICE = {
    _RUN: "A variant gave no answer at all: read its message, then export or quantize it again; "
    "where the engine hung, raise the timeout or try another engine.",
    "contract": "The file is not what was asked for: export or quantize again from the checkpoint, "
    "and do not edit files of the directory by hand.",
    "parity": "Outputs are too far from the source's: see which stage and which iteration brings "
    "the error, keep the operators named under blame in float, or calibrate on more rows.",
    "metamorphic": "The answer depends on something that it must not depend on, such as padding "
    "or the batch: export again, and try another engine to see which side is wrong.",
    "accuracy": "The score dropped too far: read the rows that flipped to worse, calibrate on "
    "data like them, or ship a variant of higher precision.",
    "regression": "It got worse since the stored baseline: run albert-deploy compare on both "
    "releases to see what changed.",
    "performance": "It is too slow or too large for its limit: try another variant or engine, or "
    "move the limit in the policy if the machine is not the one that it was set for.",
}
_MORE_ROWS = (
    "The rows are too few to tell: give more labelled rows{wanted}, or state a wider margin in "
    "the policy if such a loss would be acceptable."
)


def all_checks(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the checks of all variants and engines, failing ones first, each with its ``variant``.

    A variant that could not be run has an ``error``; where a variant lists no check, its verdict
    stands for them. A verdict that is not known is an error.
    """
    found = []
    judged = [*report.get("variants", {}).items(), *report.get("engines", {}).items()]
    for name, variant in judged:
        found += [{"variant": name} | check for check in _checks(variant)]
    if report.get("performance"):
        found.append(
            {
                "variant": RELEASE,
                "kind": "performance",
                "name": "pays",
                "verdict": FAIL,
                "message": report["performance"],
            }
        )
    for check in found:
        if check.get("verdict") not in _ORDER:
            check["message"] = f"unknown verdict {check.get('verdict')!r}; {check.get('message')}"
            check["verdict"] = ERROR
    return sorted(found, key=lambda check: _ORDER.index(check["verdict"]))


def reason(report: Mapping[str, Any]) -> str:
    """Return why the verdict is what it is, in a sentence."""
    if report.get("reason"):
        return str(report["reason"])
    checks = all_checks(report)
    bad = [check for check in checks if check["verdict"] != PASS]
    if report.get("verdict") == PASS and not bad:
        return f"Every variant holds every check ({len(checks)})."
    if not bad:
        return "No check says why; the run that wrote this report did not end as it should."
    first = f"{bad[0]['variant']}: {bad[0].get('message') or bad[0].get('name')}"
    return first + (f" ({len(bad)} checks do not pass.)" if len(bad) > 1 else "")


def advice(report: Mapping[str, Any]) -> list[str]:
    """Return what to do, most urgent first; empty where everything passes."""
    bad = [check for check in all_checks(report) if check["verdict"] != PASS]
    decided = {check.get("kind") for check in bad if check["verdict"] != UNDECIDED}
    found = [text for kind, text in _ADVICE.items() if kind in decided]
    if any(check["verdict"] == UNDECIDED for check in bad):
        needed = [
            metric["rows_needed"]
            for variant in report.get("variants", {}).values()
            for metric in (variant.get("metrics") or {}).values()
            if metric.get("rows_needed")
        ]
        found.append(_MORE_ROWS.format(wanted=f", about {max(needed):,} in all" if needed else ""))
    return found


def _checks(variant: Mapping[str, Any]) -> list[dict[str, Any]]:
    checks = [dict(check) for check in variant.get("checks") or ()]
    for check in checks:
        if check.get("kind") == _RUN and check.get("verdict") != PASS:
            check["verdict"] = ERROR
    found: list[dict[str, Any]] = []
    if variant.get("failure") and not any(check.get("verdict") == ERROR for check in checks):
        message = str(variant["failure"])
        found.append({"kind": _RUN, "name": "runs", "verdict": ERROR, "message": message})
    if checks:
        return found + checks
    if not found:
        verdict = variant.get("verdict")
        message = "the report lists no check of this variant"
        found.append({"kind": "gate", "name": "verdict", "verdict": verdict, "message": message})
    return found
