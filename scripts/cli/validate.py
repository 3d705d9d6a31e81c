"""The commands that judge: validate, compare and gate."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from albert_deploy.scripts.cli import options
from albert_deploy.scripts.cli.options import COUNT, COUNT_OR_0, SECONDS, opt

if TYPE_CHECKING:
    from albert_deploy.validation.step import ValidateConfig


@dataclass(frozen=True, kw_only=True)
class Validation:
    """How a validation is run."""

    dataset_revision: str | None = opt(
        None,
        "Take the data set, named without a path, from the Hugging Face hub at this branch, tag "
        "or commit.",
        "REV",
    )
    skip_bad_rows: bool = opt(False, "Leave malformed rows out and count them.")
    label_order: str | None = opt(
        None,
        "Names of the checkpoint's classes, in order, where its id2label has none.",
        "NAME,NAME,…",
    )
    gate: Path | None = opt(
        None, "TOML file with the policy: limits, margins, confidence (docs/gate.md).", "FILE"
    )
    baseline: Path | None = opt(
        None, "reports/validation.json of an earlier release, to fail on a regression.", "FILE"
    )
    engine: str = opt(
        "auto",
        "What runs the variants that it can run: ort, openvino, ort-cuda, or trt for their plans. "
        "By default the engine of each ONNX file.",
    )
    truncate: bool = opt(False, "Cut over-long texts instead of refusing them.")
    workers: int = opt(1, "Processes that run rows.", type=COUNT)
    timeout: float = opt(
        600.0, "Longest time of one run of an engine, in seconds.", "S", type=SECONDS
    )
    bisect_trials: int = opt(
        40, "Trials of the search for what makes a variant fail; 0 for none.", "N", type=COUNT_OR_0
    )
    # What it was called before.
    blame_trials: int | None = opt(None, "See --bisect-trials.", type=COUNT_OR_0, hidden=True)

    def config(
        self,
        *,
        dataset: options.Dataset | None,
        source: str | None = None,
        allow_calibration_rows: bool = False,
    ) -> ValidateConfig:
        """Make the validate step's configuration on what ``release.sample_data`` found."""
        from albert_deploy.validation.data.rows import RowsConfig
        from albert_deploy.validation.evaluate.evaluate import EvaluateConfig
        from albert_deploy.validation.step import ValidateConfig

        order = self.label_order
        return ValidateConfig(
            dataset=dataset,
            revision=self.dataset_revision,
            skip_bad_rows=self.skip_bad_rows,
            source=source,
            gate=self.gate,
            baseline=self.baseline,
            engine=self.engine,
            bisect_trials=self.bisect_trials if self.blame_trials is None else self.blame_trials,
            allow_calibration_rows=allow_calibration_rows,
            evaluate=EvaluateConfig(
                rows=RowsConfig(truncate=self.truncate),
                label_order=None if order is None else tuple(n.strip() for n in order.split(",")),
                workers=self.workers,
                timeout_s=self.timeout,
            ),
        )


@click.command()
@options.directory
@options.source
@options.dataset
@options.takes(Validation, "validation")
@options.option(
    "--allow-calibration-rows",
    is_flag=True,
    help="Accept a variant that was calibrated on the very data it is judged on.",
)
def validate(
    directory: Path,
    source: str | None,
    dataset: options.Dataset | None,
    validation: Validation,
    allow_calibration_rows: bool,
) -> None:
    """Compare every variant in DIR with the fp32 source and give a verdict.

    A run that was killed goes on where it was when the same command is given again.
    """
    from albert_deploy.validation.step import validate as run

    config = validation.config(
        dataset=_data(directory, source, dataset, hub=validation.dataset_revision is not None),
        source=source,
        allow_calibration_rows=allow_calibration_rows,
    )
    options.show(directory, run(directory, config))


@click.command()
@click.argument("first", metavar="A", type=click.Path(path_type=Path))
@click.argument("second", metavar="B", type=click.Path(path_type=Path))
@options.option(
    "--allow-different-data", is_flag=True, help="Compare releases that were judged on other rows."
)
@options.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def compare(first: Path, second: Path, allow_different_data: bool, as_json: bool) -> None:
    """Put two releases side by side: scores, sizes, and what got better or worse from A to B."""
    from albert_deploy.validation.report.compare import compare as run
    from albert_deploy.validation.report.compare import table

    found = run(first, second, allow_different_data=allow_different_data)
    click.echo(json.dumps(found, indent=2) if as_json else table(found))


@dataclass(frozen=True, kw_only=True)
class SelfTest:
    """What the gate is tested with."""

    self_test: bool = opt(
        False,
        "Plant known faults into copies of the variants and show which check sees them.",
        required=True,
    )
    variants: tuple[str, ...] | None = opt(
        None, "Variants, by default those that are there.", type=options.NAMES
    )
    source: str | None = opt(None, options.SOURCE)
    dataset: options.Dataset | None = opt(
        None, options.LABELLED, "NAME[=PATH]", type=options.DATASET
    )
    policy: Path | None = opt(None, "TOML file with the policy.", "FILE", flag="--gate")
    rows: int = opt(200, "Rows, at most.", type=COUNT)


@click.command()
@options.directory
@options.takes(SelfTest, "how")
def gate(directory: Path, how: SelfTest) -> None:
    """Test the gate itself on DIR.

    A fault that no check sees ends with 6, and so does a variant that fails without one.
    """
    from albert_deploy.validation.gate.detection import raise_for_self_test, self_test_table
    from albert_deploy.validation.gate.self_test import SelfTestConfig
    from albert_deploy.validation.gate.self_test import self_test as run

    config = SelfTestConfig(
        variants=how.variants,
        dataset=_data(directory, how.source, how.dataset),
        source=how.source,
        gate=how.policy,
        rows=how.rows,
    )
    found = run(directory, config)
    click.echo(self_test_table(found))
    raise_for_self_test(found)


def _data(
    directory: Path, source: str | None, dataset: options.Dataset | None, *, hub: bool = False
) -> options.Dataset | None:
    from albert_deploy.runtime.manifest import read_manifest
    from albert_deploy.scripts.release import sample_data

    manifest = read_manifest(directory)
    path = source or manifest["source"]["path"]
    return sample_data(path, dataset, task=manifest["task"], hub=hub)
