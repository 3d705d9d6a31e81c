"""The bench command: of a deployment directory, or of random weights in a published geometry."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from albert_deploy.export.samples import SAMPLES
from albert_deploy.export.samples.random import random_checkpoint
from albert_deploy.export.step import ExportConfig, export
from albert_deploy.quantize.calibration.texts import CalibrationConfig
from albert_deploy.quantize.step import QuantizeConfig, quantize
from albert_deploy.runtime.contract import DEFAULT_VARIANTS
from albert_deploy.runtime.manifest import read_manifest, write_json
from albert_deploy.validation.bench.bench import bench
from albert_deploy.validation.bench.choose import (
    Requirement,
    check_required,
    record_tuned,
    tune_contenders,
    tuned,
    tuned_text,
)
from albert_deploy.validation.bench.interleave import BenchConfig
from albert_deploy.validation.bench.report import plot, record, text

# Those that an engine here computes in their own type, and the defaults.
_CPU_VARIANTS = (*DEFAULT_VARIANTS, "int8-qdq")
_Say = Callable[[str], None]


def bench_directory(
    directory: Path,
    config: BenchConfig,
    *,
    tune: bool = False,
    pays: Requirement | None = None,
    out: Path | None = None,
    show: _Say = print,
    note: _Say = lambda _: None,
) -> dict[str, Any]:
    """Measure a deployment directory, show the tables and write ``reports/bench.*`` there.

    Args:
        directory: Deployment directory.
        config: Options.
        tune: Record the quickest engine of each variant in the manifest; unless ``config`` names
            contenders, only what that needs is measured.
        pays: What is required of the variants, judged when all is written.
        out: JSON file to write too.
        show: Called with the tables, before anything is written.
        note: Called with a line about each stage.

    Returns:
        The report.

    Raises:
        InputError: The directory or the source cannot be used.
        ContractError: A file is not the one that the manifest records.
        PerformanceError: A variant does not pay.
        MachineError: An engine is missing or the disk is full.
    """
    if tune and config.contenders is None:
        config = replace(config, contenders=tune_contenders(read_manifest(directory)), torch=False)
    report = bench(directory, config, note=note)
    show(text(report))
    record(directory, report)
    if out is not None:
        write_json(out, report)
    if tune:
        chosen = tuned(report)
        record_tuned(directory, chosen)
        show(tuned_text(chosen))
    if pays is not None:
        check_required(report, pays)
    return report


def bench_random(
    geometry: str,
    config: BenchConfig,
    *,
    pays: Requirement | None = None,
    out: Path | None = None,
    show: _Say = print,
    note: _Say = lambda _: None,
) -> dict[str, Any]:
    """Measure an ALBERT classifier with random weights, made in a temporary folder.

    Args:
        geometry: Key of ``GEOMETRIES``.
        config: Options; its variants (None for the default ones) are made.
        pays: What is required of the variants, judged when all is written.
        out: JSON file to write.
        show: Called with the tables, before anything is written.
        note: Called with a line about each stage.

    Returns:
        The report; its source names the geometry instead of the folder, which is gone.

    Raises:
        InputError: Unknown geometry.
        ContractError: An artifact breaks an invariant.
        PerformanceError: A variant does not pay.
        MachineError: A package is missing or the disk is full.
    """
    with tempfile.TemporaryDirectory(prefix="albert-deploy-bench-") as folder:
        checkpoint, directory = Path(folder) / "checkpoint", Path(folder) / "deployment"
        note(f"making an ALBERT-{geometry} with random weights in {folder}")
        random_checkpoint(geometry, out=checkpoint, seed=config.seed)
        export(str(checkpoint), ExportConfig(), out=directory)
        variants = _CPU_VARIANTS if config.variants is None else config.variants
        # Its tokenizer is the sample's, and so are the texts; speed does not depend on them.
        texts = CalibrationConfig(name="sst2", path=SAMPLES["sample-sst2"].data, samples=64)
        quantize(directory, QuantizeConfig(variants=variants, calibration=texts), note=note)
        report = bench(directory, config, note=note)
    report["source"]["path"] = f"ALBERT-{geometry} geometry, random weights"
    show(text(report))
    if out is not None:
        write_json(out, report)
        plot(out.with_suffix(".svg"), report)
    if pays is not None:
        check_required(report, pays)
    return report
