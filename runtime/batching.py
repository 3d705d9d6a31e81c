"""Length-aware batching: texts are read a bounded way ahead and answered in their order.

Always in the next batch is the row that waits the longest, beside those nearest to it in length,
as far as a common run costs less than several. So answers come in order, little is padded, and no
text waits for ever. Nothing is read while nobody takes answers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from albert_deploy.runtime.errors import ContractError
from albert_deploy.runtime.session import Feeds, Outputs
from albert_deploy.runtime.tasks.head import Encoded
from albert_deploy.runtime.tasks.tokenize import stack

# Batches whose rows are looked at for neighbours in length.
_BATCHES_AHEAD = 16


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """How much is read and run at once.

    Args:
        batch_size: Most rows of a batch; with 1 no text is read before the one before it is
            answered.
        tokens: Most tokens of a batch of more than one row, padding included.
        pad_id: Token id of the padding.
        run_tokens: What a run costs beside its tokens, as so many of them: rows share one as far
            as their padding costs less. None where a run costs the same whatever is in it.
    """

    batch_size: int
    tokens: int
    pad_id: int
    run_tokens: int | None = None

    @property
    def ahead(self) -> int:
        """Most inputs that are read and not yet answered."""
        return 1 if self.batch_size == 1 else self.batch_size * _BATCHES_AHEAD


@dataclass(kw_only=True)
class _Pending:
    """An input that was read: what is kept of its rows so far."""

    encoded: Encoded
    kept: dict[int, Outputs] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        return len(self.kept) == len(self.encoded.rows)

    def answer(self) -> Any:
        return self.encoded.answer([self.kept[i] for i in range(len(self.kept))])


@dataclass(frozen=True, kw_only=True)
class _Row:
    owner: _Pending
    index: int

    @property
    def feeds(self) -> Feeds:
        return self.owner.encoded.rows[self.index]

    @property
    def shape(self) -> tuple[int, int]:
        """Choices (1 for most tasks) and tokens."""
        rows, tokens = self.feeds["input_ids"].shape
        return rows, tokens


def answers(
    inputs: Iterable[Encoded], run: Callable[[Feeds, int], Outputs], config: StreamConfig
) -> Iterator[Any]:
    """Answer inputs in their order, in batches of rows of about the same length.

    Args:
        inputs: Read on demand, at most ``config.ahead`` beyond the last one answered. Where it
            raises, what was read before is answered, and then the error is raised.
        run: Runs rows [rows, sequence], of so many choices each: ``run(feeds, choices)``. The
            outputs have one entry for each row, or for each question of a multiple choice.
        config: Limits.

    Raises:
        ContractError: Outputs are NaN or infinite.
    """
    source = iter(inputs)
    waiting: deque[_Pending] = deque()
    pending: list[_Row] = []
    ended, failure = False, None
    while True:
        while not ended and len(waiting) < config.ahead and len(pending) < config.ahead:
            try:
                one = _Pending(encoded=next(source))
            except StopIteration:
                ended = True
            except Exception as error:  # raised again in its place
                ended, failure = True, error
            else:
                waiting.append(one)
                pending += [_Row(owner=one, index=i) for i in range(len(one.encoded.rows))]
        if not waiting:
            if failure is not None:
                raise failure
            return
        if waiting[0].done:
            yield waiting.popleft().answer()
            continue
        chosen = _batch(pending, config)
        taken = {id(row) for row in chosen}
        pending = [row for row in pending if id(row) not in taken]
        _run(chosen, run, config)


def _batch(pending: list[_Row], config: StreamConfig) -> list[_Row]:
    """Return the row that waits the longest and those nearest to it in length."""
    choices, length = pending[0].shape
    alike = [row for row in pending if row.shape[0] == choices]
    alike.sort(key=lambda row: abs(row.shape[1] - length))
    chosen: list[_Row] = []
    longest = 0
    for row in alike[: config.batch_size]:
        longest = max(longest, row.shape[1])
        if chosen and (len(chosen) + 1) * choices * longest > config.tokens:
            break
        chosen.append(row)
    if config.run_tokens is None:
        return chosen
    lengths = [row.shape[1] for row in chosen]
    groups = cheapest_groups(lengths, max(1, config.run_tokens // choices))
    return [chosen[place] for place in next(group for group in groups if 0 in group)]


def cheapest_groups(lengths: Sequence[int], run_tokens: int) -> list[list[int]]:
    """Divide rows into runs at the least cost, each padded to its longest row.

    A run of n rows costs ``run_tokens + n * longest``. Some best division keeps rows together
    that are neighbours in length, so that it is found exactly by dynamic programming over them.

    Args:
        lengths: Tokens of each row.
        run_tokens: What a run costs by itself, in tokens.

    Returns:
        Groups of places in ``lengths``.
    """
    order = sorted(range(len(lengths)), key=lambda place: lengths[place])
    least, start = [0], [0]
    for end, place in enumerate(order, 1):
        costs = [least[i] + (end - i) * lengths[place] for i in range(end)]
        best = min(range(end), key=costs.__getitem__)
        least.append(costs[best] + run_tokens)
        start.append(best)
    groups, end = [], len(order)
    while end:
        groups.append(order[start[end] : end])
        end = start[end]
    return groups


def _run(chosen: list[_Row], run: Callable[[Feeds, int], Outputs], config: StreamConfig) -> None:
    outputs = run(stack([row.feeds for row in chosen], config.pad_id), chosen[0].shape[0])
    for place, row in enumerate(chosen):
        mine = {name: value[place] for name, value in outputs.items()}
        row.owner.kept[row.index] = kept_outputs(row.owner.encoded, mine, row.feeds)


def kept_outputs(encoded: Encoded, outputs: Outputs, feeds: Feeds) -> Outputs:
    """Return what is kept of a row's outputs.

    Raises:
        ContractError: Some of it is NaN or infinite.
    """
    kept = encoded.keep(outputs, feeds)
    for name, value in kept.items():
        if not np.isfinite(value).all():
            raise ContractError(
                f"{name} is NaN or infinite; use another variant of the model and validate this one"
            )
    return kept
