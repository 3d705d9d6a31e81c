"""Profiles from real lengths: the buckets that pad a data set's texts the least."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from albert_deploy.runtime.errors import InputError, check_known
from albert_deploy.runtime.trt.profiles import Profile

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """A histogram of what one run of a model has on its sequence axis.

    A question with a long context counts once for each window. The choices of a question stand
    in one run, so that each of them is as long as the longest.

    Args:
        counts: Sequences of n tokens, int64 [max_length + 1].
        real: Tokens in them that are not padding, int64 [max_length + 1].
        choices: How many rows have how many choices; empty for tasks without.
        origin: Where they come from: name, file, split, rows and the like.

    Raises:
        InputError: There is no sequence.
    """

    counts: Counts
    real: Counts
    choices: Mapping[int, int] = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.counts[1:].any():
            raise InputError("got no texts to choose profiles from; give a data set that has some")

    @property
    def max_length(self) -> int:
        """Most tokens that the model takes."""
        return len(self.counts) - 1

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return int(np.flatnonzero(self.counts)[-1])

    @property
    def sequences(self) -> int:
        """Number of sequences."""
        return int(self.counts.sum())

    @property
    def real_tokens(self) -> int:
        """Tokens that are not padding."""
        return int(self.real.sum())


def lengths_from(
    counts: Mapping[int, int], max_length: int, origin: Mapping[str, Any] | None = None
) -> Lengths:
    """Make a histogram from numbers known from elsewhere, such as a service's log.

    Args:
        counts: Tokens -> sequences of that length.
        max_length: Most tokens that the model takes.
        origin: Where the numbers come from.

    Raises:
        InputError: There is none, or one is out of range.
    """
    array = np.zeros(max_length + 1, np.int64)
    for length, count in counts.items():
        if not 1 <= length <= max_length or count < 0:
            raise InputError(
                f"got {count} sequences of {length} tokens; wanted none or more, of 1 to "
                f"{max_length} tokens"
            )
        array[length] += count
    return Lengths(counts=array, real=array * np.arange(max_length + 1), origin=origin or {})


Work = Literal["tokens", "operations"]
Rows = tuple[int, int, int]
# Above what TensorRT-RTX 1.7 takes however few the tokens: 8 MiB, the position table, and more.
_BASE_BYTES = 16 << 20


@dataclass(frozen=True, kw_only=True)
class AutoConfig:
    """What ``auto_profiles`` may choose.

    Lengths are known from data; how many rows come together is not, so that it is given.

    Args:
        most: Most profiles. Each takes building time and space in the plan for its kernels, not
            for weights.
        batches: Least, best and largest number of rows, or several such that follow on each
            other (``(1, 1, 1), (2, 16, 32)``: kernels of their own for single rows); each has
            every bucket of lengths, and ``most`` counts all.
        multiple: Buckets end at multiples of this: products of half precision want rows of 16
            bytes.
        work: What padding costs: ``tokens``, or ``operations`` of the matrix products.
        memory_bytes: Activations of any run stay below it by the estimate ``activation_bytes``,
            for which the largest number of rows is lowered; None for no bound.
        run_tokens: Tokens that a run should have to fill the processor: the best number of rows
            is then this over the bucket's length, inside of the range; None keeps it as given.
        element_bytes: Of an activation: 2, or 4 for float32.

    Raises:
        InputError: A value is out of range, or ranges of rows overlap.
    """

    most: int = 4
    batches: tuple[Rows, ...] = ((1, 8, 32),)
    multiple: int = 8
    work: Work = "tokens"
    memory_bytes: int | None = None
    run_tokens: int | None = None
    element_bytes: int = 2

    def __post_init__(self) -> None:
        check_known(self.work, get_args(Work), "work")
        given = (self.most, self.multiple, self.memory_bytes, self.run_tokens)
        if any(n is not None and n < 1 for n in given) or self.element_bytes not in (2, 4):
            raise InputError(f"got {self}; wanted numbers of at least 1 and elements of 2 or 4")
        before = 0
        for least, best, most in self.batches:
            if not before < least <= best <= most:
                raise InputError(
                    f"got rows {self.batches}; wanted least <= best <= largest, from 1 on, and "
                    "each range above the one before it"
                )
            before = most
        if not 1 <= len(self.batches) <= self.most:
            raise InputError(
                f"got {len(self.batches)} ranges of rows for {self.most} profiles; give each one "
                "at least"
            )


@dataclass(frozen=True, kw_only=True)
class ProfilePlan:
    """Profiles and what they cost on the lengths that they were chosen from.

    Attributes:
        profiles: By rows, then by length; those of neighbouring buckets do not overlap.
        buckets: From short to long.
        lengths: The histogram.
        ratios: Padded over real tokens of the best 1, 2, ... buckets, up to those chosen.
    """

    profiles: tuple[Profile, ...]
    buckets: tuple[Bucket, ...]
    lengths: Lengths = field(repr=False)
    ratios: tuple[float, ...] = ()

    @property
    def padded_tokens(self) -> int:
        """Tokens of all sequences, each padded to its bucket."""
        return sum(bucket.padded_tokens for bucket in self.buckets)

    @property
    def ratio(self) -> float:
        """Padded over real tokens: 1 is no padding at all."""
        return self.padded_tokens / self.lengths.real_tokens

    def ratio_at(self, length: int) -> float:
        """Return padded over real tokens where every sequence is padded to one length."""
        return self.lengths.sequences * length / self.lengths.real_tokens

    def to_json(self) -> dict[str, Any]:
        """Return the form that records hold."""
        known = self.lengths
        return {
            "dataset": dict(known.origin),
            "sequences": known.sequences,
            "longest_tokens": known.longest,
            "real_tokens": known.real_tokens,
            "padded_tokens": self.padded_tokens,
            "padded_ratio": self.ratio,
            "one_profile_ratio": {
                str(length): self.ratio_at(length)
                for length in sorted({known.longest, known.max_length})
            },
            "buckets": [bucket.to_json() for bucket in self.buckets],
        }


def auto_profiles(
    lengths: Lengths, model: Mapping[str, Any], config: AutoConfig | None = None
) -> ProfilePlan:
    """Choose profiles that make the padding of known lengths as little work as possible.

    An engine runs the shape that it is given, so that padding is what rows of a batch, or of a
    captured graph, need to be equally long. Counted is the most of it: every sequence is padded
    to the end of its bucket. Rows of equal or nearly equal length together need less.

    The last bucket goes on to what the model takes, since longer texts than the data has still
    have to be served; its optimum, to which its sequences are padded, is where the data ends.

    Args:
        lengths: Of a data set, see ``validation.data.lengths.lengths_of``.
        model: The model's ``config.json``: the manifest's ``source.config``.
        config: Options.

    Raises:
        InputError: The memory does not hold the fewest rows of a range.
    """
    config = config or AutoConfig()
    quadratic = 0.0
    if config.work == "operations":
        quadratic = 1 / (2 * int(model["hidden_size"]) + int(model["intermediate_size"]))
    ways = [
        best_edges(lengths.counts, most, multiple=config.multiple, quadratic=quadratic)
        for most in range(1, config.most // len(config.batches) + 1)
    ]
    plans = [buckets_between(lengths, edges) for edges in ways]
    buckets = plans[-1]
    ratios = [sum(b.padded_tokens for b in plan) / lengths.real_tokens for plan in plans]
    return ProfilePlan(
        profiles=tuple(
            _profile(bucket, rows, lengths, model, config)
            for rows in config.batches
            for bucket in buckets
        ),
        buckets=buckets,
        lengths=lengths,
        ratios=tuple(ratios[: len(buckets)]),
    )


def activation_bytes(
    shape: Sequence[int], model: Mapping[str, Any], *, element_bytes: int = 2
) -> int:
    """Estimate what a run's activations take, in bytes: more than TensorRT-RTX 1.7 has asked for.

    With I, H and n for intermediate size, hidden size and sequence, a token takes the larger of
    ``2 I + 4 H`` elements in the feed-forward part, and ``8 H + 2 heads n`` in the attention: its
    scores before and after the softmax. Only float32's are counted: where attention is fused there
    are none, and for float32 there are no fused kernels.

    Args:
        shape: (rows, sequence) or (rows, choices, sequence).
        model: The model's ``config.json``.
        element_bytes: 2, or 4 for float32.
    """
    hidden = int(model["hidden_size"])
    scores = 2 * int(model["num_attention_heads"]) * shape[-1] if element_bytes == 4 else 0
    elements = max(2 * int(model["intermediate_size"]) + 4 * hidden, 8 * hidden + scores)
    return _BASE_BYTES + element_bytes * elements * int(np.prod(shape))


def _profile(
    bucket: Bucket, rows: Rows, lengths: Lengths, model: Mapping[str, Any], config: AutoConfig
) -> Profile:
    """Return the profile of a bucket; its largest number of rows is what the memory holds."""
    least, best, most = rows
    usual = max(lengths.choices, key=lambda n: lengths.choices[n], default=0)
    middle: list[tuple[int, ...]] = [()] * 3
    if usual:
        middle = [(1,), (usual,), (max(lengths.choices),)]
    if config.memory_bytes is not None:
        one, two = (
            activation_bytes(
                (n, *middle[2], bucket.maximum), model, element_bytes=config.element_bytes
            )
            for n in (1, 2)
        )
        most = min(most, 1 + (config.memory_bytes - one) // (two - one))
        if most < least:
            raise InputError(
                f"{config.memory_bytes:,} bytes hold {max(most, 0)} rows of "
                f"{bucket.maximum} tokens, wanted at least {least}; give more memory or fewer rows"
            )
    if config.run_tokens is not None:
        best = config.run_tokens // bucket.padded
    return Profile(
        minimum=(least, *middle[0], bucket.first),
        optimum=(min(max(best, least), most), *middle[1], bucket.padded),
        maximum=(most, *middle[2], bucket.maximum),
    )


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
