"""The validate step: evidence for each variant, a verdict and the reports."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from albert_deploy.runtime.contract import TASKS, VARIANTS
from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.manifest import (
    check_file,
    file_record,
    read_manifest,
    sha256_of,
    write_manifest,
)
from albert_deploy.runtime.measure import measured
from albert_deploy.runtime.session import Session, open_session
from albert_deploy.runtime.tasks import load_tokenizer
from albert_deploy.validation.datasets import data_file
from albert_deploy.validation.evaluate import (
    SOURCE,
    EvaluateConfig,
    Evidence,
    decisions,
    evaluate,
    run_grid,
)
from albert_deploy.validation.gate import Limits, judge, read_gate
from albert_deploy.validation.parity import Difference, edge_grid
from albert_deploy.validation.reference import open_reference
from albert_deploy.validation.report import FILES, REPORTS, write_reports
from albert_deploy.validation.trace import trace

# Changed predictions that a report lists.
_LISTED = 50


@dataclass(frozen=True, kw_only=True)
class ValidateConfig:
    """What to validate with.

    Args:
        dataset: Name and path of labelled data; None compares outputs on real texts only.
        source: Where the checkpoint is; None for where it was exported from.
        gate: TOML file with limits; None for the defaults.
        evaluate: How rows are run.
        trace_rows: Rows on which the error trace is made, of the first
            ``evaluate.grid_texts``; 0 makes none.
        allow_calibration_rows: Accept a variant that was calibrated on the very data that it is
            judged on.

    Raises:
        InputError: ``trace_rows`` is out of range.
    """

    dataset: tuple[str, Path] | None = None
    source: str | None = None
    gate: Path | None = None
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    trace_rows: int = 32
    allow_calibration_rows: bool = False

    def __post_init__(self) -> None:
        """Check the values."""
        if not 0 <= self.trace_rows <= self.evaluate.grid_texts:
            raise InputError(
                f"trace_rows is {self.trace_rows}; it must be 0 for no error trace, or up to "
                f"grid_texts, {self.evaluate.grid_texts}"
            )


def validate(
    directory: Path, config: ValidateConfig, *, note: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Compare every variant of a deployment directory with its source and write the reports.

    Args:
        directory: Deployment directory.
        config: Options.
        note: Called with a line about each stage.

    Returns:
        The report, as in ``reports/validation.json``; ``gate.raise_for_verdict`` turns a
        failed one into its error.

    Raises:
        InputError: The source or the data cannot be used, or a variant was calibrated on it.
        ContractError: A file is not the one that the manifest records.
    """
    manifest = read_manifest(directory)
    gate = read_gate(config.gate)
    contract = manifest["contract"]
    variants = [name for name in VARIANTS if name in manifest["variants"]]
    if not variants:
        raise InputError(f"{directory} holds no variant; export the checkpoint again")
    for name in manifest["files"]:
        if not name.startswith(f"{REPORTS}/"):
            check_file(directory, manifest, name)
    _check_calibration(manifest, variants, config)
    outputs = {
        o.name_in(contract["family"]): o.argmax_axis is not None
        for o in TASKS[manifest["task"]].outputs
    }
    decide = decisions(contract, outputs)
    with measured() as cost:
        with contextlib.ExitStack() as stack:
            note("loading the fp32 source and the variants")
            sessions: dict[str, Session] = {
                SOURCE: stack.enter_context(open_reference(manifest, config.source))
            }
            for name in variants:
                sessions[name] = stack.enter_context(open_session(directory, variant=name))
            evidence = evaluate(
                sessions,
                contract=contract,
                task=manifest["task"],
                tokenizer=load_tokenizer(directory),
                decide=decide,
                dataset=config.dataset,
                config=config.evaluate,
            )
            cases = edge_grid(contract, manifest["source"]["config"], evidence.texts)
            note(f"{evidence.rows} rows done; {len(cases)} cases of the edge grid")
            grid = run_grid(sessions, cases, decide)
            engines = {name: session.engine for name, session in sessions.items()}
            del sessions
        # Only now, when the other sessions have given their memory back.
        traced = evidence.feeds[: config.trace_rows]
        compared = [name for name in variants if name != "fp32"] if traced else []
        traces = trace(directory, manifest, compared, traced) if compared else {}
    report: dict[str, Any] = {
        "verdict": "pass",
        "task": manifest["task"],
        "source": {
            "path": config.source or manifest["source"]["path"],
            "sha256": manifest["source"]["sha256"],
        },
        "dataset": {
            "name": config.dataset[0] if config.dataset else None,
            "rows": evidence.rows,
            "labelled": config.dataset is not None,
        },
        "grid_cases": len(cases),
        "trace_rows": len(traced) if traces else 0,
        "variants": {
            name: _variant(manifest, name, gate[name], evidence, grid[name])
            | {"engine": engines[name], "trace": traces.get(name)}
            for name in variants
        },
    }
    if any(v["verdict"] == "fail" for v in report["variants"].values()):
        report["verdict"] = "fail"
    for left in FILES:
        manifest["files"].pop(left, None)
    for path in write_reports(directory, report, evidence):
        manifest["files"][str(path.relative_to(directory))] = file_record(path)
    manifest["steps"]["validate"] = cost.to_json() | {"verdict": report["verdict"]}
    write_manifest(directory, manifest)
    return report


def _variant(
    manifest: dict[str, Any],
    name: str,
    limits: Limits,
    evidence: Evidence,
    grid: dict[str, Difference],
) -> dict[str, Any]:
    record = manifest["variants"][name]
    metrics = {
        metric: {"source": score, "variant": evidence.metrics[name][metric]}
        for metric, score in evidence.metrics.get(SOURCE, {}).items()
    }
    changed = _changed(evidence, name)
    rows = evidence.differences[name]
    breaches = judge(
        limits,
        differences={"rows": rows, "grid": grid},
        metrics=metrics,
        changed=len(changed) if changed is not None else None,
    )
    data = f"{record['file']}_data"
    files = [f for f in (record["file"], data) if f in manifest["files"]]
    return {
        "file": record["file"],
        "sha256": manifest["files"][record["file"]]["sha256"],
        "bytes": sum(manifest["files"][f]["bytes"] for f in files),
        "verdict": "fail" if breaches else "pass",
        "breaches": [breach.to_json() for breach in breaches],
        "metrics": metrics,
        "agreement": _agreement(changed, rows, evidence.rows),
        "changed_predictions": len(changed) if changed is not None else None,
        "changed": changed[:_LISTED] if changed is not None else None,
        "parity": {output: d.to_json() for output, d in rows.items()},
        "grid": {output: d.to_json() for output, d in grid.items()},
        "coverage": _coverage(record),
        "weights": record.get("coverage"),
        "calibration": record.get("calibration"),
    }


def _check_calibration(
    manifest: dict[str, Any], variants: list[str], config: ValidateConfig
) -> None:
    """Fail where a variant was calibrated on the data that is to judge it.

    Raises:
        InputError: Names the variants and the file.
    """
    calibrated = {
        name: manifest["variants"][name]["calibration"]["dataset"].get("sha256")
        for name in variants
        if manifest["variants"][name].get("calibration")
    }
    if config.dataset is None or config.allow_calibration_rows or not calibrated:
        return
    try:
        file = data_file(*config.dataset)
        digest = sha256_of(file)
    except (OSError, ValueError):
        return  # Reading the rows fails next, and says what is wrong.
    same = [name for name, sha256 in calibrated.items() if sha256 == digest]
    if same:
        raise InputError(
            f"{' and '.join(same)} had the ranges set on {file}, the very rows that would judge "
            "it; calibrate on the train split, or pass --allow-calibration-rows"
        )


def _changed(evidence: Evidence, name: str) -> list[dict[str, Any]] | None:
    if not evidence.predictions:
        return None
    source, variant = evidence.predictions[SOURCE], evidence.predictions[name]
    return [
        {"id": row, "source": source[row], "variant": variant[row]}
        for row in source
        if source[row] != variant[row]
    ]


def _agreement(
    changed: list[dict[str, Any]] | None, rows: dict[str, Difference], count: int
) -> float | None:
    """Return the share of equal predictions; without labels, of the outputs' worst decision."""
    if changed is not None:
        return 1 - len(changed) / count
    shares = [d.agreement for d in rows.values() if d.agreement is not None]
    return min(shares) if shares else None


def _coverage(record: dict[str, Any]) -> dict[str, Any] | None:
    from albert_deploy.quantize.coverage import CoverageRow, summary

    if "coverage" not in record:
        return None
    return summary(CoverageRow(**row) for row in record["coverage"])
