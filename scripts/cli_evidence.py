"""The commands that judge: validate, compare and gate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from albert_deploy.scripts import options


@click.command()
@options.directory
@options.source
@options.dataset
@options.validation
@options.option(
    "--allow-calibration-rows",
    is_flag=True,
    help="Accept a variant that was calibrated on the very data it is judged on.",
)
def validate(
    directory: Path,
    source: str | None,
    dataset: str | None,
    allow_calibration_rows: bool,
    **given: Any,
) -> None:
    """Compare every variant in DIR with the fp32 source and give a verdict.

    A run that was killed goes on where it was when the same command is given again.
    """
    from albert_deploy.validation.step import validate as run

    config = options.validate_config(
        given,
        dataset=_data(directory, source, dataset, given["dataset_revision"]),
        source=source,
        allow_calibration_rows=allow_calibration_rows,
    )
    options.show(directory, run(directory, config, note=options.note))


@click.command()
@click.argument("first", metavar="A", type=click.Path(path_type=Path))
@click.argument("second", metavar="B", type=click.Path(path_type=Path))
@options.option(
    "--allow-different-data", is_flag=True, help="Compare releases that were judged on other rows."
)
@options.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def compare(first: Path, second: Path, allow_different_data: bool, as_json: bool) -> None:
    """Put two releases side by side: scores, sizes, and what got better or worse from A to B."""
    from albert_deploy.validation.compare import compare as run
    from albert_deploy.validation.compare import table

    found = run(first, second, allow_different_data=allow_different_data)
    click.echo(json.dumps(found, indent=2) if as_json else table(found))


@click.command()
@options.directory
@options.option(
    "--self-test",
    "self_test",
    is_flag=True,
    required=True,
    help="Plant known faults into copies of the variants and show which check sees them.",
)
@options.option("--variants", default=None, help="Variants, by default those that are there.")
@options.source
@options.dataset
@options.option(
    "--gate",
    "policy",
    type=click.Path(path_type=Path),
    default=None,
    metavar="FILE",
    help="TOML file with the policy.",
)
@options.option("--rows", default=200, type=click.IntRange(min=1), help="Rows, at most.")
def gate(
    directory: Path,
    self_test: bool,
    variants: str | None,
    source: str | None,
    dataset: str | None,
    policy: Path | None,
    rows: int,
) -> None:
    """Test the gate itself on DIR.

    A fault that no check sees ends with 6, and so does a variant that fails without one.
    """
    from albert_deploy.validation.gate.detection import raise_for_self_test, self_test_table
    from albert_deploy.validation.gate.self_test import SelfTestConfig
    from albert_deploy.validation.gate.self_test import self_test as run

    config = SelfTestConfig(
        variants=None if variants is None else options.names(variants),
        dataset=_data(directory, source, dataset, None),
        source=source,
        gate=policy,
        rows=rows,
    )
    found = run(directory, config, note=options.note)
    click.echo(self_test_table(found))
    raise_for_self_test(found)


def _data(
    directory: Path, source: str | None, dataset: str | None, revision: str | None
) -> tuple[str, Path | None] | None:
    from albert_deploy.runtime.manifest import read_manifest
    from albert_deploy.scripts.release import sample_data

    manifest = read_manifest(directory)
    return sample_data(
        source or manifest["source"]["path"],
        options.parse_dataset(dataset),
        task=manifest["task"],
        hub=revision is not None,
    )
