"""The whole job: export, quantize, validate, and a verdict."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from albert_deploy.export.engine.step import BuildConfig, build, check_buildable
from albert_deploy.export.samples import SAMPLES
from albert_deploy.export.source import find_checkpoint, identify_task
from albert_deploy.export.step import ExportConfig, export_into, reusable
from albert_deploy.quantize.step import QuantizeConfig, quantize
from albert_deploy.runtime.directory import check_replaceable, publish, staged
from albert_deploy.runtime.errors import InputError, PerformanceError
from albert_deploy.runtime.manifest import file_record, read_manifest, write_manifest
from albert_deploy.validation.bench.bench import bench
from albert_deploy.validation.bench.choose import Requirement, check_required
from albert_deploy.validation.bench.config import BenchConfig
from albert_deploy.validation.bench.record import record
from albert_deploy.validation.data.table import DATASETS, check_fits
from albert_deploy.validation.gate.policy import read_policy
from albert_deploy.validation.report.report import write_reports
from albert_deploy.validation.step import ValidateConfig, read_rows, validate

_LOG = logging.getLogger(__name__)
FAILED_SUFFIX = ".failed"


@dataclass(frozen=True, kw_only=True)
class ReleaseConfig:
    """Options of the three steps, and what variants have to gain.

    Args:
        export: See ``export``.
        quantize: See ``quantize``.
        build: Engines to build, see ``build``; None builds none.
        validate: See ``validate``.
        pays: What is required of each variant; None measures nothing.
        lengths: Tokens of the rows that it is judged by.
    """

    export: ExportConfig = field(default_factory=ExportConfig)
    quantize: QuantizeConfig = field(default_factory=QuantizeConfig)
    build: BuildConfig | None = None
    validate: ValidateConfig = field(default_factory=ValidateConfig)
    pays: Requirement | None = None
    lengths: tuple[int, ...] = (32, 128)


def release(source: str, config: ReleaseConfig, *, out: Path) -> tuple[Path, dict[str, Any]]:
    """Export, quantize, where asked build engines, and validate a checkpoint.

    A new deployment directory is built beside ``out`` and put there in one step. One that fails
    its gate does not replace an earlier one: it is left in ``<out>.failed``.

    Returns:
        The folder that holds the result, and the report of the validation.

    Raises:
        InputError: Source, data or output cannot be used.
        ContractError: An artifact breaks an invariant.
        MachineError: Something is missing on this machine.
    """
    found = find_checkpoint(
        source, revision=config.export.revision, allow_pickle=config.export.allow_pickle
    )
    task = identify_task(found.config, config.export.task)
    _check_data(task, config.validate)
    if config.build is not None:
        check_buildable(config.build)
    if reusable(out, found, task, force=config.export.force) is not None:
        _LOG.info(f"{out} holds this export already")
        return out, _finish(out, config)
    real = out.resolve()
    failed = real.with_name(real.name + FAILED_SUFFIX)
    check_replaceable(failed)
    with staged(out) as work:
        _LOG.info(f"exporting {source} ({task})")
        export_into(work, found, task)
        report = _finish(work, config)
        place = out
        if report["verdict"] != "pass" and out.exists():
            place = failed
        publish(work, place)
    return place, report


def sample_data(
    source: str,
    dataset: tuple[str, Path | None] | None,
    *,
    task: str = "auto",
    hub: bool = False,
) -> tuple[str, Path | None] | None:
    """Fill in the shipped data of a sample where no path, or no data set at all, is given.

    Without a data set, a sample that is exported for another task than its own gets none.

    Args:
        source: Where the checkpoint is, or a sample's name.
        dataset: What ``--dataset`` says.
        task: The task that it is exported for.
        hub: Take data without a path from the Hugging Face hub.

    Returns:
        Name and place; None in its place is that of the hub.

    Raises:
        InputError: A data set is named without a path, the source is no sample that has it, and
            the hub is not to be asked.
    """
    sample = SAMPLES.get(source)
    if dataset is None:
        fits = sample is not None and task in ("auto", DATASETS[sample.dataset].task)
        return (sample.dataset, sample.data) if sample is not None and fits else None
    name, path = dataset
    if path is not None or hub:
        return name, path
    if sample is not None and sample.dataset == name:
        return name, sample.data
    raise InputError(
        f"--dataset {name} needs the place of the data: --dataset {name}=PATH, or "
        "--dataset-revision for the Hugging Face hub's"
    )


def _check_data(task: str, config: ValidateConfig) -> None:
    """Fail on unusable data or gate before the long work starts."""
    read_policy(config.gate)
    if config.dataset is None:
        return
    check_fits(config.dataset[0], task)
    read_rows(config)


def _finish(directory: Path, config: ReleaseConfig) -> dict[str, Any]:
    quantize(directory, config.quantize)
    if config.build is not None:
        build(directory, config.build)
    report = validate(directory, config.validate)
    if config.pays is not None:
        _LOG.info("measuring whether the variants pay")
        measured = bench(directory, BenchConfig(lengths=config.lengths, torch=False))
        record(directory, measured)
        try:
            check_required(measured, config.pays)
        except PerformanceError as error:
            report |= {"verdict": "fail", "performance": str(error), "reason": str(error)}
            manifest = read_manifest(directory)
            for path in write_reports(directory, report):
                manifest["files"][str(path.relative_to(directory))] = file_record(path)
            write_manifest(directory, manifest)
    return report
