"""What a report says of one variant: scores, flips, worst rows, parity and the checks on it."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from albert_deploy.runtime.manifest import model_files
from albert_deploy.validation.data.rows import (
    ChoiceRow,
    ClassificationRow,
    Example,
    QuestionRow,
    TokensRow,
)
from albert_deploy.validation.evaluate.evidence import Evidence
from albert_deploy.validation.evaluate.predictions import FOLDER, chosen
from albert_deploy.validation.evaluate.workers import SOURCE
from albert_deploy.validation.gate.checks import Check
from albert_deploy.validation.gate.gate import metric_record, verdict_of
from albert_deploy.validation.gate.policy import Rules
from albert_deploy.validation.parity.difference import Difference
from albert_deploy.validation.scores.paired import Paired

BETTER, WORSE, OTHER = "better", "worse", "other"
# Changed predictions and worst rows that a report lists.
_LISTED, _WORST = 50, 10
# Errors below this are counted in one bin.
_LEAST_ERROR = 1e-9


def variant_record(
    manifest: Mapping[str, Any],
    name: str,
    rules: Rules,
    *,
    evidence: Evidence,
    grid: Mapping[str, Difference],
    paired: Mapping[str, Paired],
    checks: Sequence[Check],
    reports: Path,
) -> dict[str, Any]:
    """Return a variant's part of the report, but for what further steps add.

    Args:
        manifest: The directory's manifest.
        name: Key of ``VARIANTS``.
        rules: The policy for it.
        evidence: What was seen.
        grid: Output -> comparison on the edge grid.
        paired: Metric -> comparison with the source's score.
        checks: All checks of it.
        reports: Folder of the reports, for the logits that were kept.
    """
    rows = evidence.differences.get(name, {})
    flips = flipped(evidence, name)
    bad = [check for check in checks if check.verdict == "fail"]
    failure = evidence.failures.get(name)
    verdict = verdict_of(checks, undecided=rules.policy.statistics.undecided)
    return {
        "verdict": "fail" if failure else verdict,
        "failure": failure,
        "checks": [check.to_json() for check in checks],
        "breaches": [{"kind": check.kind, "message": check.message} for check in bad],
        "metrics": {metric: metric_record(rules, found) for metric, found in paired.items()},
        "agreement": _agreement(flips, rows, evidence.rows),
        "changed_predictions": None if flips is None else len(flips),
        "changed": None
        if flips is None
        else [{key: flip[key] for key in ("id", "source", "variant")} for flip in flips[:_LISTED]],
        "flips": None if flips is None else _flips(flips),
        "worst_rows": worst_rows(evidence, name, reports),
        "errors_histogram": error_histogram(evidence.errors.get(name, [])),
        "parity": {output: d.to_json() for output, d in rows.items()},
        "grid": {output: d.to_json() for output, d in grid.items()},
    } | recorded(manifest, name)


def recorded(manifest: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return what the manifest says of a variant's file, weights and calibration."""
    from albert_deploy.validation.parity.coverage import CoverageRow, summary

    record = manifest["variants"][name]
    coverage = record.get("coverage")
    return {
        "file": record["file"],
        "sha256": manifest["files"][record["file"]]["sha256"],
        "bytes": sum_bytes(manifest, name),
        "coverage": None if coverage is None else summary(CoverageRow(**row) for row in coverage),
        "weights": coverage,
        "calibration": record.get("calibration"),
    }


def sum_bytes(manifest: Mapping[str, Any], name: str) -> int:
    """Return the size of a variant's files."""
    file = manifest["variants"][name]["file"]
    return sum(manifest["files"][f]["bytes"] for f in model_files(manifest, file))


def flipped(evidence: Evidence, name: str) -> list[dict[str, Any]] | None:
    """Return the rows whose prediction is not the source's; None where none is a choice.

    A flip is ``better`` or ``worse`` where the first score that is a mean over rows rises or
    falls with it, else ``other``.
    """
    ours, theirs = (evidence.predictions.get(model) for model in (SOURCE, name))
    if not ours or theirs is None or any(isinstance(p, float) for p in ours.values()):
        return None
    values = [
        (before.values, evidence.measured[name][metric].values)
        for metric, before in evidence.measured.get(SOURCE, {}).items()
        if before.values is not None
    ]
    found = []
    for number, example in enumerate(evidence.examples):
        source, variant = chosen(ours[example.id]), chosen(theirs[example.id])
        if source == variant:
            continue
        kind = OTHER
        if values and values[0][1] is not None and len(values[0][0]) == len(evidence.examples):
            gain = values[0][1][number] - values[0][0][number]
            kind = BETTER if gain > 0 else WORSE if gain < 0 else OTHER
        found.append(
            {
                "id": example.id,
                "text": text_of(example),
                "label": label_of(example),
                "source": source,
                "variant": variant,
                "kind": kind,
            }
        )
    return found


def text_of(example: Example) -> str:
    """Return what a row says, for people."""
    if isinstance(example, ClassificationRow):
        return example.text if example.pair is None else f"{example.text} | {example.pair}"
    if isinstance(example, QuestionRow | ChoiceRow):
        return example.question
    if isinstance(example, TokensRow):
        return " ".join(example.words)
    return example.text if example.following is None else f"{example.text} | {example.following}"


def label_of(example: Example) -> Any:
    """Return a row's label; the reference answers of a question."""
    if isinstance(example, QuestionRow):
        return list(example.answers)
    return list(example.tags) if isinstance(example, TokensRow) else example.label


def worst_rows(evidence: Evidence, name: str, reports: Path) -> list[dict[str, Any]]:
    """Return the rows with the largest errors, with the logits that were kept of them."""
    errors = evidence.errors.get(name, [])
    ranked = sorted(range(len(errors)), key=lambda i: -_rank(errors[i]))[:_WORST]
    worst = [i for i in ranked if errors[i] > 0 or math.isnan(errors[i])]
    ids = {evidence.examples[i].id for i in worst}
    logits = {model: _logits(reports, model, ids) for model in (SOURCE, name)}
    return [
        {
            "id": evidence.examples[i].id,
            "text": text_of(evidence.examples[i]),
            "error": errors[i],
            "source": logits[SOURCE].get(evidence.examples[i].id),
            "variant": logits[name].get(evidence.examples[i].id),
        }
        for i in worst
    ]


def error_histogram(errors: Sequence[float]) -> dict[str, list[float] | list[int]] | None:
    """Count errors in bins of a quarter of a decade.

    Args:
        errors: Largest absolute difference of each row; those not finite are left out.

    Returns:
        ``edges`` (one more than bins; the first bin, from 0, has what is below 1e-9) and
        ``counts``; None where there is nothing to count.
    """
    finite = [error for error in errors if math.isfinite(error)]
    if not finite:
        return None
    low = math.floor(4 * math.log10(max(min(finite), _LEAST_ERROR)))
    high = math.floor(4 * math.log10(max(*finite, _LEAST_ERROR))) + 1
    edges = [0.0, *(10 ** (i / 4) for i in range(low, high + 1))]
    counts = [0] * (len(edges) - 1)
    for error in finite:
        # The last edge that is not above it.
        counts[sum(edge <= error for edge in edges[1:-1])] += 1
    return {"edges": edges, "counts": counts}


def _rank(error: float) -> float:
    return math.inf if math.isnan(error) else error


def _logits(reports: Path, model: str, ids: set[str]) -> dict[str, Any]:
    path = reports / FOLDER / f"{model}.jsonl.gz"
    if not ids or not path.is_file():
        return {}
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        found = (json.loads(line) for line in lines)
        return {row["id"]: _named(row.get("logits")) for row in found if row["id"] in ids}


def _named(logits: Any) -> Any:
    return logits if logits is None or isinstance(logits, Mapping) else {"logits": logits}


def _flips(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    counts = {kind: sum(flip["kind"] == kind for flip in found) for kind in (BETTER, WORSE, OTHER)}
    # Those that cost most to miss come first.
    order = (WORSE, OTHER, BETTER)
    return counts | {"rows": sorted(found, key=lambda f: order.index(f["kind"]))[:_LISTED]}


def _agreement(
    flips: Sequence[Any] | None, rows: Mapping[str, Difference], count: int
) -> float | None:
    """Return the share of equal predictions; without labels, of the outputs' worst decision."""
    if flips is not None:
        return 1 - len(flips) / count
    shares = [d.agreement for d in rows.values() if d.agreement is not None]
    return min(shares) if shares else None
