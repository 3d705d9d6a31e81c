"""Rows of one shape in one run, so that a batch has no padding at all."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.session import Feeds
from albert_deploy.validation.data.rows import Row
from albert_deploy.validation.evaluate.timeout import TimedSession

Outputs = dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """How rows are put together.

    Rows of a batch have the same number of tokens, so that none is padded: a real engine's
    answer to a padded row differs by rounding, and padding is work for nothing.

    Args:
        rows: Most rows of a run.
        tokens: Most tokens of a run of more than one row; longer rows fill the processor alone,
            and the logits of a vocabulary have to fit into memory.
        pool: Rows that are sorted by length at a time.
        alone: Variants whose rows run one by one. A dynamically quantized graph takes one range
            of the activations of a whole batch, so that the rows of a batch would change each
            other's answers.

    Raises:
        InputError: A value is below 1.
    """

    rows: int = 8
    tokens: int = 1024
    pool: int = 1024
    alone: tuple[str, ...] = ("int8",)

    def __post_init__(self) -> None:
        if min(self.rows, self.tokens, self.pool) < 1:
            raise InputError(
                f"a batch has {self.rows} rows, {self.tokens} tokens and a pool of {self.pool}; "
                "use at least 1 of each"
            )

    def most(self, name: str, feeds: Feeds) -> int:
        """Return how many inputs of the shape of ``feeds`` a model runs at once."""
        if name in self.alone:
            return 1
        return max(1, min(self.rows, self.tokens // max(feeds["input_ids"].size, 1)))


Group = list[tuple[int, Row]]


def groups(rows: Iterable[Row], config: BatchConfig) -> Iterator[Group]:
    """Put rows of equal shape together, sorted by length inside of a bounded pool.

    What a row is grouped with depends on the rows and the configuration alone, so that a run
    that goes on later makes the same groups.

    Args:
        rows: Result of ``rows.encode_rows``.
        config: Options.

    Yields:
        Rows with their numbers, from 0 in the order of the data.
    """
    numbered = enumerate(rows)
    while pool := list(itertools.islice(numbered, config.pool)):
        # Python's sort is stable: equal shapes stay in the order of the data.
        pool.sort(key=_shapes)
        for _, alike in itertools.groupby(pool, _shapes):
            same = list(alike)
            count = config.most("", same[0][1].feeds[0])
            for start in range(0, len(same), count):
                yield same[start : start + count]


def run_feeds(
    session: TimedSession, feeds: Sequence[Feeds], most: int, ids: Sequence[str]
) -> list[Outputs]:
    """Run inputs of batch 1, those of equal shape together.

    Args:
        session: The model.
        feeds: Inputs, each int64 [1, ...].
        most: Most inputs of a run.
        ids: Of which row each input is, for errors.

    Returns:
        For each input its outputs, each float32 [1, ...].

    Raises:
        AlbertDeployError: See ``TimedSession.run``.
    """
    found: dict[int, Outputs] = {}
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for index, one in enumerate(feeds):
        by_shape.setdefault(one["input_ids"].shape, []).append(index)
    for same in by_shape.values():
        for start in range(0, len(same), most):
            chosen = same[start : start + most]
            rows = list(dict.fromkeys(ids[i] for i in chosen))
            where = f"row{'s' if len(rows) > 1 else ''} {', '.join(rows)}"
            outputs = session.run(_joined([feeds[i] for i in chosen]), where)
            for place, index in enumerate(chosen):
                found[index] = {n: v[place : place + 1] for n, v in outputs.items()}
    return [found[index] for index in range(len(feeds))]


def _joined(feeds: Sequence[Feeds]) -> Mapping[str, npt.NDArray[np.int64]]:
    if len(feeds) == 1:
        return feeds[0]
    return {name: np.concatenate([one[name] for one in feeds]) for name in feeds[0]}


def _shapes(numbered: tuple[int, Row]) -> tuple[tuple[int, ...], ...]:
    return tuple(feeds["input_ids"].shape for feeds in numbered[1].feeds)
