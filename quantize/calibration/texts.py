"""Where calibration texts come from: a data set's train split, a plain text file, a saved run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from albert_deploy.quantize.calibration.observe import Inputs, Row, calibrate, watch_inputs
from albert_deploy.quantize.calibration.statistics import load_statistics, save_statistics
from albert_deploy.runtime.contract import CHOICES, VARIANTS
from albert_deploy.runtime.errors import InputError, check_known
from albert_deploy.runtime.manifest import sha256_of

# A calibration source besides the data sets: one text per line, or two with a tab between.
TEXT, SAVED = "text", "statistics"
LEAST_ROWS = 32


@dataclass(frozen=True, kw_only=True)
class CalibrationConfig:
    """Which texts to calibrate on.

    Args:
        name: A key of ``DATASETS`` (its train split is read), ``text`` (a file with a text per
            line) or ``statistics`` (the file that an earlier calibration left).
        path: The folder or file.
        samples: Texts, drawn at random.
        seed: Seed of the draw.
        truncate: Cut over-long texts; otherwise they are an error.
        allow_few: Take fewer than 32 texts.
        allow_evaluation: Take the split that scores are measured on.
    """

    name: str
    path: Path
    samples: int = 256
    seed: int = 0
    truncate: bool = True
    allow_few: bool = False
    allow_evaluation: bool = False

    def __post_init__(self) -> None:
        if self.samples < LEAST_ROWS and not self.allow_few:
            raise InputError(
                f"{self.samples} calibration texts are too few for ranges to mean something; "
                f"use `samples` {LEAST_ROWS} or more, or pass `allow_few=True`"
            )


def parse_calibration(text: str) -> tuple[str, Path | None]:
    """Split ``NAME[=PATH]``.

    Raises:
        InputError: Unknown name, or a missing path.
    """
    from albert_deploy.validation.data.table import DATASETS

    name, equals, path = text.partition("=")
    check_known(name, (*DATASETS, TEXT, SAVED), "calibration data")
    if bool(equals) != bool(path) or (name in (TEXT, SAVED) and not path):
        raise InputError(f"got {text!r}; write {name}=PATH")
    return name, Path(path) if path else None


def read_texts(directory: Path, manifest: dict[str, Any], config: CalibrationConfig) -> Texts:
    """Read and tokenize calibration texts.

    Raises:
        InputError: The data cannot be read, is for another task, has too few texts, or is the
            evaluation split.
    """
    source = manifest["files"][VARIANTS["fp32"].file]["sha256"]
    if config.name == SAVED:
        return saved_texts(config.path, source_sha256=source)
    from albert_deploy.validation.data.datasets import data_file
    from albert_deploy.validation.data.layouts import digest

    file = config.path if config.name == TEXT else data_file(config.name, config.path, "train")
    rows = _text_rows(file, manifest) if config.name == TEXT else _data_rows(config, manifest)
    if config.name != TEXT:
        _refuse_evaluation(config, file)
    if len(rows) < LEAST_ROWS and not config.allow_few:
        raise InputError(
            f"{file} has {len(rows)} texts, calibration wants {LEAST_ROWS}; give more, or pass "
            "`allow_few=True`"
        )
    chosen = [rows[i] for i in sampled(len(rows), config.samples, config.seed)]
    texts = tuple(_tokenized(directory, manifest, chosen, config))
    return Texts(
        rows=texts,
        origin={
            "name": config.name,
            "file": file.name,
            "sha256": digest(file),
            "texts": len(chosen),
            "rows": len(texts),
            "tokens": sum(int(r.feeds["input_ids"].size) for r in texts),
            "seed": config.seed,
            "source_sha256": source,
        },
    )


def _data_rows(config: CalibrationConfig, manifest: dict[str, Any]) -> list[Any]:
    from albert_deploy.validation.data.datasets import read_dataset
    from albert_deploy.validation.data.table import check_fits

    remedy = f"calibrate on texts of its own task, or on any with `calibration` {TEXT}=FILE"
    check_fits(config.name, manifest["task"], remedy=remedy)
    return list(read_dataset(config.name, config.path, split="train"))


def _text_rows(file: Path, manifest: dict[str, Any]) -> list[Any]:
    from albert_deploy.validation.data.rows import ClassificationRow, QuestionRow

    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"cannot read {file}: {error}; give {TEXT}=FILE with a text per line in UTF-8"
        ) from error
    rows: list[Any] = []
    for number, line in enumerate(lines, start=1):
        first, _, second = line.partition("\t")
        if not first.strip():
            continue
        if manifest["task"] != "question-answering":
            rows.append(
                ClassificationRow(id=f"line {number}", text=first, pair=second or None, label=0)
            )
        elif second.strip():
            rows.append(
                QuestionRow(id=f"line {number}", question=first, context=second, answers=("",))
            )
        else:
            raise InputError(f"{file}: line {number} has no context; write question, tab, context")
    return rows


def _refuse_evaluation(config: CalibrationConfig, file: Path) -> None:
    from albert_deploy.validation.data.table import DATASETS

    official = DATASETS[config.name].files["dev"]
    beside = file.with_name(official)
    same = file.name == official or (
        beside.is_file()
        and beside.stat().st_size == file.stat().st_size
        and sha256_of(beside) == sha256_of(file)
    )
    if same and not config.allow_evaluation:
        raise InputError(
            f"{file} is the evaluation split: scores measured on what was calibrated on prove "
            "nothing; give the train split, or pass `allow_evaluation=True`"
        )


def _tokenized(
    directory: Path, manifest: dict[str, Any], rows: list[Any], config: CalibrationConfig
) -> Iterator[Row]:
    """Tokenize as the task does; each window or choice is a row of its own, so nothing pads."""
    from albert_deploy.runtime.tasks.tokenize import load_tokenizer
    from albert_deploy.validation.data.rows import RowsConfig, encode_rows

    contract = manifest["contract"]
    tokenizer = load_tokenizer(directory)
    choices = CHOICES in contract["inputs"][0]["axes"]
    for row in encode_rows(rows, contract, tokenizer, RowsConfig(truncate=config.truncate)):
        for feeds in row.feeds:
            if not choices:
                yield Row(id=row.id, feeds=feeds)
                continue
            lengths = feeds["attention_mask"][0].sum(axis=-1)
            for index, length in enumerate(lengths):
                cut = {n: v[:, index : index + 1, : int(length)] for n, v in feeds.items()}
                yield Row(id=f"{row.id} choice {index}", feeds=cut)


# Statistics of one file: graph (how pruned and equalized) and value name, joined.
_JOINT = "::"


@dataclass(kw_only=True)
class Texts:
    """Calibration rows and what was measured with them so far.

    Attributes:
        rows: Tokenized texts; empty where statistics of an earlier calibration stand for them.
        origin: Where they come from, as the manifest records it.
        measured: Which graph (how pruned and equalized) -> what was measured on it.
    """

    rows: tuple[Row, ...] = ()
    origin: Mapping[str, Any] = field(default_factory=dict)
    measured: dict[str, Inputs] = field(default_factory=dict)

    def inputs(self, graph: str, model: ir.Model, *, moments: bool) -> Inputs:
        """Return the inputs of a graph's weights, measured now or before.

        Raises:
            InputError: They were not measured before and there are no texts to do it.
        """
        known = self.measured.get(graph)
        if known is not None and (known.moments or not moments):
            return known
        if not self.rows:
            missing = "second moments" if known else f"statistics of the graph {graph!r}"
            raise InputError(
                f"the saved calibration has no {missing}; give texts with `calibration` NAME=PATH"
            )
        found = watch_inputs(model, self.rows, count=len(self.rows), moments=moments)
        self.measured[graph] = found
        return found

    def peaks(self, model: ir.Model, labels: Mapping[str, str]) -> dict[str, float]:
        """Return the largest magnitude of values on the texts; nothing without texts.

        Args:
            model: Graph that the texts run through.
            labels: Names of its values -> what they are called in messages.
        """
        if not self.rows:
            return {}
        found = calibrate(model, labels, self.rows, total=len(self.rows), histograms=False)
        return {name: statistics.peak for name, statistics in found.items()}

    def save(self, path: Path) -> None:
        """Write the statistics of every graph that was measured to one file."""
        joint = {
            f"{graph}{_JOINT}{name}": statistics
            for graph, inputs in self.measured.items()
            for name, statistics in inputs.statistics.items()
        }
        save_statistics(path, joint, self.origin)


def saved_texts(path: Path, *, source_sha256: str) -> Texts:
    """Read what ``Texts.save`` wrote.

    Args:
        path: ``calibration/statistics.npz`` of a deployment directory.
        source_sha256: Of the float32 file that is to be quantized.

    Raises:
        InputError: The file cannot be read or is of another model.
    """
    joint, origin = load_statistics(path)
    if origin.get("source_sha256") != source_sha256:
        raise InputError(
            f"{path} was measured on another export of the model; calibrate with texts"
        )
    texts = Texts(origin=origin)
    for key, statistics in joint.items():
        graph, _, name = key.partition(_JOINT)
        texts.measured.setdefault(graph, Inputs(statistics={})).statistics[name] = statistics
    return texts


def sampled(count: int, wanted: int, seed: int) -> list[int]:
    """Return the positions of a random sample in ascending order; all where there are fewer."""
    return sorted(np.random.default_rng(seed).permutation(count)[:wanted].tolist())
