"""What was seen of the source and its variants, and how it survives a kill."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from albert_deploy.runtime.session import Feeds
from albert_deploy.validation.data.rows import Example
from albert_deploy.validation.evaluate.predictions import FOLDER, value_of, write_predictions
from albert_deploy.validation.parity.difference import Difference
from albert_deploy.validation.scores.measured import Measured

_SUFFIX = ".jsonl.gz"


@dataclass(kw_only=True)
class Evidence:
    """What was seen of the source and its variants on the same rows.

    A variant that failed is in ``failures`` and nowhere else.

    Attributes:
        rows: Number of rows.
        examples: Those rows.
        differences: Variant -> output -> comparison with the source.
        feeds: Inputs of the first rows, of their first windows where they have several.
        errors: Variant -> largest absolute difference of each row, [rows].
        predictions: Source or variant -> row id -> prediction, see ``scores.measure``; empty
            without a data set.
        measured: Source or variant -> metric -> score; empty without a data set.
        failures: Variant -> why it could not be run.
        files: Files of predictions that were written.
        journal: Journal of the run, to be removed when the validation has finished.
    """

    rows: int = 0
    examples: list[Example] = field(default_factory=list)
    differences: dict[str, dict[str, Difference]] = field(default_factory=dict)
    feeds: list[Feeds] = field(default_factory=list)
    errors: dict[str, list[float]] = field(default_factory=dict)
    predictions: dict[str, dict[str, Any]] = field(default_factory=dict)
    measured: dict[str, dict[str, Measured]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    journal: Path | None = None

    @property
    def texts(self) -> list[npt.NDArray[np.int64]]:
        """Token ids of the first rows, each int64 [tokens]."""
        return [feeds["input_ids"].reshape(-1) for feeds in self.feeds]

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """Source or variant -> metric -> score."""
        return {
            name: {metric: m.score for metric, m in found.items()}
            for name, found in self.measured.items()
        }

    def finish(self) -> None:
        """Remove the journal, when all that is made from the evidence has been written."""
        if self.journal is not None:
            self.journal.unlink(missing_ok=True)
            folder = self.journal.parent
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


class Progress:
    """The state of an evaluation between two groups of rows.

    Args:
        models: ``source`` and the variants.
        differences: Comparisons of each variant, nothing added yet.
        rows: Number of rows.
    """

    def __init__(
        self, models: Iterable[str], differences: dict[str, dict[str, Difference]], rows: int
    ) -> None:
        self.differences = differences
        self.lines: dict[str, list[Any]] = {name: [None] * rows for name in models}
        self.errors: dict[str, list[float]] = {v: [0.0] * rows for v in differences}
        self.failures: dict[str, str] = {}

    def enter(self, entry: Mapping[str, Any]) -> None:
        """Take in what a group of rows gave.

        Args:
            entry: ``numbers`` of the rows, by model their ``lines`` of the predictions file, by
                variant their ``errors``.
        """
        for place, number in enumerate(entry["numbers"]):
            for name, lines in entry["lines"].items():
                self.lines[name][number] = lines[place]
            for variant, errors in entry["errors"].items():
                self.errors[variant][number] = errors[place]

    def state(self) -> dict[str, Any]:
        """Return, in JSON's types, all but what ``enter`` takes in; floats stay as they are."""
        return {
            "differences": {
                variant: {output: vars(d) for output, d in found.items()}
                for variant, found in self.differences.items()
            },
            "failures": self.failures,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to a state that ``state`` returned."""
        for variant, found in state["differences"].items():
            for output, values in found.items():
                vars(self.differences[variant][output]).update(values)
        self.failures = dict(state["failures"])

    def fill(self, evidence: Evidence, *, labelled: bool) -> None:
        """Hand over what was kept, of the models that did not fail."""
        alive = [name for name in self.lines if name not in self.failures]
        evidence.differences = {v: d for v, d in self.differences.items() if v in alive}
        evidence.errors = {v: errors for v, errors in self.errors.items() if v in alive}
        evidence.failures = self.failures
        if labelled:
            evidence.predictions = {
                name: {line["id"]: value_of(line) for line in self.lines[name]} for name in alive
            }


def keep_predictions(reports: Path, lines: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Path]:
    """Write a file of predictions for each model, and remove those of earlier validations.

    Returns:
        The files.

    Raises:
        MachineError: The disk is full.
        InputError: The folder cannot be written.
    """
    folder = reports / FOLDER
    files = [folder / f"{name}{_SUFFIX}" for name in lines]
    for left in set(folder.glob(f"*{_SUFFIX}")) - set(files):
        left.unlink()
    for file, content in zip(files, lines.values(), strict=True):
        write_predictions(file, content)
    return files
