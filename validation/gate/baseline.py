"""Reports of validations that were written earlier, read to be compared with."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from albert_deploy.runtime.errors import InputError

# Name and version of the format of ``reports/validation.json``; no other is read.
SCHEMA = "albert-deploy/validation/2"
_NEEDED = {"task": str, "verdict": str, "source": dict, "dataset": dict, "variants": dict}


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """What an earlier release scored.

    Attributes:
        file: Where its report was read.
        time: When it was made; None where the report does not say.
        source: sha256 of its source's weights.
        scores: Variant -> metric -> score of the variant.
    """

    file: str
    time: str | None
    source: str | None
    scores: Mapping[str, Mapping[str, float]]

    def to_json(self) -> dict[str, Any]:
        """Return the form that reports hold."""
        return {
            "file": self.file,
            "time": self.time,
            "source": self.source,
            "scores": {name: dict(scores) for name, scores in self.scores.items()},
        }


def read_report(path: Path) -> dict[str, Any]:
    """Read the report of a validation.

    Args:
        path: ``reports/validation.json`` of a deployment directory or bundle.

    Raises:
        InputError: It cannot be read, or is not in the format that this version writes.
    """
    again = "give reports/validation.json of an earlier release, or run albert-deploy validate"
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read the report {path}: {error}; {again}") from error
    found = report.get("schema") if isinstance(report, dict) else None
    if found != SCHEMA:
        raise InputError(
            f"{path} is no report of a validation that this version reads: its schema is "
            f"{found!r}, wanted {SCHEMA!r}; {again}"
        )
    lacking = [key for key, kind in _NEEDED.items() if not isinstance(report.get(key), kind)]
    if lacking:
        raise InputError(
            f"{path} is no report of a validation: it lacks {', '.join(lacking)}; {again}"
        )
    return dict(report)


def read_baseline(
    path: Path, *, task: str, dataset: str | None, rows: int | None = None
) -> Baseline:
    """Read ``reports/validation.json`` of an earlier release.

    Args:
        path: The report.
        task: Task of the release at hand.
        dataset: Its data set; None without one.
        rows: Its number of rows; None where they are not known yet.

    Raises:
        InputError: It cannot be read, is no report, or is of another task, data set or number
            of rows, so that its scores say nothing about the release at hand.
    """
    report = read_report(path)
    try:
        data = report["dataset"]
        theirs = (report["task"], data["name"], data["rows"])
        scores = {
            name: {metric: float(score["variant"]) for metric, score in v["metrics"].items()}
            for name, v in report["variants"].items()
        }
        source = report["source"]["sha256"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path} is no report of a validation ({type(error).__name__}: {error}); give "
            "reports/validation.json of an earlier release"
        ) from error
    ours = (task, dataset, theirs[2] if rows is None else rows)
    if theirs != ours:
        raise InputError(
            f"the baseline {path} is of {_shown(theirs)}, this release is of {_shown(ours)}; give "
            "the report of an earlier release on the same data, or leave the baseline out"
        )
    for name, found in scores.items():
        for metric, score in found.items():
            if not math.isfinite(score):
                raise InputError(f"{path}: {metric} of {name} is {score}, wanted a number")
    return Baseline(file=str(path), time=report.get("time"), source=source, scores=scores)


def _shown(what: tuple[Any, Any, Any]) -> str:
    task, dataset, rows = what
    return f"{task} on {dataset or 'texts without labels'} ({rows} rows)"
