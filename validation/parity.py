"""How far a variant's outputs are from the source's, on real rows and on an edge grid."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from albert_deploy.runtime.contract import CHOICES, INPUT_NAMES

BATCHES = (1, 2, 7)
LENGTHS = (1, 2, 17, 128)
MASKS = ("full", "right", "left", "holed", "empty")
# Share of a padded row that is padding.
_PADDED = 0.4


class Difference:
    """Running comparison of one output; constant memory, whatever the number of rows.

    Args:
        decision: How an output becomes a prediction: ``argmax`` over the last axis, ``sign``
            of each value, or None where it is no decision.
    """

    def __init__(self, decision: str | None) -> None:
        self._decision = decision
        self.max_abs = 0.0
        self.peak = 0.0
        self.finite = True
        self._sums = dict.fromkeys(("n", "abs", "error", "source", "variant", "dot"), 0.0)
        self._decisions = self._agreed = 0

    def add(self, source: npt.NDArray[np.float32], variant: npt.NDArray[np.float32]) -> float:
        """Add one run; return its largest absolute difference (infinite where not finite)."""
        a, b = source.astype(np.float64), variant.astype(np.float64)
        self.peak = max(self.peak, float(np.abs(a).max(initial=0.0)))
        if self._decision is not None:
            ours, theirs = self._decide(a), self._decide(b)
            self._decisions += ours.size
            self._agreed += int(np.count_nonzero(ours == theirs))
        if not np.isfinite(b).all():
            self.finite = False
            return math.inf
        error = np.abs(a - b)
        largest = float(error.max(initial=0.0))
        self.max_abs = max(self.max_abs, largest)
        for key, value in (
            ("n", a.size),
            ("abs", error.sum()),
            ("error", (error**2).sum()),
            ("source", (a**2).sum()),
            ("variant", (b**2).sum()),
            ("dot", (a * b).sum()),
        ):
            self._sums[key] += float(value)
        return largest

    @property
    def sqnr_db(self) -> float:
        """Signal to quantization noise ratio, 10 log10(sum of y^2 / sum of error^2), in dB."""
        if not self.finite:
            return -math.inf
        if self._sums["error"] == 0:
            return math.inf
        if self._sums["source"] == 0:
            return -math.inf
        return 10 * math.log10(self._sums["source"] / self._sums["error"])

    @property
    def relative(self) -> float:
        """Largest difference over the largest magnitude of the source's output."""
        if not self.finite:
            return math.inf
        return self.max_abs / self.peak if self.peak else self.max_abs

    @property
    def agreement(self) -> float | None:
        """Share of equal decisions; None where the output is no decision."""
        return self._agreed / self._decisions if self._decisions else None

    def to_json(self) -> dict[str, Any]:
        """Return the form that reports hold; an exact match has ``sqnr_db`` null."""
        sums, norm = self._sums, math.sqrt(self._sums["source"] * self._sums["variant"])
        return {
            "finite": self.finite,
            "max_abs": self.max_abs,
            "mean_abs": sums["abs"] / sums["n"] if sums["n"] else 0.0,
            "relative": self.relative if self.finite else None,
            "scale": self.peak,
            "cosine": sums["dot"] / norm if norm else None,
            "sqnr_db": round(self.sqnr_db, 2) if math.isfinite(self.sqnr_db) else None,
            "agreement": self.agreement,
        }

    def _decide(self, value: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
        return value > 0 if self._decision == "sign" else value.argmax(axis=-1)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One run of the edge grid.

    Attributes:
        name: Such as ``batch 2, length 17, left``.
        feeds: The three inputs.
    """

    name: str
    feeds: Mapping[str, npt.NDArray[np.int64]]


def edge_grid(
    contract: dict[str, Any],
    config: dict[str, Any],
    texts: Sequence[npt.NDArray[np.int64]],
    *,
    seed: int = 0,
) -> list[Case]:
    """Return the grid of batch sizes, lengths and masks that every variant must survive.

    Batch 1 meets each mask alone; larger batches mix them, so that rows of one batch differ.
    Rows are real texts, joined until they are long enough: on random tokens a trained model's
    answer is noise, and so is any comparison of it.

    Args:
        contract: The manifest's contract.
        config: The checkpoint's configuration, for the number of token types.
        texts: Token ids of real texts, each int64 [tokens].
        seed: Seed of the choice of texts and of the holes.
    """
    random = np.random.default_rng(seed)
    longest = int(contract["max_length"])
    lengths = sorted({n for n in LENGTHS if n < longest} | {longest})
    choices = CHOICES in contract["inputs"][0]["axes"]
    types = min(int(config.get("type_vocab_size", 2)), 2)
    cases = []
    for length in lengths:
        for batch in BATCHES:
            for kinds in _mixes(batch):
                shape = (batch, 2, length) if choices else (batch, length)
                ids, mask = np.empty(shape, np.int64), np.empty(shape, np.int64)
                for row in ids.reshape(-1, length):
                    row[:] = _joined(texts, length, int(random.integers(len(texts))))
                for row, kind in zip(mask.reshape(-1, length), _cycle(kinds), strict=False):
                    row[:] = _mask(kind, length, random)
                second = np.broadcast_to(np.arange(length) >= (length + 1) // 2, shape)
                token_types = second.astype(np.int64) * (types - 1)
                feeds = dict(zip(INPUT_NAMES, (ids, mask, token_types), strict=True))
                label = f"batch {batch}, length {length}, {'+'.join(kinds)}"
                cases.append(Case(name=label, feeds=feeds))
    return cases


def _joined(
    texts: Sequence[npt.NDArray[np.int64]], length: int, first: int
) -> npt.NDArray[np.int64]:
    """Return ``length`` tokens of the texts from ``first`` on, starting over at their end."""
    parts: list[npt.NDArray[np.int64]] = []
    while sum(len(part) for part in parts) < length:
        parts.append(texts[(first + len(parts)) % len(texts)])
    return np.concatenate(parts)[:length]


def _mixes(batch: int) -> list[tuple[str, ...]]:
    if batch == 1:
        return [(kind,) for kind in MASKS]
    if batch == 2:
        return [("full", "right"), ("left", "holed"), ("empty", "full")]
    return [MASKS]


def _cycle(kinds: tuple[str, ...]) -> Iterator[str]:
    while True:
        yield from kinds


def _mask(kind: str, length: int, random: np.random.Generator) -> npt.NDArray[np.int64]:
    keep = np.ones(length, np.int64)
    padded = min(int(length * _PADDED) or 1, length - 1)
    if kind == "right" and padded:
        keep[length - padded :] = 0
    elif kind == "left" and padded:
        keep[:padded] = 0
    elif kind == "holed" and padded:
        keep[random.choice(length, padded, replace=False)] = 0
    elif kind == "empty":
        keep[:] = 0
    return keep
