"""Everything that is seen of a deployment directory's variants beside its fp32 source."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from albert_deploy.runtime.contract import VARIANTS
from albert_deploy.runtime.engines.table import AUTO, open_session
from albert_deploy.runtime.errors import AlbertDeployError, ContractError
from albert_deploy.runtime.session import Feeds, Session
from albert_deploy.runtime.tasks.tokenize import load_tokenizer
from albert_deploy.validation.data.rows import Data, encode_rows
from albert_deploy.validation.evaluate.evaluate import (
    EvaluateConfig,
    Storage,
    decisions,
    evaluate,
    run_grid,
)
from albert_deploy.validation.evaluate.evidence import Evidence
from albert_deploy.validation.evaluate.exact import Float64, Roundings, exact_rows, open_exact
from albert_deploy.validation.evaluate.reference import open_reference
from albert_deploy.validation.evaluate.timeout import watch
from albert_deploy.validation.evaluate.workers import SOURCE
from albert_deploy.validation.parity.difference import Difference, edge_grid
from albert_deploy.validation.parity.metamorphic import metamorphic
from albert_deploy.validation.parity.stages import attribute, open_variant
from albert_deploy.validation.parity.trace import hidden_states, trace

_LOG = logging.getLogger(__name__)
FP32 = "fp32"


@dataclass(kw_only=True)
class Findings:
    """What is seen of each variant beside its rows; each maps a variant to what was found.

    Attributes:
        cases: Cases of the edge grid.
        traced: Rows that the trace and the stages were taken on.
        grid: Output -> comparison on the edge grid.
        roundings: Where -> output -> errors against float64.
        engines: Name of the engine that ran it.
        plans: ``file`` and ``sha256`` of what that engine loaded, where it is not the ONNX file.
        metamorphic: Rows of ``metamorphic``.
        weights: Rows of ``check_weights``.
        stages: Rows of ``attribute``.
        traces: Entries of ``trace``.
        bisections: What ``bisect`` found.
        broken: Why a variant's file is not what was asked for, where that shows only here.
    """

    cases: int = 0
    traced: int = 0
    grid: dict[str, dict[str, Difference]] = field(default_factory=dict)
    roundings: Roundings = field(default_factory=dict)
    engines: dict[str, str] = field(default_factory=dict)
    plans: dict[str, dict[str, str]] = field(default_factory=dict)
    metamorphic: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    weights: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    stages: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    traces: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    bisections: dict[str, dict[str, Any]] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)


def collect(
    directory: Path,
    manifest: dict[str, Any],
    variants: Sequence[str],
    *,
    dataset: tuple[str, Path | None] | None,
    data: Data | None,
    source: str | None,
    config: EvaluateConfig,
    reports: Path,
    closer_rows: int,
    damaged: Mapping[str, str],
    engine: str = AUTO,
    float64: Sequence[str] = (),
) -> tuple[Evidence, Findings]:
    """Run the source and every variant that can be run, and look closer at what they do.

    Args:
        directory: Deployment directory.
        manifest: Its manifest.
        variants: Keys of ``VARIANTS`` that it holds.
        dataset: Name and place of labelled data; None runs real texts without labels.
        data: Its rows.
        source: Where the checkpoint is; None for where it was exported from.
        config: How rows are run.
        reports: Folder that keeps predictions and progress.
        closer_rows: Rows of the trace, the stages and the metamorphic checks; 0 makes none.
        damaged: Variants that cannot be run, with the reason.
        engine: Key of ``ENGINES`` for the variants that it runs; the others, and with ``auto``
            all of them, have the engine of the ONNX file.
        float64: Variants whose errors are held against the source in float64.

    Raises:
        InputError: The source or the data cannot be used.
        AlbertDeployError: The source fails.
    """
    contract, failures = manifest["contract"], dict(damaged)
    refused: dict[str, str] = {}
    plans: dict[str, dict[str, str]] = {}
    decide = decisions(contract, manifest["task"])
    tokenizer = load_tokenizer(directory)
    files = {v: manifest["files"][manifest["variants"][v]["file"]]["sha256"] for v in variants}
    _LOG.info("loading the fp32 source and the variants")
    with open_reference(manifest, source) as reference:
        with contextlib.ExitStack() as stack:
            sessions: dict[str, Session] = {SOURCE: reference}
            for name in variants:
                if name in failures:
                    continue
                try:
                    opened = open_variant(directory, manifest, name, engine)
                    sessions[name] = stack.enter_context(opened)
                    record = getattr(opened, "record", None)
                    if record is not None:
                        plans[name] = {"file": record.file, "sha256": record.sha256}
                        files[name] = record.sha256
                except AlbertDeployError as error:
                    failures[name] = str(error)
                    if isinstance(error, ContractError):
                        refused[name] = str(error)
            openers = {
                name: partial(open_session, directory, variant=name, engine=session.engine)
                for name, session in sessions.items()
            }
            evidence = evaluate(
                sessions,
                contract=contract,
                task=manifest["task"],
                tokenizer=tokenizer,
                decide=decide,
                dataset=dataset,
                config=config,
                examples=data.rows if data is not None else None,
                storage=Storage(
                    reports=reports, models={SOURCE: manifest["source"]["sha256"]} | files
                ),
                openers=openers | {SOURCE: partial(open_reference, manifest, source)},
            )
            evidence.failures |= failures
            cases = edge_grid(contract, manifest["source"]["config"], evidence.texts)
            _LOG.info(f"{evidence.rows} rows done; {len(cases)} cases of the edge grid")
            limit = config.timeout_s
            alive = [name for name in float64 if name in sessions]
            against = None
            if alive:
                _LOG.info(f"holding {' and '.join(alive)} against the source in float64")
                exact = stack.enter_context(open_exact(manifest, source))
                against = Float64(exact, decide, alive)
                encode = partial(
                    encode_rows, contract=contract, tokenizer=tokenizer, config=config.rows
                )
                against.run(
                    sessions,
                    exact_rows(evidence, alive, encode),
                    failures=evidence.failures,
                    timeout_s=limit,
                )
            grid = run_grid(
                sessions,
                cases,
                decide,
                failures=evidence.failures,
                timeout_s=limit,
                float64=against,
            )
            rows = evidence.feeds[:closer_rows]
            found = Findings(cases=len(cases), traced=len(rows), grid=grid, broken=refused)
            found.engines = {name: session.engine for name, session in sessions.items()}
            found.plans = plans
            found.roundings = against.found if against is not None else {}
            if rows:
                _metamorphic(manifest, sessions, evidence, found, limit)
        # Only now, when the other sessions have given their memory back.
        if rows:
            _LOG.info(f"error trace and stages on {len(rows)} rows")
            _stages(directory, manifest, reference, evidence, found, rows, engine)
    return evidence, found


def _metamorphic(
    manifest: Mapping[str, Any],
    sessions: Mapping[str, Session],
    evidence: Evidence,
    found: Findings,
    timeout_s: float | None,
) -> None:
    for name, session in sessions.items():
        if name == SOURCE or name in evidence.failures:
            continue
        try:
            found.metamorphic[name] = metamorphic(
                watch(session, name, timeout_s),
                sessions[SOURCE],
                contract=manifest["contract"],
                config=manifest["source"]["config"],
                texts=evidence.texts,
                variant=name,
            )
        except AlbertDeployError as error:
            evidence.failures[name] = str(error)


def _stages(
    directory: Path,
    manifest: dict[str, Any],
    reference: Session,
    evidence: Evidence,
    found: Findings,
    rows: Sequence[Feeds],
    engine: str,
) -> None:
    """Add the weights, the stages and the trace of what runs; all need the fp32 file."""
    from albert_deploy.export.graph.file import load
    from albert_deploy.validation.parity.weights import check_weights

    alive = [name for name in found.engines if name not in (SOURCE, *evidence.failures)]
    if FP32 not in alive:
        return
    plain = load(directory / VARIANTS[FP32].file)
    try:
        hidden_states(plain)
    except ContractError as error:
        found.broken[FP32] = str(error)  # nothing can be compared with it
        return
    found.stages = _each(
        lambda names: attribute(directory, manifest, names, rows, reference, engine=engine),
        alive,
        found.broken,
    )
    compared = [name for name in alive if name not in (FP32, *found.broken)]
    for name in compared:
        try:
            written = load(directory / VARIANTS[name].file)
            found.weights[name] = check_weights(plain, written, name)
        except ContractError as error:
            found.broken[name] = str(error)
    compared = [name for name in compared if name not in found.broken]
    if compared:
        found.traces = _each(
            lambda names: trace(directory, manifest, names, rows), compared, found.broken
        )


def _each(
    look: Callable[[Sequence[str]], dict[str, list[dict[str, Any]]]],
    variants: Sequence[str],
    broken: dict[str, str],
) -> dict[str, list[dict[str, Any]]]:
    """Look at all variants at once; where that fails, at each, and enter those that it fails on."""
    try:
        return look(variants)
    except ContractError:
        found: dict[str, list[dict[str, Any]]] = {}
        for name in variants:
            try:
                found |= look([name])
            except ContractError as error:
                broken[name] = str(error)
        return found


def add_bisections(
    directory: Path,
    manifest: Mapping[str, Any],
    variants: Sequence[str],
    rows: Sequence[Feeds],
    found: Findings,
    *,
    limits: Mapping[str, float],
    trials: int,
) -> None:
    """Name the products that keep failing variants from their signal to noise ratio.

    Args:
        directory: Deployment directory.
        manifest: Its manifest.
        variants: Those that failed and run.
        rows: Inputs of the rows to look at.
        found: Gets ``bisections``.
        limits: Variant -> ratio that it has to reach, in dB.
        trials: Most trials for each.
    """
    from albert_deploy.validation.parity.bisect import BisectConfig, bisect

    for name in variants:
        if name == FP32 or not rows or not trials:
            continue
        config = BisectConfig(min_sqnr_db=limits[name], budget=trials)
        found.bisections[name] = bisect(directory, manifest, name, rows, config).to_json()
