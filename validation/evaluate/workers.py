"""Groups of rows through every model, in this process or in several."""

from __future__ import annotations

import collections
import contextlib
import itertools
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from albert_deploy.runtime.errors import AlbertDeployError, MachineError
from albert_deploy.runtime.session import Session
from albert_deploy.validation.evaluate.batches import BatchConfig, Group, Outputs, run_feeds
from albert_deploy.validation.evaluate.predictions import compared
from albert_deploy.validation.evaluate.timeout import TimedSession, open_timed, watch

SOURCE = "source"

Openers = Mapping[str, Callable[[], Session]]


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """How groups are run.

    Attributes:
        batch: How many rows at once.
        timeout_s: Longest time of one run; None for no limit.
        vocabulary: Result of ``predictions.vocabulary_outputs``.
        labelled: Whether the rows are those of a data set.
    """

    batch: BatchConfig
    timeout_s: float | None
    vocabulary: tuple[str, ...]
    labelled: bool


@dataclass(kw_only=True)
class GroupOutputs:
    """What the models gave for a group.

    Attributes:
        outputs: By model, for each row of the group the outputs of each of its runs, as
            ``predictions.compared`` returns them.
        failures: By variant why it cannot be run.
    """

    outputs: dict[str, list[list[Outputs]]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def run_here(
    sessions: Mapping[str, Session], groups: Iterable[Group], how: RunConfig
) -> Iterator[tuple[Group, GroupOutputs]]:
    """Run groups one after the other in this process.

    A variant that fails is left out from then on.

    Args:
        sessions: ``source`` and the variants.
        groups: Rows of equal shape.
        how: Options.

    Raises:
        AlbertDeployError: The source fails.
    """
    watched = {name: watch(session, name, how.timeout_s) for name, session in sessions.items()}
    failures: dict[str, str] = {}
    for group in groups:
        yield group, _run(watched, failures, group, how)


def run_in_workers(
    openers: Openers, groups: Iterable[Group], how: RunConfig, *, workers: int
) -> Iterator[tuple[Group, GroupOutputs]]:
    """Run groups in processes of their own, each with all of the models; in the groups' order.

    Args:
        openers: What opens each model; they are sent to the processes, so that they have to be
            picklable. Cores are best shared out: ``threads`` of each session = cores / workers;
            PyTorch's are.
        groups: Rows of equal shape.
        how: Options.
        workers: Number of processes.

    Raises:
        AlbertDeployError: The source cannot be opened, or fails.
        MachineError: A process died.
    """
    from concurrent.futures import Future, ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    waiting: collections.deque[tuple[Group, Future[GroupOutputs]]] = collections.deque()
    # Not forked: engines have threads, which a fork would not copy.
    with ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), _begin, (dict(openers), how, workers)
    ) as pool:
        remaining = iter(groups)
        try:
            while True:
                # Enough that no process waits, and not all of the data at once.
                for group in itertools.islice(remaining, 4 * workers - len(waiting)):
                    light = [(number, replace(row, windows=None)) for number, row in group]
                    waiting.append((group, pool.submit(_work, light)))
                if not waiting:
                    return
                group, future = waiting.popleft()
                yield group, future.result()
        except BrokenProcessPool as error:
            raise MachineError(
                f"one of {workers} worker processes died, of too little memory most often; "
                "use fewer workers"
            ) from error
        finally:
            for _, future in waiting:
                future.cancel()


def _run(
    sessions: Mapping[str, TimedSession], failures: dict[str, str], group: Group, how: RunConfig
) -> GroupOutputs:
    given = GroupOutputs()
    flat = [feeds for _, row in group for feeds in row.feeds]
    ids = [row.id for _, row in group for _ in row.feeds]
    for name, session in sessions.items():
        if name in failures:
            continue
        try:
            outputs = iter(run_feeds(session, flat, how.batch.most(name, flat[0]), ids))
        except AlbertDeployError as error:
            if name == SOURCE:
                raise
            failures[name] = str(error)
            continue
        given.outputs[name] = [
            [compared(row, next(outputs), how.vocabulary, labelled=how.labelled) for _ in row.feeds]
            for _, row in group
        ]
    given.failures = dict(failures)
    return given


# What a worker process holds between its groups.
_held: dict[str, Any] = {}


def _begin(openers: Openers, how: RunConfig, workers: int) -> None:
    # PyTorch reads it when it is loaded, which is when the source is opened.
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // workers))
    _held.update(openers=openers, how=how)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _follow(parent: Any) -> None:
    """End this process with the one that started it, which may be killed."""
    parent.join()
    os._exit(1)


def _work(group: Group) -> GroupOutputs:
    how: RunConfig = _held["how"]
    if "sessions" not in _held:
        # Not where the process begins: an error there would lose its message.
        stack = contextlib.ExitStack()
        sessions, failures = open_timed(
            _held["openers"], stack, required=SOURCE, timeout_s=how.timeout_s
        )
        watched = {name: watch(session, name) for name, session in sessions.items()}
        _held.update(stack=stack, sessions=watched, failures=failures)
    return _run(_held["sessions"], _held["failures"], group, how)
