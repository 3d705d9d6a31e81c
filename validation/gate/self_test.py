"""The self-test of the gate: known faults go in, and each of them has to come out as a failure.

A gate that lets a fault pass is worth nothing, and one that fails a sound artifact is switched
off. So each variant is judged as it is (the control), and then with one fault at a time planted
into a copy of its file, by the same checks and with the same limits.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from albert_deploy.runtime.contract import VARIANTS
from albert_deploy.runtime.engines.table import choose_engine, open_file
from albert_deploy.runtime.errors import AlbertDeployError, InputError
from albert_deploy.runtime.manifest import check_file, read_manifest
from albert_deploy.runtime.session import Session
from albert_deploy.runtime.tasks.tokenize import load_tokenizer
from albert_deploy.validation.data.datasets import read_data
from albert_deploy.validation.data.rows import encode_rows
from albert_deploy.validation.evaluate.evaluate import EvaluateConfig, decisions, evaluate, run_grid
from albert_deploy.validation.evaluate.exact import Float64, exact_rows, open_exact
from albert_deploy.validation.evaluate.predictions import chosen
from albert_deploy.validation.evaluate.reference import open_reference
from albert_deploy.validation.evaluate.workers import SOURCE
from albert_deploy.validation.gate.checks import Check, contract_checks
from albert_deploy.validation.gate.detection import CONTROL, CachedSession, Detection, SelfTest
from albert_deploy.validation.gate.faults import FAULTS
from albert_deploy.validation.gate.gate import compare_scores, judge
from albert_deploy.validation.gate.policy import Policy, Rules, read_policy
from albert_deploy.validation.gate.verdicts import FAIL
from albert_deploy.validation.parity.difference import edge_grid
from albert_deploy.validation.parity.metamorphic import MetamorphicConfig, metamorphic
from albert_deploy.validation.parity.weights import check_weights

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SelfTestConfig:
    """What to test with.

    Args:
        variants: Keys of ``VARIANTS``; None for all that the directory holds.
        dataset: Name and path of labelled data; None runs real texts without labels.
        source: Where the checkpoint is; None for where it was exported from.
        gate: Policy file; None for the defaults.
        rows: Rows of the data set, at most: the first ones.
        evaluate: How rows are run.
        metamorphic: How the metamorphic checks are run.

    Raises:
        InputError: ``rows`` is below 1.
    """

    variants: tuple[str, ...] | None = None
    dataset: tuple[str, Path | None] | None = None
    source: str | None = None
    gate: Path | None = None
    rows: int = 200
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    metamorphic: MetamorphicConfig = field(default_factory=MetamorphicConfig)

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise InputError(f"the self-test has {self.rows} rows; give it 1 at least")


def self_test(directory: Path, config: SelfTestConfig) -> SelfTest:
    """Plant every fault of ``FAULTS`` into a copy of every variant and judge it.

    The directory is not changed. SHA-256 sums, which would catch any edit, are not looked at.

    Returns:
        The table; ``raise_for_self_test`` turns one that fails into its error.

    Raises:
        InputError: The source or the data cannot be used, or a variant is not there.
        ContractError: A file is not the one that the manifest records.
        MachineError: No engine for a variant is installed.
    """
    manifest = read_manifest(directory)
    variants = config.variants or tuple(v for v in VARIANTS if v in manifest["variants"])
    policy = read_policy(config.gate)
    rows: list[Detection] = []
    with (
        CachedSession(open_reference(manifest, config.source)) as source,
        CachedSession(open_exact(manifest, config.source)) as exact,
    ):
        judged = _Judge(directory, manifest, config, policy, source, exact)
        for variant in variants:
            control = judged.checks(variant, None)
            failing = {_name(check) for check in control if check.verdict == FAIL}
            rows.append(_detection(CONTROL, variant, "", control, set()))
            for fault in tqdm(FAULTS, desc=f"faults in {variant}", disable=None, leave=False):
                planted, checks = judged.planted(variant, fault.plant)
                rows.append(_detection(fault.name, variant, planted, checks, failing))
            caught = sum(row.verdict == "detected" for row in rows if row.variant == variant)
            _LOG.info(f"{variant}: {caught} of {len(FAULTS)} faults detected")
    return SelfTest(rows=tuple(rows))


class _Judge:
    """Judges files of one directory against one source."""

    def __init__(
        self,
        directory: Path,
        manifest: dict[str, Any],
        config: SelfTestConfig,
        policy: Policy,
        source: Session,
        exact: Session,
    ) -> None:
        self._directory, self._manifest, self._config = directory, manifest, config
        self._policy, self._source, self._exact = policy, source, exact
        self._tokenizer = load_tokenizer(directory)
        self._decide = decisions(manifest["contract"], manifest["task"])
        self._examples = (
            read_data(*config.dataset).rows[: config.rows] if config.dataset is not None else None
        )

    def planted(
        self, variant: str, plant: Callable[[Any], str | None]
    ) -> tuple[str | None, Sequence[Check]]:
        """Judge a copy with a fault; return what was planted, None where nothing could be."""
        from albert_deploy.export.graph.file import load, save

        model = load(self._file(variant))
        what = plant(model)
        if what is None:
            return None, ()
        with tempfile.TemporaryDirectory(prefix="albert-deploy-") as folder:
            copy = Path(folder) / "fault.onnx"
            save(model, copy)
            return what, self.checks(variant, copy)

    def checks(self, variant: str, file: Path | None) -> list[Check]:
        """Return all checks of a variant's file, or of another in its place."""
        from albert_deploy.export.graph.file import load

        path = file or self._file(variant)
        contract, source_config = self._manifest["contract"], self._manifest["source"]["config"]
        found: list[Check] = []
        if variant != "fp32":
            weights = check_weights(load(self._file("fp32")), load(path), variant)
            found += contract_checks(weights)
        dataset = self._config.dataset
        rules = Rules(
            policy=self._policy,
            variant=variant,
            task=self._manifest["task"],
            dataset=dataset[0] if dataset else None,
        )
        try:
            with open_file(path, variant, choose_engine(self._manifest, variant)) as session:
                sessions: Mapping[str, Session] = {SOURCE: self._source, variant: session}
                evidence = evaluate(
                    sessions,
                    contract=contract,
                    task=self._manifest["task"],
                    tokenizer=self._tokenizer,
                    decide=self._decide,
                    dataset=dataset,
                    config=self._config.evaluate,
                    examples=self._examples,
                )
                if variant in evidence.failures:
                    return [*found, _stopped(evidence.failures[variant])]
                cases = edge_grid(contract, source_config, evidence.texts)
                limited = rules.limits.max_error_ratio is not None
                float64 = Float64(self._exact, self._decide, [variant] if limited else [])
                encode = partial(
                    encode_rows,
                    contract=contract,
                    tokenizer=self._tokenizer,
                    config=self._config.evaluate.rows,
                )
                # A fault changes many rows; the first ones tell as much.
                rows = exact_rows(evidence, [variant] if file is None else [], encode)
                float64.run(sessions, rows, failures=evidence.failures)
                grid = run_grid(sessions, cases, self._decide, float64=float64)
                relations = metamorphic(
                    session,
                    self._source,
                    contract=contract,
                    config=source_config,
                    texts=evidence.texts,
                    variant=variant,
                    options=self._config.metamorphic,
                )
        except AlbertDeployError as error:
            if file is None:
                raise
            return [*found, _stopped(str(error))]
        predicted = evidence.predictions
        return found + judge(
            rules,
            differences={"rows": evidence.differences[variant], "grid": grid[variant]},
            roundings=float64.found.get(variant),
            changed=_changed(predicted, variant),
            rows=evidence.rows,
            scores=compare_scores(rules, evidence.measured[SOURCE], evidence.measured[variant])
            if evidence.measured
            else None,
            metamorphic=relations,
        )

    def _file(self, variant: str) -> Path:
        return check_file(self._directory, self._manifest, VARIANTS[variant].file)


def _changed(predictions: Mapping[str, Mapping[str, Any]], variant: str) -> int | None:
    if not predictions:
        return None
    ours, theirs = predictions[SOURCE], predictions[variant]
    return sum(bool(chosen(ours[row]) != chosen(theirs[row])) for row in ours)


def _stopped(reason: str) -> Check:
    return Check(kind="run", name="run", verdict=FAIL, message=reason)


def _detection(
    fault: str,
    variant: str,
    planted: str | None,
    checks: Sequence[Check],
    known: set[str],
) -> Detection:
    found = [c for c in checks if c.verdict == FAIL and _name(c) not in known]
    stopped = [c for c in found if c.kind == "run"]
    if stopped and fault != CONTROL:
        # An engine that refuses the copy says nothing about what the gate would have seen.
        found = [c for c in found if c not in stopped]
    return Detection(
        fault=fault,
        variant=variant,
        planted=planted,
        caught_by=tuple(_name(check) for check in found),
        detail=(found or stopped)[0].message if found or stopped else "",
    )


def _name(check: Check) -> str:
    return f"{check.kind}: {check.name}"
