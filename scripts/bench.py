"""The bench command: of a deployment directory, or of random weights in a published geometry."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from albert_deploy.export.samples import SAMPLES
from albert_deploy.export.samples.random import GEOMETRIES, random_checkpoint
from albert_deploy.export.step import ExportConfig, export
from albert_deploy.quantize.calibration.texts import CalibrationConfig
from albert_deploy.quantize.step import QuantizeConfig, quantize
from albert_deploy.runtime.contract import DEFAULT_VARIANTS
from albert_deploy.runtime.errors import check_known
from albert_deploy.runtime.manifest import read_manifest, write_json
from albert_deploy.validation.bench import gpu
from albert_deploy.validation.bench.bench import bench
from albert_deploy.validation.bench.choose import (
    Requirement,
    check_required,
    record_tuned,
    tune_contenders,
    tuned,
    tuned_text,
)
from albert_deploy.validation.bench.config import BenchConfig
from albert_deploy.validation.bench.contenders import fitting
from albert_deploy.validation.bench.machine import gpu_machine, require_gpu, slug
from albert_deploy.validation.bench.record import record, write_beside
from albert_deploy.validation.bench.report import text

_LOG = logging.getLogger(__name__)
# Those that an engine of a processor computes in their own type, and the defaults.
_CPU_VARIANTS = (*DEFAULT_VARIANTS, "int8-qdq")
# Speed depends neither on the ranges, which so few texts do not tell well, nor on the rounding.
_CALIBRATION_TEXTS = 8
_STATIC: dict[str, Any] = {"rule": "minmax", "rounding": "nearest", "correct_bias": False}
_Say = Callable[[str], None]


def bench_directory(
    directory: Path,
    config: BenchConfig,
    *,
    tune: bool = False,
    pays: Requirement | None = None,
    out: Path | None = None,
    show: _Say = print,
) -> dict[str, Any]:
    """Measure a deployment directory, show the tables and write ``reports/bench.*`` there.

    Args:
        directory: Deployment directory.
        config: Options.
        tune: Record the quickest engine of each variant in the manifest; unless ``config`` names
            contenders, only what that needs is measured.
        pays: What is required of the variants, judged when all is written.
        out: See ``bench_random``.
        show: Called with the tables, before anything is written.

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
    place = _place(out, config, directory.name)
    report = bench(directory, config, out=place)
    show(text(report))
    record(directory, report)
    if place is not None:
        write_beside(place, report)
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
    models: Path | None = None,
    pays: Requirement | None = None,
    out: Path | None = None,
    show: _Say = print,
) -> dict[str, Any]:
    """Measure an ALBERT classifier with random weights.

    Args:
        geometry: Key of ``GEOMETRIES``.
        config: Options; its variants (None for those that the contenders need) are made.
        models: Folder that keeps the model and its engines; None for a temporary one.
        pays: What is required of the variants, judged when all is written.
        out: JSON file to write, with tables and a picture beside it; or a folder, in which it is
            named after the machine and the model. See ``bench.bench`` on one that is there.
        show: Called with the tables.

    Returns:
        The report; its source names the geometry instead of the folder.

    Raises:
        InputError: Unknown geometry.
        ContractError: An artifact breaks an invariant.
        PerformanceError: A variant does not pay.
        MachineError: A package or the GPU is missing or the disk is full.
    """
    if config.on_gpu:
        require_gpu()
    place = _place(out, config, geometry)
    with contextlib.ExitStack() as stack:
        if models is None:
            temporary = tempfile.TemporaryDirectory(prefix="albert-deploy-bench-")
            models = Path(stack.enter_context(temporary))
        directory = make_model(geometry, config, models)
        report = bench(directory, config, out=place)
    report["source"]["path"] = f"ALBERT-{geometry} geometry, random weights"
    show(text(report))
    if place is not None:
        write_json(place, report)
        write_beside(place, report)
    if pays is not None:
        check_required(report, pays)
    return report


def make_model(geometry: str, config: BenchConfig, folder: Path) -> Path:
    """Make a model with random weights and the variants to be measured, or leave it as it is.

    Args:
        geometry: Key of ``GEOMETRIES``.
        config: Options; its ``device``, ``contenders`` and ``variants`` say which variants.
        folder: Where to: ``<geometry>`` and ``<geometry>-checkpoint``.

    Returns:
        The deployment directory.

    Raises:
        InputError: Unknown geometry, or the folder holds something else.
        ContractError: An artifact breaks an invariant.
        MachineError: A package is missing or the disk is full.
    """
    check_known(geometry, GEOMETRIES, "geometry")
    directory, checkpoint = folder / geometry, folder / f"{geometry}-checkpoint"
    # The tokenizer's settings are written last.
    if not (checkpoint / "tokenizer_config.json").is_file():
        _LOG.info(f"making an ALBERT-{geometry} with random weights in {folder}")
        random_checkpoint(geometry, out=checkpoint, seed=config.seed)
    if not directory.exists():
        export(str(checkpoint), ExportConfig(task="text-classification"), out=directory)
    variants = config.variants or _CPU_VARIANTS
    if config.on_gpu:
        variants = gpu.files(fitting(list(gpu.CONTENDERS), config.contenders))
    # Its tokenizer is the sample's, and so are the texts; speed does not depend on them.
    sample = SAMPLES["sample-sst2"]
    texts = CalibrationConfig(
        name=sample.dataset, path=sample.data, samples=_CALIBRATION_TEXTS, allow_few=True
    )
    how = QuantizeConfig(variants=variants, calibration=texts, static=_STATIC)
    quantize(directory, how)
    return directory


def _place(out: Path | None, config: BenchConfig, model: str) -> Path | None:
    if out is None or out.suffix == ".json":
        return out
    where = slug(gpu_machine()["gpu"]["name"]) if config.on_gpu else "cpu"
    return out / f"{where}-{model}.json"
