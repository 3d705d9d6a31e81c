"""The commands that make a deployment directory: release, export and quantize."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from albert_deploy.runtime.contract import TASKS, VARIANTS
from albert_deploy.runtime.errors import InputError
from albert_deploy.scripts.cli import options
from albert_deploy.scripts.cli.options import COUNT, Dataset, opt
from albert_deploy.scripts.cli.validate import Validation

if TYPE_CHECKING:
    from albert_deploy.export.step import ExportConfig
    from albert_deploy.quantize.calibration.texts import CalibrationConfig
    from albert_deploy.quantize.step import QuantizeConfig


@dataclass(frozen=True, kw_only=True)
class Export:
    """What is exported, and where to."""

    out: Path = opt(None, "Deployment directory to make.", "DIR", required=True)
    task: str = opt("auto", f"auto, or one of: {', '.join(TASKS)}.")
    revision: str | None = opt(None, "Branch, tag or commit of a hub model.")
    allow_pickle: bool = opt(
        False, "Read pytorch_model.bin where there are no safetensors (weights only)."
    )
    force: bool = opt(False, "Replace what another run left there.")

    def config(self) -> ExportConfig:
        """Make the export step's configuration."""
        from albert_deploy.export.step import ExportConfig

        return ExportConfig(**{name: value for name, value in vars(self).items() if name != "out"})


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """How variants are made."""

    calibration: str | None = opt(
        None,
        "Texts for the static variants: a data set's folder (its train split), text=FILE with a "
        "text per line, or statistics=FILE of an earlier calibration.",
        "NAME[=PATH]",
    )
    samples: int = opt(256, "Calibration texts.", type=COUNT)
    seed: int = opt(0, "Seed of their random draw.")
    allow_few_samples: bool = opt(False, "Calibrate on fewer than 32 texts.")
    allow_evaluation_split: bool = opt(False, "Calibrate on a dev split.")
    ranges: str | None = opt(
        None,
        "How calibration chooses a range: mse (default), minmax, percentile or entropy.",
        "RULE",
    )
    alpha: float | None = opt(
        None, "Share of an outlier channel that is moved into weights: 0 to 1, by default 0.5."
    )
    rounding: str | None = opt(None, "Of static INT8 weights: compensated (default) or nearest.")
    keep: tuple[str, ...] = opt(
        (),
        "Product whose activation stays real, such as 'encoder iteration 11, ffn_output'; may be "
        "repeated.",
        "LABEL",
        multiple=True,
    )
    budget: int | None = opt(
        None,
        "Search, with at most N trials, for the fewest products to keep real.",
        "N",
        type=COUNT,
    )

    def config(
        self, *, variants: tuple[str, ...], force: bool = False, default: Dataset | None = None
    ) -> QuantizeConfig:
        """Make the quantize step's configuration.

        Args:
            variants: What to make.
            force: Make it again.
            default: Calibration data where none is given, for those variants that need some.

        Raises:
            InputError: Calibration data has no place.
        """
        from albert_deploy.quantize.schemes.table import SCHEMES
        from albert_deploy.quantize.step import QuantizeConfig

        needed = any(name in SCHEMES and SCHEMES[name].calibrated for name in variants)
        static = {
            "rule": self.ranges,
            "alpha": self.alpha,
            "rounding": self.rounding,
            "keep": self.keep or None,
        }
        return QuantizeConfig(
            variants=variants,
            force=force,
            calibration=self._calibration(default if needed else None),
            static={name: value for name, value in static.items() if value is not None},
            budget=self.budget,
        )

    def _calibration(self, default: Dataset | None) -> CalibrationConfig | None:
        from albert_deploy.quantize.calibration.texts import CalibrationConfig, parse_calibration

        text = self.calibration
        name, path = parse_calibration(text) if text is not None else (None, None)
        if name is None and default is None:
            return None
        if path is None and default is not None and name in (None, default[0]):
            name, path = default
        if path is None:
            raise InputError(f"--calibration {name} needs the place of the data: {name}=PATH")
        return CalibrationConfig(
            name=name or "",
            path=path,
            samples=self.samples,
            seed=self.seed,
            allow_few=self.allow_few_samples,
            allow_evaluation=self.allow_evaluation_split,
        )


@click.command()
@click.argument("source")
@options.takes(Export, "how")
@options.variants
@options.dataset
@options.takes(Quantization, "quantization")
@options.takes(Validation, "validation")
@options.option(
    "--target",
    default=None,
    metavar="NAME,…",
    help="Build TensorRT engines for these GPUs too, see build; needs TensorRT.",
)
@options.pays
@options.option(
    "--lengths",
    type=options.NUMBERS,
    default="32,128",
    help="Tokens of the rows that --require judges by.",
)
def release(
    source: str,
    how: Export,
    variants: tuple[str, ...],
    dataset: Dataset | None,
    quantization: Quantization,
    validation: Validation,
    target: str | None,
    speedup: float | None,
    size: float | None,
    lengths: tuple[int, ...],
) -> None:
    """Export SOURCE, quantize it, validate every variant and give a verdict.

    SOURCE is a checkpoint's folder, a hub id, or a shipped sample (sample-sst2, sample-squad,
    which bring their data). This is what `make export` runs.
    """
    from albert_deploy.export.engine.step import BuildConfig
    from albert_deploy.scripts.release import ReleaseConfig, sample_data
    from albert_deploy.scripts.release import release as run

    hub = validation.dataset_revision is not None
    place = sample_data(source, dataset, task=how.task, hub=hub)
    config = ReleaseConfig(
        export=how.config(),
        quantize=quantization.config(
            variants=variants, default=sample_data(source, None, task=how.task)
        ),
        build=None if target is None else BuildConfig(targets=options.targets(target)),
        pays=options.pays_config(speedup, size),
        lengths=lengths,
        validate=validation.config(dataset=place),
    )
    made, report = run(source, config, out=how.out)
    options.show(made, report)


@click.command()
@click.argument("source")
@options.takes(Export, "how")
def export(source: str, how: Export) -> None:
    """Export SOURCE to onnx/model.onnx in a deployment directory."""
    from albert_deploy.export.step import export as run

    manifest = run(source, how.config(), out=how.out)
    file = VARIANTS["fp32"].file
    record = manifest["files"][file]
    click.echo(
        f"{how.out / file}: {manifest['task']}, {record['bytes']:,} bytes, "
        f"sha256 {record['sha256'][:12]}"
    )


@click.command()
@options.directory
@options.variants
@options.force
@options.takes(Quantization, "quantization")
def quantize(
    directory: Path, variants: tuple[str, ...], force: bool, quantization: Quantization
) -> None:
    """Make INT8, FP16 and other variants of the ONNX model in DIR.

    int8, fp16 and bf16 need no data. int8-qdq, int8-fp16 and fp8-qdq are static: their ranges
    come from --calibration texts, which fp16 is searched for overflows with too.
    """
    from albert_deploy.quantize.step import quantize as run
    from albert_deploy.runtime.manifest import read_manifest
    from albert_deploy.scripts.release import sample_data

    made_from = read_manifest(directory)
    config = quantization.config(
        variants=variants,
        force=force,
        default=sample_data(made_from["source"]["path"], None, task=made_from["task"]),
    )
    options.progress_is_the_result()
    run(directory, config)
