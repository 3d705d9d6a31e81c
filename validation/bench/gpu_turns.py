"""Run contenders on one device in turns, shape by shape; one that fails is a row with its reason.

Nothing here knows of a GPU: a ``Device`` tells the memory in use and the time, a ``Runner`` runs.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from albert_deploy.runtime.errors import AlbertDeployError
from albert_deploy.runtime.session import Feeds
from albert_deploy.validation.bench.interleave import LEAST_ROUNDS, rotated

Logits = npt.NDArray[np.float32]
Run = Callable[[], Logits]
Cell = dict[str, Any]

# A percentile is told only where at least one run lies beyond it.
PERCENTILES = {50: 1, 90: 10, 99: 100}
# A turn of quick runs is several of them; one of slow runs is a single one.
_TURN_SECONDS = 0.1
_LONGEST_REASON = 300


class Runner(Protocol):
    """A loaded contender.

    Attributes:
        device_ms: Of the last run, the model alone without the copies; None where not known.
    """

    device_ms: float | None

    def prepare(self, feeds: Feeds) -> Run:
        """Return what runs these feeds once: from arrays of the host to logits on the host."""
        ...

    def close(self) -> None:
        """Free the model."""
        ...


@dataclass(frozen=True, kw_only=True)
class Entrant:
    """One way to run the model on a GPU.

    Args:
        name: Key in the report, ``PRECISION@ENGINE``.
        label: Name for people.
        engine: Who runs it.
        data_type: Of its linear layers: a key of the measured peaks.
        open: Loads it, building what it needs.
    """

    name: str
    label: str
    engine: str
    data_type: str
    open: Callable[[], Runner]


def _nothing() -> None:
    return None


@dataclass(frozen=True, kw_only=True)
class Device:
    """What is asked of the device that all run on.

    Args:
        used_bytes: Memory in use on it, by whomever; None where it cannot be told.
        release: Gives memory back that is cached and that no run holds.
        clock: Seconds.
    """

    used_bytes: Callable[[], int | None] = _nothing
    release: Callable[[], None] = _nothing
    clock: Callable[[], float] = time.perf_counter


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How often a shape is run.

    Args:
        rounds: Most rounds.
        turn: Most timed runs of a contender in each round.
        warmup: Untimed runs of each contender before the first round.
        seconds: No new round starts after this time, but ``turns.LEAST_ROUNDS`` are always run.
    """

    rounds: int = 40
    turn: int = 5
    warmup: int = 2
    seconds: float = 15.0


@dataclass(kw_only=True)
class _Times:
    """Times of one contender at one shape, in ms."""

    whole: list[float] = field(default_factory=list)
    device: list[float] = field(default_factory=list)


def open_runner(entrant: Entrant, device: Device) -> tuple[Runner | None, dict[str, Any]]:
    """Open a contender.

    Returns:
        The runner and its record: ``open_ms``, ``open_bytes`` of device memory and ``error``,
        the reason why there is no runner.
    """
    before, start = device.used_bytes(), device.clock()
    runner = None
    error = None
    try:
        runner = entrant.open()
    # Engines raise whatever they meet; a contender that cannot run is a result.
    except Exception as failure:
        error = reason(failure)
        device.release()
    took = _ms(device.clock() - start)
    grown = _difference(device.used_bytes(), before)
    return runner, {"open_ms": took, "open_bytes": grown, "error": error}


def close_runner(runner: Runner) -> None:
    """Close a contender, whatever it says: its figures are there already."""
    # After an error of the device, freeing fails too.
    with contextlib.suppress(Exception):
        runner.close()


def prepare_cell(
    runner: Runner, feeds: Feeds, pace: Pace, device: Device
) -> tuple[Run | None, Cell, Logits | None]:
    """Make a contender ready for a shape: its first run and the warm-up, which are not timed.

    Returns:
        What to run (None where it failed), the cell (``error``, ``first_run_ms``,
        ``shape_bytes``: how much device memory these runs took, and ``kept_bytes``: how much of
        it stays with the contender) and the logits.
    """
    device.release()
    before = device.used_bytes()
    cell: Cell = {"error": None, "first_run_ms": None, "shape_bytes": None, "kept_bytes": None}
    try:
        run = runner.prepare(feeds)
        start = device.clock()
        logits = run()
        cell["first_run_ms"] = _ms(device.clock() - start)
        for _ in range(pace.warmup):
            logits = run()
    except Exception as failure:
        cell["error"] = reason(failure)
        device.release()
        return None, cell, None
    # Read before others come: what a framework caches here belongs to these runs.
    cell["shape_bytes"] = _difference(device.used_bytes(), before)
    device.release()
    cell["kept_bytes"] = _difference(device.used_bytes(), before)
    if not np.isfinite(logits).all():
        cell["error"] = "it answers NaN or infinity"
        return None, cell, None
    return run, cell, logits


def time_cells(
    runs: Mapping[str, Run],
    runners: Mapping[str, Runner],
    pace: Pace,
    device: Device,
    *,
    done: Callable[[], object] = _nothing,
) -> dict[str, Cell]:
    """Time the contenders of one shape, each round starting with the next one.

    Before its timed runs a contender runs once untimed: the others have just pushed its weights
    out of the caches, where they are when a model is alone.

    Args:
        runs: What ``prepare_cell`` gave, by contender.
        runners: Their runners.
        pace: How often.
        device: The clock.
        done: Called after each turn.

    Returns:
        By contender, percentiles in ms (see ``statistics_of``) and ``error``: a contender that
        fails on the way has no times and does not go on.
    """
    times = {name: _Times() for name in runs}
    failed: dict[str, str] = {}
    begin = device.clock()
    for number in range(pace.rounds):
        left = [name for name in runs if name not in failed]
        late = device.clock() - begin > pace.seconds
        if not left or (late and number >= min(LEAST_ROUNDS, pace.rounds)):
            break
        for name in rotated(left, number):
            try:
                _turn(runs[name], runners[name], times[name], pace, device)
            except Exception as failure:
                failed[name] = reason(failure)
                device.release()
            done()
    return {
        name: {"error": failed[name]} if name in failed else {"error": None} | statistics_of(t)
        for name, t in times.items()
    }


def _turn(run: Run, runner: Runner, times: _Times, pace: Pace, device: Device) -> None:
    # Of a run this slow, cold caches are a small part.
    if not times.whole or times.whole[-1] < 1e3 * _TURN_SECONDS:
        run()
    begin = device.clock()
    for _ in range(pace.turn):
        start = device.clock()
        run()
        end = device.clock()
        times.whole.append(_ms(end - start))
        if runner.device_ms is not None:
            times.device.append(runner.device_ms)
        if end - begin > _TURN_SECONDS:
            break


def statistics_of(times: _Times) -> Cell:
    """Return ``runs`` and in ms ``min``, ``mean``, ``p50``, ``p90``, ``p99`` and ``device_p50``.

    A percentile is None where there are too few runs for one to lie beyond it.
    """
    whole = times.whole
    percentiles = {
        f"p{p}_ms": round(float(np.percentile(whole, p)), 4) if len(whole) >= least else None
        for p, least in PERCENTILES.items()
    }
    return {
        "runs": len(whole),
        "min_ms": min(whole),
        "mean_ms": round(float(np.mean(whole)), 4),
        **percentiles,
        "device_p50_ms": round(float(np.median(times.device)), 4) if times.device else None,
    }


def relative_error(found: Logits, wanted: Logits) -> float:
    """Return ``|found - wanted| / |wanted|`` in the Euclidean norm, over a whole batch."""
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def reason(failure: Exception) -> str:
    """Return one line about why a contender failed."""
    lines: Sequence[str] = str(failure).strip().splitlines() or [""]
    text = " ".join(lines) if isinstance(failure, AlbertDeployError) else lines[0]
    if not isinstance(failure, AlbertDeployError):
        text = f"{type(failure).__name__}: {text}"
    return text if len(text) <= _LONGEST_REASON else text[: _LONGEST_REASON - 1] + "…"


def _difference(after: int | None, before: int | None) -> int | None:
    return None if after is None or before is None else after - before


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 4)
