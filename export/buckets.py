"""Buckets of lengths: where they end so that padding texts to the ends is the least work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from albert_deploy.export.text_lengths import Counts, Lengths


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """Sequences that are padded to one length.

    Attributes:
        first: Fewest tokens.
        padded: Tokens that each is padded to: the optimum of its profiles.
        maximum: Most tokens of its profiles; only the last bucket's is above ``padded``.
        sequences: How many of the data are in it.
        real_tokens: Their tokens without padding.
    """

    first: int
    padded: int
    maximum: int
    sequences: int
    real_tokens: int

    @property
    def padded_tokens(self) -> int:
        """Their tokens with padding."""
        return self.sequences * self.padded

    def to_json(self) -> dict[str, int]:
        """Return the form that records hold."""
        return {
            "first_tokens": self.first,
            "padded_to_tokens": self.padded,
            "maximum_tokens": self.maximum,
            "sequences": self.sequences,
            "real_tokens": self.real_tokens,
            "padded_tokens": self.padded_tokens,
        }


def best_edges(
    counts: Counts, most: int, *, multiple: int = 1, quadratic: float = 0.0
) -> tuple[int, ...]:
    """Return where buckets end so that padding each sequence to its bucket's end is least work.

    With N(a, b] sequences of more than a and up to b tokens and the work w(n) = n + q n^2 of a
    sequence of n, the least work of j buckets that end at e is::

        W(j, e) = min over d < e of W(j - 1, d) + N(d, e] w(e)

    An end between two lengths that occur can be lowered to the lower one at no cost, so that
    only lengths of the data, rounded up, are tried: of D such, O(most D^2) steps find the best.

    Args:
        counts: Sequences of n tokens, int64 [max_length + 1].
        most: Most buckets; fewer where more do not help.
        multiple: Ends are rounded up to multiples of this, but never above ``max_length``.
        quadratic: q, per token. Of the matrix products of a layer with hidden size H and
            intermediate size I, a token takes 4 H^2 + 2 H I multiplications and 2 H n with the
            n tokens of its sequence: q = 1 / (2 H + I). 0 counts tokens alone.
    """
    limit = len(counts) - 1
    known = np.flatnonzero(counts)
    rounded = np.minimum(-(-known // multiple) * multiple, limit)
    ends = np.unique(rounded)
    sums = np.array([0, *np.cumsum([counts[known[rounded == end]].sum() for end in ends])])
    work = ends + quadratic * ends.astype(np.float64) ** 2
    best = np.append(0.0, np.full(len(ends), np.inf))
    chosen: list[Counts] = []
    while len(chosen) < most:
        before, best = best, best.copy()
        origin = np.arange(-1, len(ends))
        for i in range(1, len(ends) + 1):
            costs = before[:i] + (sums[i] - sums[:i]) * work[i - 1]
            origin[i] = np.argmin(costs)
            best[i] = costs[origin[i]]
        if chosen and best[-1] >= before[-1]:
            break
        chosen.append(origin)
    edges, at = [], len(ends)
    for origin in reversed(chosen):
        edges.append(int(ends[at - 1]))
        at = int(origin[at])
    return tuple(reversed(edges))


def buckets_between(lengths: Lengths, edges: Sequence[int]) -> tuple[Bucket, ...]:
    """Return the buckets that end at ``edges``; the last one goes on to what the model takes."""
    starts = (0, *edges[:-1])
    return tuple(
        Bucket(
            first=start + 1,
            padded=edge,
            maximum=lengths.max_length if edge == edges[-1] else edge,
            sequences=int(lengths.counts[start + 1 : edge + 1].sum()),
            real_tokens=int(lengths.real[start + 1 : edge + 1].sum()),
        )
        for start, edge in zip(starts, edges, strict=True)
    )
