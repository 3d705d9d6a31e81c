"""Trials of a search: one variant with some products kept real, measured on held-out texts.

The graph is equalized, calibrated and rounded once; a trial only inserts the Q/DQ nodes of its
products into a copy. Each result is a line of a log, so that a killed search goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from albert_deploy.export.graph.file import external_data_path, load, save, total_bytes
from albert_deploy.quantize.calibration.observe import Row
from albert_deploy.quantize.calibration.texts import Texts
from albert_deploy.quantize.schemes.qdq import insert_qdq
from albert_deploy.quantize.schemes.static import StaticConfig, planned
from albert_deploy.runtime.contract import variant_named
from albert_deploy.runtime.engines.table import open_file
from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.manifest import os_failure, write_text
from albert_deploy.runtime.session import Session
from albert_deploy.validation.parity.difference import Difference

# Stands for equal outputs, and its negative for outputs that are not finite, in dB.
EXACT_DB = 200.0
# Engine, and labels of the products kept.
Key = tuple[str, frozenset[str]]


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """What to search for, and how long.

    Args:
        variant: Key of ``VARIANTS``, a static one.
        budget: Most trials; those that the log holds already count too, so that a run that was
            killed and resumed ends as one that was not.
        min_agreement: Least share of decisions equal to the fp32 file's; None does not limit.
        min_sqnr_db: Least signal to noise ratio of the worst output, in dB; None does not limit.
        most_kept: Largest share of the products that may be kept, 0 to 1.
        held_out: Share of the texts that are measured on, not calibrated on.
        seed: Seed of their draw.
        timed: Most variants of the Pareto table, whose latency is measured.
        rounds: Timed rounds of each.
    """

    variant: str = "int8-qdq"
    budget: int = 100
    min_agreement: float | None = 0.995
    min_sqnr_db: float | None = 25.0
    most_kept: float = 0.5
    held_out: float = 1 / 3
    seed: int = 0
    timed: int = 6
    rounds: int = 15

    def __post_init__(self) -> None:
        variant_named(self.variant)
        if self.min_agreement is None and self.min_sqnr_db is None:
            raise InputError("the search has no gate; set min_agreement or min_sqnr_db")
        for name, least in {"budget": 1, "timed": 2, "rounds": 1}.items():
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        for name in ("most_kept", "held_out", "min_agreement"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise InputError(f"{name} is {value}; it must be above 0 and at most 1")

    def holds(self, trial: Trial) -> bool:
        """Tell whether a trial passes the gate; without a decision only its SQNR counts."""
        agrees = (
            self.min_agreement is None
            or trial.agreement is None
            or trial.agreement >= self.min_agreement
        )
        return agrees and (self.min_sqnr_db is None or trial.sqnr_db >= self.min_sqnr_db)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One evaluation.

    Attributes:
        step: Why it was run, for people.
        engine: Who ran it.
        kept: Labels of the products whose activation stayed real.
        sqnr_db: Of the worst output against the fp32 file's, in dB, within +-``EXACT_DB``.
        agreement: Share of decisions that are the fp32 file's, of the worst output; None where
            no output is a decision.
        size_bytes: Of the file.
        seconds: What the trial took.
    """

    step: str
    engine: str
    kept: frozenset[str]
    sqnr_db: float
    agreement: float | None
    size_bytes: int
    seconds: float

    @property
    def key(self) -> Key:
        """What tells it from other trials."""
        return self.engine, self.kept

    @property
    def noise(self) -> float:
        """Energy of the error over that of the output; independent errors add up in it."""
        return float(10 ** (-self.sqnr_db / 10))

    def to_json(self, labels: Sequence[str]) -> dict[str, Any]:
        """Return a line of the log; of ``labels``, all products, the shorter list is named."""
        kept = [label for label in labels if label in self.kept]
        rounded = [label for label in labels if label not in self.kept]
        names = {"only": rounded} if len(rounded) < len(kept) else {"kept": kept}
        return {
            "step": self.step,
            "engine": self.engine,
            **names,
            "sqnr_db": round(self.sqnr_db, 3),
            "agreement": self.agreement,
            "bytes": self.size_bytes,
            "seconds": round(self.seconds, 3),
        }


def read_trial(line: Mapping[str, Any], labels: Sequence[str]) -> Trial:
    """Return what ``Trial.to_json`` wrote."""
    kept = set(line["kept"]) if "kept" in line else set(labels) - set(line["only"])
    return Trial(
        step=line["step"],
        engine=line["engine"],
        kept=frozenset(kept),
        sqnr_db=line["sqnr_db"],
        agreement=line["agreement"],
        size_bytes=line["bytes"],
        seconds=line["seconds"],
    )


class TrialLog:
    """A file of JSON lines: a header that says what was searched, then a line per trial.

    Args:
        path: The file; one of another search is replaced.
        header: Source, options and texts: trials are taken back only where all are equal.
        labels: All products that a trial may keep.
    """

    def __init__(self, path: Path, header: Mapping[str, Any], labels: Sequence[str]) -> None:
        self.path, self.labels = path, labels
        self.known: dict[Key, Trial] = {}
        lines = _readable_lines(path)
        if lines[:1] != [json.loads(json.dumps(header))]:
            lines = [dict(header)]
        for line in lines[1:]:
            trial = read_trial(line, labels)
            self.known[trial.key] = trial
        # Written anew: a line that a killed run left half would spoil the next one.
        write_text(path, "".join(json.dumps(line) + "\n" for line in lines))

    def add(self, trial: Trial) -> Trial:
        """Append a trial; return it as a later run will read it."""
        line = json.dumps(trial.to_json(self.labels), allow_nan=False)
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise os_failure(error, self.path) from error
        self.known[trial.key] = read_trial(json.loads(line), self.labels)
        return self.known[trial.key]


class Trials:
    """Makes and measures variants of one file.

    Args:
        source: The fp32 file.
        static: Options; what it keeps is kept in every trial.
        variant: Key of ``VARIANTS``.
        engine: Who runs the fp32 file.
        texts: What to calibrate on.
        rows: Held-out texts to measure on.
        decide: Output -> how it becomes a decision, see ``Difference``.
        work: Folder for temporary files.
    """

    def __init__(
        self,
        source: Path,
        static: StaticConfig,
        *,
        variant: str,
        engine: str,
        texts: Texts,
        rows: Sequence[Row],
        decide: Mapping[str, str | None],
        work: Path,
    ) -> None:
        self.variant = variant
        self.rows, self.decide, self.work = rows, decide, work
        self.model = load(source)
        self.plan, _, _ = planned(self.model, static, texts)
        # On disk: the scores of a masked language model do not fit into memory for many rows.
        with open_file(source, "fp32", engine) as session:
            for index, row in enumerate(rows):
                np.savez(self._expected(index), allow_pickle=False, **session.run(row.feeds))

    def write(self, kept: frozenset[str], path: Path) -> int:
        """Write the variant that keeps these products; return its size in bytes."""
        model = self.model.clone()
        uses = tuple(p for p in self.plan.uses if p.label not in kept)
        insert_qdq(model, replace(self.plan, uses=uses))
        save(model, path)
        return total_bytes(path)

    def open(self, path: Path, engine: str, *, threads: int = 0) -> Session:
        """Open a file that ``write`` made."""
        return open_file(path, self.variant, engine, threads=threads)

    def run(self, step: str, kept: frozenset[str], engine: str) -> Trial:
        """Measure one set of kept products.

        Raises:
            ContractError: The engine refuses the file.
        """
        start = time.perf_counter()
        path = self.work / "trial.onnx"
        size = self.write(kept, path)
        found = {name: Difference(decision) for name, decision in self.decide.items()}
        with self.open(path, engine) as session:
            for index, row in enumerate(self.rows):
                outputs = session.run(row.feeds)
                with np.load(self._expected(index)) as expected:
                    for name, difference in found.items():
                        difference.add(expected[name], outputs[name])
        for file in (path, external_data_path(path)):
            file.unlink(missing_ok=True)
        shares = [d.agreement for d in found.values() if d.agreement is not None]
        worst = min(d.sqnr_db for d in found.values())
        return Trial(
            step=step,
            engine=engine,
            kept=kept,
            sqnr_db=math.copysign(min(abs(worst), EXACT_DB), worst),
            agreement=min(shares, default=None),
            size_bytes=size,
            seconds=time.perf_counter() - start,
        )

    def _expected(self, index: int) -> Path:
        return self.work / f"row-{index}.npz"


def digest_of(rows: Sequence[Row]) -> str:
    """Return the SHA-256 of tokenized texts, in hexadecimal."""
    digest = hashlib.sha256()
    for row in rows:
        for name, array in sorted(row.feeds.items()):
            digest.update(f"{name} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


def _readable_lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a log up to the first that cannot be read: the last of a killed run."""
    lines: list[dict[str, Any]] = []
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return lines
    for line in text.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            break
        if not isinstance(value, dict):
            break
        lines.append(value)
    return lines
