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
# Above so many classes only the order of the best ones says something.
_RANKED, _BEST = 100, 5
# Choices of so many classes that are looked at in one run, evenly spaced: with a vocabulary of
# 30,000 the softmax of every token would take as long as the model.
_LARGE_ROWS = 32


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
        self._rows, self._kl, self._ranks = 0, 0.0, 0.0

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
        if self._decision == "argmax" and a.size:
            self._add_rows(a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1]))
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
    def rounded_db(self) -> float | None:
        """``sqnr_db`` as reports have it: to 0.01 dB; None where it is not finite."""
        return round(self.sqnr_db, 2) if math.isfinite(self.sqnr_db) else None

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

    @property
    def kl(self) -> float | None:
        """Mean over the rows of KL(source || variant) of the softmax, in nats.

        None where the output is no choice of one class, or nothing finite was added. A row is
        one choice: a text, a token of a text, or all tokens of a text for an answer's start.
        """
        return self._kl / self._rows if self._rows else None

    @property
    def rank_agreement(self) -> float | None:
        """Mean over the rows of how alike the classes are ordered, 0 to 1; None as for ``kl``.

        Up to 100 classes it is the share of pairs of classes that both order alike, which is
        (Kendall's tau + 1) / 2 and with two classes the agreement; above, the share of the
        source's best five that are among the variant's.
        """
        return self._ranks / self._rows if self._rows else None

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
            "sqnr_db": self.rounded_db,
            "agreement": self.agreement,
            "kl": self.kl,
            "rank_agreement": self.rank_agreement,
        }

    def _add_rows(self, a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> None:
        """Add choices, [rows, classes] each."""
        if a.shape[-1] > _RANKED and len(a) > _LARGE_ROWS:
            chosen = np.linspace(0, len(a) - 1, _LARGE_ROWS).astype(np.int64)
            a, b = a[chosen], b[chosen]
        self._rows += len(a)
        self._kl += float(divergences(a, b).sum())
        self._ranks += float(alike(a, b).sum())

    def _decide(self, value: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
        return value > 0 if self._decision == "sign" else value.argmax(axis=-1)


def divergences(
    source: npt.NDArray[np.float64], variant: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return KL(source || variant) of the softmax of each row, in nats: [rows, classes] -> [rows].

    With p = softmax(a), q = softmax(b): sum p (a - b) - log sum exp a + log sum exp b, taken
    about each row's largest value.
    """
    a = source - source.max(axis=-1, keepdims=True)
    b = variant - variant.max(axis=-1, keepdims=True)
    weights = np.exp(a)
    total = weights.sum(axis=-1)
    mean = np.einsum("ij,ij->i", weights, a - b) / total
    found = mean - np.log(total) + np.log(np.exp(b).sum(axis=-1))
    # Never below zero but by rounding.
    return np.asarray(np.maximum(found, 0.0))


def alike(
    source: npt.NDArray[np.float64], variant: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return how alike each row orders its classes, see ``rank_agreement``: -> [rows]."""
    classes = source.shape[-1]
    if classes == 1:
        return np.ones(len(source))
    if classes > _RANKED:
        ours, theirs = (np.argpartition(x, -_BEST, axis=-1)[:, -_BEST:] for x in (source, variant))
        common = (ours[:, :, None] == theirs[:, None, :]).any(axis=-1)
        return np.asarray(common.mean(axis=-1))
    same = np.zeros(len(source))
    for step in range(1, classes):
        ours = np.sign(source[:, step:] - source[:, :-step])
        theirs = np.sign(variant[:, step:] - variant[:, :-step])
        same += (ours == theirs).sum(axis=-1)
    return np.asarray(same / (classes * (classes - 1) / 2))


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
