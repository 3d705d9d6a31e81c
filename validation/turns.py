"""Load and time several sessions in turns, so that all of them meet the same machine."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from tqdm import tqdm

from albert_deploy.runtime.session import Feeds, Session
from albert_deploy.validation.contenders import Contender

# Rounds that are run even where the time is up, so that a median means something.
LEAST_ROUNDS = 3

_Clock = Callable[[], float]
_T = TypeVar("_T")


def load_in_turns(
    found: Sequence[Contender],
    rounds: int,
    stack: contextlib.ExitStack,
    *,
    clock: _Clock = time.perf_counter,
) -> tuple[dict[str, Session], dict[str, list[float]]]:
    """Load every contender once per round; the sessions of the last round stay open.

    A first round is not counted: it imports the engines and brings the files into memory. What
    takes too long to load again, and was timed when it was made, is opened in the last alone.

    Args:
        found: Contenders.
        rounds: Timed rounds.
        stack: Closes the sessions that are returned.
        clock: Seconds.

    Returns:
        Sessions, and the load times in ms, both by contender.
    """
    times: dict[str, list[float]] = {c.name: [] for c in found}
    sessions: dict[str, Session] = {}
    for number in range(rounds + 1):
        for contender in rotated(found, number):
            if contender.load_ms is not None:
                if number == rounds:
                    times[contender.name] = [contender.load_ms]
                    sessions[contender.name] = stack.enter_context(contender.open())
                continue
            start = clock()
            session = contender.open()
            elapsed = clock() - start
            if number:
                times[contender.name].append(_ms(elapsed))
            if number == rounds:
                sessions[contender.name] = stack.enter_context(session)
            else:
                session.close()
    return {c.name: sessions[c.name] for c in found}, times


def time_in_turns(
    sessions: Mapping[str, Session],
    columns: Mapping[str, Sequence[Feeds]],
    *,
    repeats: int,
    warmup: int,
    seconds: float,
    clock: _Clock = time.perf_counter,
) -> dict[str, dict[str, list[float]]]:
    """Time every session once per round and column, each round starting with the next one.

    Before each timed run the session runs the first row of the column untimed: the others have
    just pushed its weights out of the processor's caches, where they are when a model is alone,
    and an engine may prepare itself for another shape (OpenVINO does, for some milliseconds).

    Args:
        sessions: Sessions by contender.
        columns: Rows of each column; a time is the mean over them.
        repeats: Timed rounds.
        warmup: Untimed rounds before them.
        seconds: No new round starts after this time, but ``LEAST_ROUNDS`` are always run.
        clock: Seconds.

    Returns:
        Times in ms, [rounds], by contender and column.
    """
    names = list(sessions)
    times: dict[str, dict[str, list[float]]] = {n: {c: [] for c in columns} for n in names}
    begin = clock()
    rounds = warmup + repeats
    total = rounds * len(columns) * len(names)
    with tqdm(total=total, desc="bench", unit="run", disable=None) as bar:
        for number in range(rounds):
            timed = number - warmup
            if timed >= LEAST_ROUNDS and clock() - begin > seconds:
                break
            for column, rows in columns.items():
                for name in rotated(names, number):
                    run = sessions[name].run
                    run(rows[0])
                    start = clock()
                    for feeds in rows:
                        run(feeds)
                    elapsed = (clock() - start) / len(rows)
                    if timed >= 0:
                        times[name][column].append(_ms(elapsed))
                    bar.update()
    return times


def rotated(items: Sequence[_T], by: int) -> list[_T]:
    """Return the items in order, starting with number ``by`` (counted round and round)."""
    first = by % len(items)
    return [*items[first:], *items[:first]]


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let PyTorch use ``count`` threads inside one operator for the length of the block."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 4)
