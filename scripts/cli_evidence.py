"""The commands that judge: validate, compare and gate."""

from __future__ import annotations

from pathlib import Path

import click

from albert_deploy.scripts import options


@click.command()
@options.directory
@options.source
@options.dataset
@options.gate
@options.truncate
@options.option(
    "--allow-calibration-rows",
    is_flag=True,
    help="Accept a variant that was calibrated on the very data it is judged on.",
)
def validate(
    directory: Path,
    source: str | None,
    dataset: str | None,
    gate: Path | None,
    truncate: bool,
    allow_calibration_rows: bool,
) -> None:
    """Compare every variant in DIR with the fp32 source and give a verdict."""
    from albert_deploy.runtime.manifest import read_manifest
    from albert_deploy.scripts.release import sample_data
    from albert_deploy.validation.evaluate import EvaluateConfig
    from albert_deploy.validation.rows import RowsConfig
    from albert_deploy.validation.step import ValidateConfig
    from albert_deploy.validation.step import validate as run

    manifest = read_manifest(directory)
    given = source or manifest["source"]["path"]
    config = ValidateConfig(
        dataset=sample_data(given, options.parse_dataset(dataset), task=manifest["task"]),
        source=source,
        gate=gate,
        evaluate=EvaluateConfig(rows=RowsConfig(truncate=truncate)),
        allow_calibration_rows=allow_calibration_rows,
    )
    options.show(directory, run(directory, config, note=options.note))
