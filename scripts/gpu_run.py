"""One run of the GPU benchmark: models with random weights, peaks, measurements, documents."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from albert_deploy.export.samples import SAMPLES
from albert_deploy.export.samples.random import GEOMETRIES
from albert_deploy.runtime.errors import InputError
from albert_deploy.validation.bench.gpu_bench import GpuBenchConfig, gpu_bench
from albert_deploy.validation.bench.gpu_contenders import (
    CHECKPOINT,
    DEPLOYMENT,
    GpuModel,
    ModelConfig,
    names,
)
from albert_deploy.validation.bench.gpu_counts import COUNTS, count_operations
from albert_deploy.validation.bench.gpu_journal import open_journal
from albert_deploy.validation.bench.gpu_machine import (
    cuda_device,
    gpu_machine,
    readings,
    require_gpu,
    slug,
)
from albert_deploy.validation.bench.gpu_peaks import gpu_peaks
from albert_deploy.validation.bench.gpu_report import write_report
from albert_deploy.validation.bench.gpu_sources import distribution
from albert_deploy.validation.bench.gpu_turns import Device, Pace

# For --smoke: small enough that everything takes seconds; its figures mean nothing.
SMALL: dict[str, int] = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 512,
}
ALL_GEOMETRIES = {**GEOMETRIES, "small": SMALL}
# Speed depends neither on the ranges, which so few texts do not tell well, nor on the rounding.
_CALIBRATION_TEXTS = 8
_STATIC: dict[str, Any] = {"rule": "minmax", "rounding": "nearest", "correct_bias": False}
_Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class CommandConfig:
    """What the command measures, on which models.

    Args:
        bench: What is measured; its distributions are made from ``data``.
        geometries: Keys of ``ALL_GEOMETRIES``.
        contenders: Patterns of names, see ``gpu_contenders.names``; None for all.
        models: Folder that keeps the models; None for a temporary one.
        data: Data sets whose lengths are run too, with their paths; None for the sample's.
        tokenizer: Folder of the tokenizer that counts their tokens; None for the sample's.
        rows: Rows of each.
        compile_mode: Of ``torch.compile``.
        fresh: Begin anew although an earlier run's file could be gone on with.
        smoke: Named so in the file's name.
        command: What was typed, for the document.

    Raises:
        InputError: An unknown geometry or contender.
    """

    bench: GpuBenchConfig = field(default_factory=GpuBenchConfig)
    geometries: tuple[str, ...] = ("base", "xxlarge")
    contenders: tuple[str, ...] | None = None
    models: Path | None = None
    data: tuple[tuple[str, Path | None], ...] = (("sst2", None), ("squad", None))
    tokenizer: Path | None = None
    rows: int = 512
    compile_mode: str | None = None
    fresh: bool = False
    smoke: bool = False
    command: str = "python -m albert_deploy.scripts.cli.gpu_bench"

    def __post_init__(self) -> None:
        for name in self.geometries:
            if name not in ALL_GEOMETRIES:
                known = ", ".join(ALL_GEOMETRIES)
                raise InputError(f"unknown geometry {name!r}; use some of: {known}")
        names(self.contenders)


def make_model(
    geometry: str, folder: Path, contenders: tuple[str, ...] | None, *, note: _Say = lambda _: None
) -> None:
    """Make a model with random weights and the variants that contenders run; or leave it as it is.

    Args:
        geometry: Key of ``ALL_GEOMETRIES``.
        folder: Where to: ``checkpoint``, ``deployment`` and the count of operations.
        contenders: Patterns of names; None for all.
        note: Called with a line about each stage.

    Raises:
        InputError: The folder holds something else.
        ContractError: An artifact breaks an invariant.
        MachineError: A package is missing or the disk is full.
    """
    from albert_deploy.export.samples.random import random_checkpoint
    from albert_deploy.export.step import ExportConfig, export
    from albert_deploy.quantize.calibration.texts import CalibrationConfig
    from albert_deploy.quantize.step import QuantizeConfig, quantize

    checkpoint, directory = folder / CHECKPOINT, folder / DEPLOYMENT
    # The tokenizer's settings are written last.
    if not (checkpoint / "tokenizer_config.json").is_file():
        note(f"making an ALBERT-{geometry} with random weights in {folder}")
        random_checkpoint(geometry, out=checkpoint, geometries=ALL_GEOMETRIES)
    if not directory.exists():
        export(str(checkpoint), ExportConfig(task="text-classification"), out=directory)
    sample = SAMPLES["sample-sst2"]
    texts = CalibrationConfig(
        name=sample.dataset, path=sample.data, samples=_CALIBRATION_TEXTS, allow_few=True
    )
    files = [n for n in names(contenders) if "torch" not in n]
    variants = tuple(dict.fromkeys(name.partition("@")[0] for name in files))
    how = QuantizeConfig(variants=variants, calibration=texts, static=_STATIC)
    quantize(directory, how, note=note)
    count_operations(directory, folder / COUNTS)


def measure(
    config: CommandConfig, out: Path, *, begin: float, note: _Say = lambda _: None
) -> tuple[Path, dict[str, Any]]:
    """Measure on this machine's GPU and write ``<out>/<GPU's name>.json``, ``.md`` and ``.svg``.

    Args:
        config: Options.
        out: Folder to write to.
        begin: When the time began to run, by ``time.perf_counter``.
        note: Called with a line about each stage.

    Returns:
        The JSON file and the report.

    Raises:
        InputError: The data cannot be read, or ``out`` cannot be written.
        MachineError: There is no GPU here.
    """
    require_gpu()
    machine = gpu_machine()
    stem = slug(machine["gpu"]["name"]) + ("-smoke" if config.smoke else "")
    return measure_on(
        machine, config, out / f"{stem}.json", begin=begin, torch_device="cuda", note=note
    )


def measure_on(
    machine: Mapping[str, Any],
    config: CommandConfig,
    path: Path,
    *,
    begin: float,
    torch_device: str,
    note: _Say = lambda _: None,
) -> tuple[Path, dict[str, Any]]:
    """Measure on a device of PyTorch; see ``measure``.

    Args:
        machine: Result of ``gpu_machine.gpu_machine``.
        config: Options.
        path: The JSON file.
        begin: See ``measure``.
        torch_device: ``cuda``; ``cpu`` only to try the code.
        note: See ``measure``.
    """
    with tempfile.TemporaryDirectory(prefix="albert-deploy-gpu-bench-") as temporary:
        models = config.models or Path(temporary)
        tokenizer = config.tokenizer or SAMPLES["sample-sst2"].checkpoint
        limit = max(config.bench.lengths)
        found = [
            distribution(name, place, tokenizer=tokenizer, limit=limit, rows=config.rows, seed=0)
            for name, place in config.data
        ]
        bench = replace(config.bench, distributions=tuple(found))
        journal = open_journal(
            path,
            _identity(machine, config, bench),
            machine,
            command=config.command,
            fresh=config.fresh,
        )
        if journal.resumed:
            note(f"going on with {path}; --fresh begins anew")
        report = journal.report
        if not report["peaks"]:
            note("measuring the peaks of matrix products")
            report["peaks"], report["notes"] = gpu_peaks(
                torch_device, seconds=0.02 if config.smoke else 0.3
            )
            journal.save()
        how = ModelConfig(
            batches=(*bench.batches, bench.real.batch),
            lengths=bench.lengths,
            contenders=config.contenders,
            compile_mode=config.compile_mode,
            device=torch_device,
        )

        def load(geometry: str) -> GpuModel:
            make_model(geometry, models / geometry, config.contenders, note=note)
            return GpuModel(geometry, models / geometry, how)

        device = cuda_device() if torch_device == "cuda" else Device()
        try:
            gpu_bench(
                [partial(load, geometry) for geometry in config.geometries],
                bench,
                journal,
                device,
                begin=begin,
                note=note,
            )
        finally:
            # Whatever ended it, what was measured stands in the tables.
            if torch_device == "cuda":
                report["after"] = readings()
                journal.save()
            write_report(path, report)
    return path, report


def _identity(
    machine: Mapping[str, Any], config: CommandConfig, bench: GpuBenchConfig
) -> dict[str, Any]:
    gpu = machine["gpu"]
    return {
        "gpu": gpu["name"],
        "driver": gpu["driver"],
        "versions": machine["versions"],
        "compile_mode": config.compile_mode,
        "contenders": names(config.contenders),
        **bench.to_json(),
    }


def smoked(config: CommandConfig) -> CommandConfig:
    """Return a configuration of the small model that takes a minute; its figures mean nothing."""
    pace = Pace(rounds=3, turn=2, warmup=1, seconds=1.0)
    bench = replace(config.bench, batches=(1, 8), lengths=(32, 128), pace=pace)
    return replace(config, bench=bench, geometries=("small",), rows=64, smoke=True)
