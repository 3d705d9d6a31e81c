"""The validate step: evidence for each variant, a verdict and the reports."""

from __future__ import annotations

import datetime
import logging
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from albert_deploy.runtime.contract import VARIANTS
from albert_deploy.runtime.engines.table import AUTO, ENGINES
from albert_deploy.runtime.errors import AlbertDeployError, InputError, check_known
from albert_deploy.runtime.manifest import (
    REPORTS,
    check_file,
    external_data,
    file_record,
    read_manifest,
    write_manifest,
)
from albert_deploy.runtime.measure import measured
from albert_deploy.validation.bench.machine import machine
from albert_deploy.validation.collect import Findings, add_bisections, collect
from albert_deploy.validation.data.datasets import data_file, read_data
from albert_deploy.validation.data.layouts import digest
from albert_deploy.validation.data.rows import Data
from albert_deploy.validation.data.table import check_fits
from albert_deploy.validation.evaluate.evaluate import EvaluateConfig
from albert_deploy.validation.evaluate.evidence import Evidence
from albert_deploy.validation.evaluate.predictions import FOLDER as PREDICTIONS
from albert_deploy.validation.evaluate.workers import SOURCE
from albert_deploy.validation.gate.baseline import SCHEMA, Baseline, read_baseline
from albert_deploy.validation.gate.checks import Check, contract_checks
from albert_deploy.validation.gate.gate import compare_scores, judge
from albert_deploy.validation.gate.policy import Rules, read_policy
from albert_deploy.validation.gate.verdicts import reason
from albert_deploy.validation.report.engines import engine_entries
from albert_deploy.validation.report.record import flipped, sum_bytes, variant_record
from albert_deploy.validation.report.report import FILES, append_step_summary, write_reports
from albert_deploy.validation.report.wording import latency_ms

_LOG = logging.getLogger(__name__)
# What a failing variant without a limit of its own is searched to reach.
_BISECT_DB = 10.0


@dataclass(frozen=True, kw_only=True)
class ValidateConfig:
    """What to validate with.

    Args:
        dataset: Name and place of labelled data, with None in its place that of the Hugging Face
            hub; without a data set outputs are compared on real texts only.
        revision: Branch, tag or commit of a data set on the hub.
        skip_bad_rows: Leave malformed rows out, and count them, instead of failing.
        source: Where the checkpoint is; None for where it was exported from.
        gate: TOML file with the policy; None for the defaults.
        baseline: ``reports/validation.json`` of an earlier release, which scores may not fall
            far below.
        evaluate: How rows are run.
        engine: Key of ``ENGINES`` that runs the variants, such as ``trt`` for their plans; those
            that it does not run, and with ``auto`` all, run in the engine of their ONNX file.
        trace_rows: Rows on which the error trace, the stages and the metamorphic checks are made,
            of the first ``evaluate.grid_texts``; 0 makes none.
        bisect_trials: Trials of the search for what makes a variant fail; 0 searches nothing.
        allow_calibration_rows: Accept a variant that was calibrated on the very data that it is
            judged on.

    Raises:
        InputError: ``trace_rows`` or ``bisect_trials`` is out of range.
    """

    dataset: tuple[str, Path | None] | None = None
    revision: str | None = None
    skip_bad_rows: bool = False
    source: str | None = None
    gate: Path | None = None
    baseline: Path | None = None
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    engine: str = AUTO
    trace_rows: int = 32
    bisect_trials: int = 40
    allow_calibration_rows: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.trace_rows <= self.evaluate.grid_texts:
            raise InputError(
                f"trace_rows is {self.trace_rows}; it must be 0 for no error trace, or up to "
                f"grid_texts, {self.evaluate.grid_texts}"
            )
        check_known(self.engine, (AUTO, *ENGINES), "engine")
        if self.bisect_trials < 0 or 0 < self.bisect_trials < 3:
            raise InputError(f"`bisect_trials` is {self.bisect_trials}; use 0 or at least 3")


def validate(directory: Path, config: ValidateConfig) -> dict[str, Any]:
    """Compare every variant of a deployment directory with its source and write the reports.

    A variant that cannot be run (a damaged file, an engine that hangs or fails) is told in the
    report; the others are judged.

    Returns:
        The report, as in ``reports/validation.json``; ``gate.raise_for_verdict`` turns a
        failed one into its error.

    Raises:
        InputError: The source or the data cannot be used, or a variant was calibrated on it.
        ContractError: A file that all variants need is not the one that the manifest records.
    """
    manifest = read_manifest(directory)
    policy = read_policy(config.gate)
    if config.dataset is not None:
        check_fits(config.dataset[0], manifest["task"])
    variants = [name for name in VARIANTS if name in manifest["variants"]]
    if not variants:
        raise InputError(f"{directory} holds no variant; export the checkpoint again")
    damaged = _check_files(directory, manifest, variants)
    _check_calibration(manifest, variants, config)
    data = read_rows(config)
    baseline = _baseline(manifest, config, data)
    dataset = config.dataset[0] if config.dataset else None
    rules = {
        name: Rules(policy=policy, variant=name, task=manifest["task"], dataset=dataset)
        for name in variants
    }
    with measured() as cost:
        evidence, found = collect(
            directory,
            manifest,
            variants,
            dataset=config.dataset,
            data=data,
            source=config.source,
            config=config.evaluate,
            reports=directory / REPORTS,
            closer_rows=config.trace_rows,
            damaged=damaged,
            engine=config.engine,
            float64=[v for v in variants if rules[v].limits.max_error_ratio is not None],
        )
        entries = {
            name: _entry(directory, manifest, rules[name], evidence, found, baseline, damaged)
            for name in variants
        }
        failing = [
            v
            for v, e in entries.items()
            if e["verdict"] == "fail" and not e["failure"] and v not in found.broken
        ]
        if failing and config.bisect_trials:
            _LOG.info(f"looking for what makes {' and '.join(failing)} fail")
        add_bisections(
            directory,
            manifest,
            failing,
            evidence.feeds[: config.trace_rows],
            found,
            limits={name: rules[name].limits.min_sqnr_db or _BISECT_DB for name in failing},
            trials=config.bisect_trials,
        )
    for name, entry in entries.items():
        entry["blame"] = found.bisections.get(name)
    engines = engine_entries(directory, manifest)
    verdicts = {entry["verdict"] for entry in (*entries.values(), *engines.values())}
    report: dict[str, Any] = {
        "schema": SCHEMA,
        "verdict": next((v for v in ("fail", "undecided") if v in verdicts), "pass"),
        "reason": None,
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "task": manifest["task"],
        "command": _command(),
        "source": {
            "path": config.source or manifest["source"]["path"],
            "sha256": manifest["source"]["sha256"],
        },
        "dataset": _dataset(config, data, evidence),
        "grid_cases": found.cases,
        "trace_rows": found.traced if found.traces else 0,
        "environment": _environment(),
        "policy": policy.to_json(),
        "baseline": baseline.to_json() if baseline is not None else None,
        "variants": entries,
        "engines": engines,
    }
    if report["verdict"] != "pass":
        report["reason"] = reason(report)
    for left in [name for name in manifest["files"] if name in FILES or _is_prediction(name)]:
        del manifest["files"][left]
    for path in [*write_reports(directory, report), *evidence.files]:
        manifest["files"][str(path.relative_to(directory))] = file_record(path)
    manifest["steps"]["validate"] = cost.to_json() | {"verdict": report["verdict"]}
    write_manifest(directory, manifest)
    append_step_summary(report)
    evidence.finish()
    return report


def _check_files(directory: Path, manifest: dict[str, Any], variants: list[str]) -> dict[str, str]:
    """Return the variants with a file that is not as recorded; any other such file is an error."""
    of = {manifest["variants"][name]["file"]: name for name in variants}
    of |= {external_data(file): name for file, name in of.items()}
    damaged: dict[str, str] = {}
    for file in manifest["files"]:
        # Reports are written anew; of engines the report says what is wrong with each.
        if file.startswith((f"{REPORTS}/", "engines/")):
            continue
        try:
            check_file(directory, manifest, file)
        except AlbertDeployError as error:
            if file not in of:
                raise
            damaged[of[file]] = str(error)
    return damaged


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
    if config.dataset is None or config.dataset[1] is None:
        return
    if config.allow_calibration_rows or not calibrated:
        return
    try:
        file = data_file(config.dataset[0], config.dataset[1])
        found = digest(file)
    except (OSError, ValueError):
        return  # Reading the rows fails next, and says what is wrong.
    same = [name for name, sha256 in calibrated.items() if sha256 == found]
    if same:
        raise InputError(
            f"{' and '.join(same)} had the ranges set on {file}, the very rows that would judge "
            "it; calibrate on the train split, or pass `allow_calibration_rows=True`"
        )


def read_rows(config: ValidateConfig) -> Data | None:
    """Read the labelled data; None where there is none.

    Raises:
        InputError: It is not there, or not as its layout has it.
        MachineError: It is the hub's, which cannot be reached.
    """
    if config.dataset is None:
        return None
    name, path = config.dataset
    return read_data(name, path, skip_bad_rows=config.skip_bad_rows, revision=config.revision)


def _baseline(
    manifest: dict[str, Any], config: ValidateConfig, data: Data | None
) -> Baseline | None:
    if config.baseline is None:
        return None
    return read_baseline(
        config.baseline,
        task=manifest["task"],
        dataset=config.dataset[0] if config.dataset else None,
        rows=len(data.rows) if data is not None else None,
    )


def _entry(
    directory: Path,
    manifest: dict[str, Any],
    rules: Rules,
    evidence: Evidence,
    found: Findings,
    baseline: Baseline | None,
    damaged: Mapping[str, str],
) -> dict[str, Any]:
    """Judge a variant and return its part of the report."""
    name = rules.variant
    runs = name not in evidence.failures
    grid, odd = found.grid.get(name, {}), found.metamorphic.get(name, [])
    paired = {}
    checks: list[Check] = []
    for what, messages in (("recorded bytes", damaged), ("file", found.broken)):
        if name in messages:
            checks.append(Check(kind="contract", name=what, verdict="fail", message=messages[name]))
    if runs:
        flips = flipped(evidence, name)
        scores = evidence.measured
        paired = compare_scores(rules, scores[SOURCE], scores[name]) if scores else {}
        record = manifest["variants"][name]
        checks += contract_checks(found.weights.get(name, []))
        checks += judge(
            rules,
            differences={"rows": evidence.differences[name], "grid": grid},
            roundings=found.roundings.get(name),
            changed=None if flips is None else len(flips),
            rows=evidence.rows,
            scores=paired,
            metamorphic=odd,
            latency_ms=latency_ms({"latency": record.get("latency")}),
            size_bytes=sum_bytes(manifest, name),
            baseline=baseline,
        )
    entry = variant_record(
        manifest,
        name,
        rules,
        evidence=evidence,
        grid=grid,
        paired=paired,
        checks=checks,
        reports=directory / REPORTS,
    )
    return entry | {
        "engine": found.engines.get(name),
        "plan": found.plans.get(name),
        "latency": manifest["variants"][name].get("latency"),
        "stages": found.stages.get(name, []),
        "metamorphic": odd,
        "float64": {
            place: {output: rounding.to_json() for output, rounding in outputs.items()}
            for place, outputs in found.roundings.get(name, {}).items()
        },
        "trace": found.traces.get(name),
    }


def _dataset(config: ValidateConfig, data: Data | None, evidence: Evidence) -> dict[str, Any]:
    return {
        "name": config.dataset[0] if config.dataset else None,
        "rows": evidence.rows,
        "labelled": config.dataset is not None,
        "skipped": data.skipped if data is not None else 0,
        "revision": data.revision if data is not None else None,
        "file": data.file.name if data is not None and data.file is not None else None,
        "sha256": digest(data.file) if data is not None and data.file is not None else None,
    }


def _environment() -> dict[str, Any]:
    found = machine()
    versions = found.pop("versions")
    return {"python": versions.pop("python"), "packages": versions, "machine": found}


def _is_prediction(file: str) -> bool:
    return file.startswith(f"{REPORTS}/{PREDICTIONS}/")


def _command() -> str | None:
    """Return the command line that this runs under, where it is one of ours."""
    program, *arguments = sys.argv
    ours = Path(program).name.startswith("albert-deploy") or program.endswith("cli/__main__.py")
    return shlex.join(["albert-deploy", *arguments]) if ours else None
